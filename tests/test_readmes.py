"""Every command and every Python example in the documentation runs, at tiny sizes."""

import gzip
import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_results import make_run
from tests.support.ranks import ROOT, Ranks
from tests.support.twobit_writer import write_2bit

DOCUMENTS = sorted(
    path
    for path in subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not path.startswith("benchmarks/results/") and path != "CHANGELOG.md"
)
BLOCK = re.compile(
    r"^(?:<!-- (?:not run: (?P<reason>[^\n]+)|needs (?P<package>\w+)) -->\n)?"
    r"```(?P<language>bash|python)\n(?P<text>.*?)^```",
    re.M | re.S,
)
TINY = {
    "pretrain": {
        "model.preset": "tiny",
        "data.length": "64",
        "data.curriculum": "[]",
        "training.steps": "2",
        "training.epochs": "null",
        "training.batch": "4",
        "training.accumulation": "1",
        "validation.every": "2",
        "validation.windows": "4",
        "checkpoint.every": "2",
        "tracking.mlflow": "false",
    },
    "finetune": {
        "training.epochs": "1",
        "training.batch": "8",
        "folds.count": "2",
        "folds.only": "[0]",
        "data.limit": "40",
        "tracking.mlflow": "false",
    },
    "sweep": {
        "sweep.tasks": "[H3]",
        "set.data.folder": "tasks/H3",
        "set.data.limit": "40",
        "set.training.epochs": "1",
        "set.folds.count": "2",
        "space.optimizer.lr": "[1.0e-3]",
        "space.training.batch": "[8]",
        "search.folds": "[0]",
        "tracking.mlflow": "false",
    },
    "ablate": {
        "set.training.steps": "2",
        "set.validation.windows": "4",
        "ablation.seeds": "[0]",
        "lr.values": "[1.0e-3]",
        "downstream.set.data.folder": "tasks/H3",
        "downstream.set.data.limit": "40",
        "downstream.set.training.epochs": "1",
        "downstream.set.folds.count": "2",
        "downstream.set.folds.only": "[0]",
        "tracking.mlflow": "false",
    },
}
"""Overrides that make the documented commands small, by program."""


USE_QUICKSTART = (
    "launch/README.md",
    "ldarnet/ablation/README.md",
    "ldarnet/finetuning/README.md",
    "ldarnet/genomics/README.md",
    "ldarnet/model/README.md",
    "ldarnet/model/chunking/README.md",
    "ldarnet/sweeps/README.md",
    "ldarnet/tokenization/README.md",
)
"""Documents whose commands use the results of `make quickstart`."""
GENOMES = {
    "my.fa.gz": ("chr1", "chr20"),
    "yeast.fa.gz": ("chr3",),
    "mm39.fa.gz": ("chr4",),
    "a.fa.gz": ("chrI", "chrII", "chrVI"),
    "b.fa": ("chrIX",),
}


