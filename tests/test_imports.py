"""The rooms of the project import downwards only, and a part loads only what it needs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ldarnet

ROOT = Path(__file__).resolve().parents[1]

# The floors of the house, from the ground up. A room imports only from floors below its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("ldarnet.errors", "ldarnet.version"),
    ("ldarnet.alphabet", "ldarnet.console", "ldarnet.markdown", "ldarnet.plugins", "ldarnet.ray_cluster"),
    ("ldarnet.extras",),
    ("ldarnet.program",),
    ("ldarnet.ops", "ldarnet.io"),
    ("ldarnet.model", "ldarnet.genome"),
    ("ldarnet", "ldarnet.data"),
    ("ldarnet.tasks",),
    ("ldarnet.config", "ldarnet.interpret", "sharding"),
    ("ldarnet.runtime", "ldarnet.report"),
    ("ldarnet.pretraining", "ldarnet.finetuning"),
    ("ldarnet.comparison",),
    ("ldarnet.sweeps", "ldarnet.doctor"),
    ("ldarnet.cli", "benchmarks"),
    ("ldarnet.__main__", "launch"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
APART = {
    # Rooms that must not know each other although one stands below the other.
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
)


def modules() -> dict[str, ast.Module]:
    """Every module of ours, by dotted name."""
    found = {}
    for package in ("ldarnet", "sharding", *PROGRAMS):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def room(module: str) -> str:
    """`ldarnet.data.reader` is in the room `ldarnet.data`, every module of `sharding` in the room `sharding`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "ldarnet" else parts[0]


def imported(module: str, *, when_loaded: bool = False) -> Iterator[str]:
    """The modules that a module imports: all of them, or only those that it needs to be loaded itself."""
    pending: list[ast.AST] = [MODULES[module]]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        elif not (when_loaded and (isinstance(node, ast.FunctionDef) or _for_types_only(node))):
            pending.extend(ast.iter_child_nodes(node))


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_from_floors_below_it(module: str) -> None:
    own = room(module)
    imports = {name for name in imported(module) if name.split(".")[0] in ("ldarnet", "sharding", *PROGRAMS)}
    others = {name for name in imports if room(name) != own}
    upward = {name for name in others if FLOOR[room(name)] >= FLOOR[own]}
    assert not upward, f"{module} imports {sorted(upward)}, which are not on a floor below {own}"
    assert not {name for name in others if room(name) in APART.get(own, ())}


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports inside functions count too: a cycle must not hide in them."""
    graph = {module: {name for name in imported(module) if name in MODULES and name != module} for module in MODULES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "ldarnet.ops"])
def test_operations_need_torch_alone(module: str) -> None:
    needed = {name.split(".")[0] for name in imported(module, when_loaded=True)}
    own_kernel = module.startswith("ldarnet.ops.kernels.")
    assert needed <= {"torch", "ldarnet", *(["triton"] if own_kernel else []), *sys.stdlib_module_names}


def test_the_package_works_without_what_training_and_kernels_need() -> None:
    program = f"""
import sys
for name in {(*HEAVY, "pydantic", "typer", "triton")!r}:
    sys.modules[name] = None  # an import of it raises ImportError
import ldarnet
model = ldarnet.LDARNetForMaskedLM(ldarnet.LDARNetConfig.preset("tiny"))
assert model(ldarnet.DNATokenizer()(["ACGT"], return_tensors="pt")["input_ids"]).logits.shape == (1, 4, 7)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ldarnet", (*HEAVY, "transformers", "torch", "numpy")),
        ("ldarnet.model", HEAVY),
        ("ldarnet.cli", (*HEAVY, "transformers", "torch")),
        ("sharding.build", (*HEAVY, "transformers")),
        ("sharding.fetch", (*HEAVY, "transformers", "torch", "numpy")),
    ],
)
def test_importing_a_part_loads_only_what_it_needs(module: str, heavy: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_package_names_what_it_has() -> None:
    assert {*ldarnet.__all__} <= {*dir(ldarnet)}
    assert all(hasattr(ldarnet, name) for name in ldarnet.__all__)
    with pytest.raises(AttributeError, match="module 'ldarnet' has no attribute 'nothing'"):
        ldarnet.nothing  # noqa: B018
