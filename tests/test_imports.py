"""Packages import only from lower layers, and importing a package loads only what it needs."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ldarnet

ROOT = Path(__file__).resolve().parents[1]

# From the lowest layer to the highest. A package imports only from lower layers.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("ldarnet.printable", "ldarnet.redaction", "ldarnet.version"),
    ("ldarnet.errors",),
    (
        "ldarnet.alphabet",
        "ldarnet.console",
        "ldarnet.markdown",
        "ldarnet.packaged",
        "ldarnet.plugins",
        "ldarnet.ray_cluster",
        "ldarnet.threads",
    ),
    ("ldarnet.extras",),
    ("ldarnet.program",),
    ("ldarnet.io",),
    ("ldarnet.ops", "ldarnet.tokenization"),
    ("ldarnet.model", "ldarnet.genome"),
    ("ldarnet", "ldarnet.data"),
    ("ldarnet.tasks",),
    ("ldarnet.config", "ldarnet.interpret", "sharding"),
    ("ldarnet.runtime", "ldarnet.report"),
    ("ldarnet.pretraining", "ldarnet.finetuning", "ldarnet.genomics"),
    ("ldarnet.comparison", "ldarnet.jobs"),
    ("ldarnet.sweeps", "ldarnet.ablation", "ldarnet.doctor"),
    ("ldarnet.cli", "benchmarks"),
    ("ldarnet.__main__", "launch"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {
    # Imports from lower layers that are forbidden all the same, by importing package.
    "ldarnet.data": {"ldarnet.model", "ldarnet.ops"},
    "ldarnet.tasks": {"ldarnet.model", "ldarnet.ops"},
    "sharding": {"ldarnet.model", "ldarnet.ops"},
    "ldarnet.ops": {"ldarnet.alphabet"},
}
PROGRAMS = ("launch", "benchmarks")
HEAVY = (
    "deepspeed",
    "mlflow",
    "matplotlib",
    "ray",
    "sklearn",
    "optuna",
    "pandas",
    "mamba_ssm",
    "causal_conv1d",
    "flash_attn",
    "pybigtools",
)


REFERENCE_CODE = ROOT / "ldarnet/model/remote"
"""Copied into exported models, where it runs without this package; nothing imports it here."""


def modules() -> dict[str, ast.Module]:
    """Parse all modules of the project; returns syntax trees by dotted module name."""
    trees = {}
    for package in ("ldarnet", "sharding", *PROGRAMS):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.parent == REFERENCE_CODE:
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


MODULES = modules()


def package_of(module: str) -> str:
    """Package of a module, such as `ldarnet.data` for `ldarnet.data.reader`, and `sharding` for `sharding.build`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "ldarnet" else parts[0]


def imported(module: str, *, when_loaded: bool = False) -> Iterator[str]:
    """Yield the modules that a module imports; `when_loaded` skips imports in functions and for type checking."""
    pending: list[ast.AST] = [MODULES[module]]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import: use the full name"
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"
                yield full_name if full_name in MODULES else str(node.module)
        elif not (when_loaded and (isinstance(node, ast.FunctionDef) or _for_types_only(node))):
            pending.extend(ast.iter_child_nodes(node))


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@pytest.mark.parametrize("module", MODULES)
def test_packages_import_only_from_lower_layers(module: str) -> None:
    package = package_of(module)
    imports = {name for name in imported(module) if name.split(".")[0] in ("ldarnet", "sharding", *PROGRAMS)}
    others = {name for name in imports if package_of(name) != package}
    upward = {name for name in others if LAYER[package_of(name)] >= LAYER[package]}
    assert not upward, f"{module} imports {sorted(upward)}, which are not in a layer below {package}"
    assert not {name for name in others if package_of(name) in FORBIDDEN.get(package, ())}


def test_no_import_cycles_within_layers() -> None:
    """Imports inside functions count too."""
    graph = {module: {name for name in imported(module) if name in MODULES and name != module} for module in MODULES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [module for module in MODULES if package_of(module) == "ldarnet.ops"])
def test_ops_need_only_torch(module: str) -> None:
    needed = {name.split(".")[0] for name in imported(module, when_loaded=True)}
    is_kernel = module.startswith("ldarnet.ops.kernels.")
    assert needed <= {"torch", "ldarnet", *(["triton"] if is_kernel else []), *sys.stdlib_module_names}


def test_the_model_needs_neither_training_packages_nor_kernels() -> None:
    program = f"""
import sys
for name in {(*HEAVY, "pydantic", "typer", "triton")!r}:
    sys.modules[name] = None  # importing it raises ImportError
import ldarnet
model = ldarnet.LDARNetForMaskedLM(ldarnet.LDARNetConfig.preset("tiny"))
assert model(ldarnet.DNATokenizer()(["ACGT"], return_tensors="pt")["input_ids"]).logits.shape == (1, 4, 7)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# In one process, from the lightest to the heaviest: each list must also hold for the modules before it.
LOADED = {
    "ldarnet": (*HEAVY, "transformers", "torch", "numpy"),
    "ldarnet.cli.pretrain": (*HEAVY, "transformers", "torch", "numpy"),
    "ldarnet.cli.sweep": (*HEAVY, "transformers", "torch", "numpy"),
    "ldarnet.cli.predict": (*HEAVY, "transformers", "torch", "numpy"),
    "ldarnet.cli": (*HEAVY, "transformers", "torch", "numpy"),
    "sharding.fetch": (*HEAVY, "transformers", "torch", "numpy"),
    "sharding.build": (*HEAVY, "transformers"),
    "ldarnet.interpret": HEAVY,
    "ldarnet.model": HEAVY,
}


@pytest.fixture(scope="module")
def heavy_modules() -> dict[str, list[str]]:
    """For each module, the packages that it must not load but that are loaded after its import."""
    program = f"""
import importlib, json, sys
loaded = {{}}
for module, heavy in {LOADED!r}.items():
    importlib.import_module(module)
    loaded[module] = [name for name in heavy if name in sys.modules]
print(json.dumps(loaded))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.parametrize("module", LOADED)
def test_a_package_loads_only_what_it_needs(heavy_modules: dict[str, list[str]], module: str) -> None:
    assert heavy_modules[module] == []


def test_all_lists_the_public_names() -> None:
    assert {*ldarnet.__all__} <= {*dir(ldarnet)}
    assert all(hasattr(ldarnet, name) for name in ldarnet.__all__)
    with pytest.raises(AttributeError, match="module 'ldarnet' has no attribute 'nothing'"):
        ldarnet.nothing  # noqa: B018


def test_no_two_classes_share_a_name() -> None:
    modules_by_class: dict[str, list[str]] = {}
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                modules_by_class.setdefault(node.name, []).append(module)
    assert not {name: modules for name, modules in modules_by_class.items() if len(modules) > 1}
