"""Packaging: commands in the guides, wheel contents, extras, version pins, and forbidden text."""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from ldarnet import LDARNetConfig, LDARNetForSequenceClassification
from ldarnet.cli import COMMANDS
from ldarnet.doctor import KERNEL_PINS
from ldarnet.extras import EXTRAS
from ldarnet.model import write_model
from ldarnet.ops import backends_of, operations
from ldarnet.program import USER_ERROR
from ldarnet.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GUIDES = ("README.md", "CONTRIBUTING.md")
GENERATED = {".git", ".venv", "runs", "__pycache__", ".hypothesis", ".pytest_cache", ".ruff_cache", ".mypy_cache"}


def tree() -> list[Path]:
    """All files of the project except generated ones."""
    kept = [path for path in ROOT.iterdir() if path.name not in GENERATED]
    paths = [path for root in kept for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()]
    return [path for path in paths if not GENERATED & set(path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("guide", GUIDES)
def test_make_targets_in_guides_exist(guide: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^ *|[`$&] ?)make ([a-z-]+)", (ROOT / guide).read_text(), re.MULTILINE))
    assert {"quickstart", "test"} <= targets
    assert named
    assert named <= targets


@pytest.mark.parametrize("guide", GUIDES)
def test_files_in_guides_exist(guide: str) -> None:
    text = (ROOT / guide).read_text()
    links = set(re.findall(r"\]\(([^)#:]+)\)", text))
    commands = set(re.findall(r"\b((?:launch|configs|benchmarks|sharding)/[\w/.-]+\.\w+)", text))
    assert links
    assert not {path for path in links | commands if not (ROOT / path).exists()}


def test_modules_in_guides_exist() -> None:
    named = {
        name
        for guide in GUIDES
        for name in re.findall(r"python -m ((?:sharding|ldarnet)[\w.]*)", (ROOT / guide).read_text())
    }
    assert not {name for name in named if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}


def test_commands_in_guides_exist() -> None:
    named = {
        word
        for guide in GUIDES
        for word in re.findall(r"(?:^|`|bin/)ldarnet ([a-z][a-z-]*)", (ROOT / guide).read_text(), re.M)
    }
    assert named
    assert named <= {*COMMANDS}


def test_no_file_has_an_absolute_path_or_a_package_host() -> None:
    # Assembled from parts so that this file does not match its own pattern.
    folders = "|".join(("home", "root", "work", "Users", "tmp", "scratch"))
    hosts = r"|".join((r"pypi\.org", r"pythonhosted\.org", r"download\.pytorch\.org", r"conda\.anaconda\.org"))
    forbidden = re.compile(rf"(?<![\w.}}~\]])/(?:{folders})/\w|{hosts}|--(?:extra-)?index-url|--find-links")
    found = []
    for path in tree():
        content = path.read_bytes()
        if path == Path(__file__) or b"\0" in content:
            continue
        for number, line in enumerate(content.decode().splitlines(), 1):
            if match := forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not found


def test_the_bundled_genome_is_small_and_has_a_source_file() -> None:
    files = [path for path in (ROOT / "sharding" / "genomes").rglob("*") if path.is_file()]
    genomes = [path for path in files if ".fa" in path.suffixes]
    assert genomes
    assert sum(path.stat().st_size for path in genomes) <= 600_000
    for genome in genomes:
        source = (genome.parent / "SOURCE.md").read_text()
        assert hashlib.sha256(genome.read_bytes()).hexdigest() in source
        assert all(word in source for word in ("source", "version", "license"))


def test_version_pins_agree() -> None:
    extra = dict(requirement.split("==") for requirement in PROJECT["optional-dependencies"]["kernels"])
    assert extra == KERNEL_PINS
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert dict(re.findall(r'"([\w-]+)==([\w.]+)"', dockerfile)).items() >= KERNEL_PINS.items()
    set_up = (ROOT / "launch" / "setup_env.sh").read_text()
    (torch_version,) = re.findall(r"^TORCH_VERSION=(.+)$", set_up, re.MULTILINE)
    assert f'"torch=={torch_version}"' in dockerfile
    # Install hints of kernels point to the `kernels` extra, whose versions are compared above.
    hints = {backend.install for operation in operations() for backend in backends_of(operation).values()}
    assert {text for text in hints if "pip" in text} == {'pip install --no-build-isolation ".[kernels]"'}


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_match_the_table_of_modules() -> None:
    modules = {"scikit-learn": "sklearn", "fsspec[http]": "fsspec", "ray[tune]": "ray"}
    extras = {
        extra: {re.split("[>=<;]", requirement)[0].strip() for requirement in requirements}
        for extra, requirements in PROJECT["optional-dependencies"].items()
    }
    assert extras.pop("all") == {"ldarnet[train,tasks,sweep,s3,genomics,hf]"}
    extras.pop("dev")
    expected = {extra: {modules.get(name, name.replace("-", "_")) for name in names} for extra, names in extras.items()}
    expected["train"].add("aiohttp")  # installed by fsspec[http]
    assert {extra: {*names} for extra, names in EXTRAS.items()} == expected


BASE_ONLY = f"""
import json, os, sys
for name in {[module for modules in EXTRAS.values() for module in modules]!r}:
    sys.modules[name] = None  # makes its import raise ModuleNotFoundError
import ldarnet.model  # once for all commands
from ldarnet.cli import main
commands, folder = json.loads(sys.argv[1]), sys.argv[2]
for number, arguments in enumerate(commands):
    if not os.fork():
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{{folder}}/{{number}}-{{name}}", os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
        if arguments[0] == "import":
            __import__(arguments[1])
        sys.argv = ["ldarnet", *arguments]
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
NEEDS = {
    ("pretrain", "--config", "quickstart"): "train",
    ("pretrain", "--ranks", "2", "--config", "quickstart"): "train",
    ("shard", "--out", "never"): "train",
    ("finetune", "--config", "nt", "task=H3"): "tasks",
    ("sweep", "--config", "nt18"): "sweep",
    ("ablate", "--config", "yeast-small"): "sweep",
    ("report", "never"): "train",
    ("tracks", "never", "never.fa", "--out", "never"): "genomics",
    ("enrich", "never", "never.fa", "--out", "never"): "train",
    ("score-variants", "never", "never.vcf", "never.fa", "--out", "never.vcf.gz"): "genomics",
    ("evaluate-variants", "never.tsv", "--out", "never"): "tasks",
    ("embed", "never", "never.fa", "--out", "never.parquet"): "tasks",
}
"""Extra that each command needs."""
Results = dict[tuple[str, ...], subprocess.CompletedProcess[str]]
IMPORT = ("import", "ldarnet.pretraining")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "classifier"
    config = LDARNetConfig.preset("tiny", num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    write_model(LDARNetForSequenceClassification(config), folder)
    (folder.parent / "two.fa").write_text(">one\nACGTACGTACGTACGT\n>two\nGATTACAGATTACA\n")
    return folder


@pytest.fixture(scope="module")
def base_only(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of `ldarnet` commands, by their arguments, with only the base dependencies importable."""
    folder = tmp_path_factory.mktemp("base-only")
    predictors = [(name, str(classifier), str(classifier.parent / "two.fa")) for name in ("predict", "tokenize")]
    commands = [*NEEDS, *predictors, IMPORT]
    process = [sys.executable, "-c", BASE_ONLY, json.dumps(commands), folder]
    statuses = subprocess.run(process, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return {
        command: subprocess.CompletedProcess(
            command, int(status), *((folder / f"{number}-{name}").read_text() for name in ("stdout", "stderr"))
        )
        for number, (command, status) in enumerate(zip(commands, statuses, strict=True))
    }


def test_the_base_dependencies_predict_and_tokenize(
    base_only: Results,
) -> None:
    predicted, tokenized = (ended for command, ended in base_only.items() if command[0] in ("predict", "tokenize"))
    assert predicted.returncode == 0, predicted.stderr
    header, *rows = predicted.stdout.splitlines()
    assert header.split("\t") == ["name", "predicted", "p_no", "p_yes"]
    assert [row.split("\t")[0] for row in rows] == ["one", "two"]
    assert tokenized.returncode == 0, tokenized.stderr
    bases = [line.split("\t")[3] for line in tokenized.stdout.splitlines() if line.startswith("two\t")]
    assert "".join(bases) == "GATTACAGATTACA"


@pytest.mark.parametrize("arguments", NEEDS)
def test_a_command_reports_the_extra_it_needs(base_only: Results, arguments: tuple[str, ...]) -> None:
    ended = base_only[arguments]
    assert ended.returncode == USER_ERROR
    hint = rf"pip install 'ldarnet\[{NEEDS[arguments]}\]'"
    assert re.fullmatch(rf"error: ldarnet {arguments[0]} needs \w+: {hint}\n", ended.stderr)


def test_an_import_reports_the_extra_it_needs(
    base_only: Results,
) -> None:
    message = "ldarnet.pretraining needs zstandard: pip install 'ldarnet[train]'\n"
    assert base_only[IMPORT].stderr.endswith(message)


@pytest.fixture(scope="module")
def wheel_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a virtual environment with the wheel and the dependencies of the current environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith(f"ldarnet-{__version__}-")
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ldarnet", "sharding", f"ldarnet-{__version__}.dist-info"}
    for shipped in ("sharding/genomes", "ldarnet/genomics/browser/static"):
        for path in (ROOT / shipped).rglob("*"):
            if path.is_file() and not GENERATED & set(path.parts):
                assert path.relative_to(ROOT).as_posix() in names
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    # A .pth file adds the current site-packages; .pth files in there, such as that of an editable install, are ignored.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder


@pytest.mark.slow
def test_the_wheel_trains_and_predicts_outside_the_source_tree(wheel_environment: Path, classifier: Path) -> None:
    work = wheel_environment / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run(*command: object) -> str:
        program, *arguments = map(str, command)
        ended = subprocess.run(
            [wheel_environment / "venv" / "bin" / program, *arguments],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    assert str(ROOT) not in run("python", "-c", "import ldarnet, sharding; print(ldarnet.__file__, sharding.__file__)")
    run("ldarnet", "shard", "--out", "runs/quickstart-shards")
    small = ["training.steps=2", "model.preset=tiny", "data.length=128", "validation.every=2", "tracking.mlflow=false"]
    run("ldarnet", "pretrain", "--ranks", "2", "--config", "quickstart", *small)
    assert (work / "runs" / "quickstart" / "export" / "model.safetensors").is_file()
    assert run("ldarnet", "predict", classifier, classifier.parent / "two.fa").startswith("name\tpredicted\tp_no")