class Sandbox:
    """A folder with the input files that the documentation mentions; its commands run there in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("configs", "launch", "ldarnet", "sharding", "benchmarks", "tests", "Makefile", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        rng = np.random.default_rng(0)

        def bases(number: int) -> str:
            return np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, number)].tobytes().decode()

        for name, contigs in GENOMES.items():
            genome = "".join(f">{contig}\n{bases(9000)}\n" for contig in contigs)
            (folder / name).write_bytes(gzip.compress(genome.encode()) if name.endswith(".gz") else genome.encode())
        write_2bit(folder / "hg38.2bit", {"chr2": bases(9000)})
        (folder / "genomes.tsv").write_text("yeast\tyeast.fa.gz\n")
        (folder / "splits.bed").write_text("chr3\t0\t5000\ttrain\nchr3\t5000\t9000\tvalid\n")
        (folder / "benchmark_loci.bed").write_text("chr3\t100\t200\n")
        (folder / "new.fa").write_text(f">first\n{bases(64)}\n>second\n{bases(48)}\n")
        (folder / "my.fa").write_text((folder / "new.fa").read_text())
        rows = "".join(f"{bases(48)},{('no', 'yes')[row % 2]}\n" for row in range(60))
        (folder / "my.csv").write_text(f"sequence,label\n{rows}")
        for name in ("my_train.tsv", "my_valid.tsv", "my_test.tsv"):
            (folder / name).write_text(f"sequence\tlabel\n{rows}".replace(",", "\t"))
        values = (f"{bases(48)},{value},{value % 7 or 'NA'}\n" for value in range(60))
        (folder / "activity.csv").write_text(f"sequence,promoter,enhancer\n{''.join(values)}")
        genome, starts = bases(6000), range(0, 6000, 100)
        (folder / "genome.fa").write_text(f">chr1\n{genome}\n")
        windows = (f">chr1:{start + 1}-{start + 100}\n{genome[start : start + 100]}\n" for start in starts)
        (folder / "windows.fa").write_text("".join(windows))
        (folder / "windows.bed").write_text("".join(f"chr1\t{start}\t{start + 100}\n" for start in starts))
        sites = (f"chr1\t{start + 40}\t{start + 42}\t{('donor', 'acceptor')[start % 200 > 0]}\n" for start in starts)
        (folder / "splice_sites.bed").write_text("".join(sites))
        task = folder / "tasks/H3"
        task.mkdir(parents=True)
        for split in ("train", "test"):
            lines = (f">{row}|{row % 2}\n{bases(60)}\n" for row in range(60))
            (task / f"{split}.fna").write_text("".join(lines))

    def prepare(self, document: str, quickstart: Path) -> None:
        """Create the files that the commands of a document need and that other documents describe.

        Args:
            document: path of the document.
            quickstart: folder `runs` after `make quickstart`.
        """
        if document in USE_QUICKSTART:
            shutil.copytree(quickstart, self.folder / "runs")
        if document == "launch/README.md":
            self.ldarnet(["shard", "--out", "runs/yeast-shards"])
        if document == "ldarnet/data/README.md":
            self.ldarnet(["shard", "--out", "runs/shards", "yeast=yeast.fa.gz", "human=hg38.2bit"])
        if document == "ldarnet/comparison/README.md":
            for name in ("h3", "h3-random", "h3-cnn", "h3-kmers"):
                make_run(self.folder / "runs" / name, "nt/H3", (0.5, 0.6, 0.7))

    def run(self, script: Path, arguments: list[str]) -> str:
        """Run a program in this folder and return what it prints; it must exit with status 0."""
        return Ranks(1, script, arguments, cwd=self.folder).succeed()

    def ldarnet(self, arguments: list[str]) -> None:
        """Run `ldarnet ARGUMENTS`; training commands get the overrides in `TINY`."""
        self.run(ROOT / "ldarnet/__main__.py", _tiny(arguments[:1], arguments[1:]))


def _tiny(command: list[str], arguments: list[str]) -> list[str]:
    settings = dict(TINY.get("".join(command), {}))
    if command == ["finetune"] and any(argument.startswith("task=") for argument in arguments):
        settings["data.folder"] = "tasks/H3"
    if "--split-hash" in arguments:
        arguments = [*arguments, "--hash-tile", "64"]
    kept = [argument for argument in arguments if argument.partition("=")[0] not in settings]
    return [*command, *kept, *(f"{key}={value}" for key, value in settings.items())]


def _make(sandbox: Sandbox, arguments: list[str]) -> None:
    subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    if "quickstart" in arguments:
        sandbox.ldarnet(["shard", "--out", "runs/quickstart-shards"])
        sandbox.ldarnet(["pretrain", "--config", "quickstart"])


def _pip(sandbox: Sandbox, arguments: list[str]) -> None:
    (target,) = [argument for argument in arguments if argument.startswith(".")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"[\w-]+", target)) <= set(project["optional-dependencies"]), target


def _python(sandbox: Sandbox, arguments: list[str]) -> None:
    if arguments[0] == "-m":
        module, *rest = arguments[1:]
        if module.startswith("benchmarks."):
            rest = ["--help"]  # a benchmark runs for minutes and has its own tests
        sandbox.run(ROOT / f"{module.replace('.', '/')}.py", rest)
    else:
        program = Path(arguments[0]).stem
        sandbox.run(ROOT / arguments[0], _tiny([program], arguments[1:])[1:])


def _deepspeed(sandbox: Sandbox, arguments: list[str]) -> None:
    script = next(index for index, argument in enumerate(arguments) if argument.endswith(".py"))
    _python(sandbox, arguments[script:])


PROGRAMS: dict[str, Callable[[Sandbox, list[str]], None]] = {
    "ldarnet": Sandbox.ldarnet,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "deepspeed": _deepspeed,
    "torchrun": _deepspeed,
    ".venv/bin/pre-commit": lambda sandbox, arguments: None,  # changes the repository's hooks
    ".ci/run": lambda sandbox, arguments: None,  # runs these tests
    ".": lambda sandbox, arguments: None,  # activates .venv
}


def commands(block: str) -> list[list[str]]:
    """Commands of a bash block, split into words, without leading environment variable assignments."""
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [
        line[next(index for index, word in enumerate(line) if not re.match(r"[A-Z_]+=", word)) :]
        for line in words
        if line
    ]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `runs` after `make quickstart`."""
    sandbox = Sandbox(tmp_path_factory.mktemp("quickstart"))
    _make(sandbox, ["quickstart"])
    return sandbox.folder / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if BLOCK.search((ROOT / path).read_text())])
def test_examples_run(document: str, tmp_path: Path, quickstart: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.prepare(document, quickstart)
    for number, block in enumerate(BLOCK.finditer((ROOT / document).read_text())):
        if block["reason"]:
            continue
        if block["package"] and not find_spec(block["package"]):
            warnings.warn(
                f"{document}: an example is not run, because {block['package']} is not installed", stacklevel=1
            )
            continue
        if block["language"] == "python":
            script = tmp_path / f"example-{number}.py"
            script.write_text(block["text"])
            sandbox.run(script, [])
            continue
        for program, *arguments in commands(block["text"]):
            PROGRAMS[program](sandbox, arguments)


def test_documents_have_no_unmarked_commands() -> None:
    """All commands are in fenced blocks, which the test above runs."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        indented = re.findall(r"^    (?:ldarnet|python|deepspeed|make|pip) .*$", outside, re.M)
        assert not indented, f"{document}: put commands into ```bash blocks: {indented}"
