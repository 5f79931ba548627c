"""Configurations that ask for absurd sizes, and hostile YAML, are refused in one line before anything is allocated."""

import tracemalloc
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ldarnet.config import FinetuneConfig, RunConfig, load_config
from ldarnet.config.ablation import AblationConfig, PlanSection
from ldarnet.config.fields import field_of, item_section, known_keys, section_of
from ldarnet.config.sections import Section
from ldarnet.config.sweep import Range, SweepConfig
from ldarnet.errors import UserError
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.configuration import PRESETS

MINIMAL = {
    RunConfig: {"run": {"dir": "r"}, "data": {"shards": "s"}, "training": {"steps": 1}},
    FinetuneConfig: {"run": {"dir": "r"}, "task": "H3"},
    SweepConfig: {"sweep": {"dir": "s"}, "finetune": "f.yaml"},
    AblationConfig: {"ablation": {"dir": "a"}, "pretrain": "p.yaml", "arms": {"learned": {}}},
}
GRID = f"space={{{', '.join(f'k{n}: {[*range(10)]}' for n in range(10))}}}"
BOUNDS = (
    *Range.model_fields.values(),
    SweepConfig.model_fields["space"],
    PlanSection.model_fields["flops_per_second"],
)


def numeric_fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key and field of each value that can be a number, also inside lists, mappings and nullable sections."""
    for key in known_keys(section):
        field = field_of(section, key)
        if section_of(field) is None:
            if {int, float} & set(walk(field.annotation)):
                yield prefix + key, field
            if (inner := item_section(field)) is not None:
                yield from numeric_fields(inner, f"{prefix}{key}.")


def walk(annotation: Any) -> Iterator[Any]:
    """An annotation and all annotations inside it."""
    yield annotation
    for argument in typing.get_args(annotation):
        yield from walk(argument)


def wrapped(annotation: Any, number: float) -> Any:
    """A value of this type that contains the number."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return wrapped(arguments[0], number)
    if origin is list:
        return [wrapped(arguments[0], number)]
    if origin is tuple:
        return [wrapped(argument, number) for argument in arguments]
    if origin is dict:
        return {"key": wrapped(arguments[1], number)}
    if arguments:  # a union
        return next(found for found in (wrapped(argument, number) for argument in arguments) if found is not None)
    return number if annotation in (int, float) else None


@pytest.mark.parametrize(
    ("key", "field"),
    [pytest.param(key, field, id=key) for schema in MINIMAL for key, field in numeric_fields(schema)],
)
def test_every_number_has_a_range(key, field):
    kind: Any = typing.Annotated[field.annotation, field]
    for number in (10**16 if field in BOUNDS else 10**12, -(10**16), 10**300, 1e300):
        with pytest.raises(ValidationError, match=r"less than|greater than|maximum size"):
            TypeAdapter(kind).validate_python(wrapped(field.annotation, number))


def test_the_walk_finds_numbers_in_lists_mappings_and_sections():
    found = {key for schema in MINIMAL for key, _ in numeric_fields(schema)}
    assert {"model.d_model", "model.attn_cfg", "data.weights", "data.curriculum.share", "search.asha.grace"} <= found
    assert {"folds.only", "tracking.profile", "training.timeout_minutes", "resources.gpus"} <= found


@pytest.fixture
def peak_memory() -> Iterator[Any]:
    """Peak of the memory that Python allocated during the test, in bytes."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("schema", "override", "message"),
    [
        (RunConfig, "training.steps=1000000000000", "training.steps=1000000000000 is out of range: at least 1"),
        (RunConfig, "training.steps=1.0e+300", "training.steps=1e+300 is out of range: at least 1, at most 1000000000"),
        (RunConfig, f"training.steps=1{'0' * 5000}", "Exceeds the limit (4300 digits)"),
        (RunConfig, "training.batch=1000000000", "training.batch=1000000000 is out of range"),
        (RunConfig, "data.length=16777216", "more than 4,294,967,296; reduce one of them"),
        (RunConfig, "model.d_model=[1000000000, 64]", "model.d_model.0=1000000000 is out of range"),
        (RunConfig, f"model.d_model={[64] * 1000}", "at most 16 items"),
        (RunConfig, "model.arch_layout=[m100000000]", "more than 1,000 layers"),
        (RunConfig, "model.arch_layout=[m100000000000000000000]", "more than 1,000 layers"),
        (RunConfig, f"model.arch_layout=[{'m1' * 10**4}]", "more than 1,000 layers"),
        (RunConfig, f"model.arch_layout={'[m1, ' * 20}[m1]{', m1]' * 20}", "more than 16 stages"),
        (RunConfig, f"model.arch_layout={'[' * 200}{']' * 200}", "is neither [stack] nor"),
        (RunConfig, "model.ssm_cfg.d_state=100000000000", "model.ssm_cfg.d_state=100000000000 is out of range"),
        (RunConfig, "model={preset: tiny, d_model: [65536, 65536]}", "write it as section.key=value"),
        (RunConfig, "model.d_model=[65536, 65536]", "billion parameters, more than 20 billion; reduce d_model"),
        (FinetuneConfig, "model.d_model=[65536, 65536]", "billion parameters, more than 20 billion; reduce d_model"),
        (FinetuneConfig, "folds.count=1000000000", "folds.count=1000000000 is out of range: at least 2, at most 10000"),
        (SweepConfig, "search.trials=1000000000", "search.trials=1000000000 is out of range"),
        (SweepConfig, GRID, "10,000,000,000 combinations"),
    ],
)
def test_absurd_sizes_are_one_line_errors(schema, override, message, tmp_path, peak_memory):
    path = tmp_path / "c.yaml"
    training = {"training": {"epochs": 1, "batch": 512}} if schema is RunConfig else {}
    path.write_text(yaml.safe_dump(MINIMAL[schema] | training))
    with pytest.raises(UserError) as caught:
        load_config(path, [override, *(["training.epochs=null"] if "steps" in override else [])], schema=schema)
    assert message in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(path)) + 400
    assert peak_memory() < 64 * 2**20


def test_a_model_with_too_many_parameters_is_refused(peak_memory):
    with pytest.raises(ValueError, match=r"about 342 billion parameters, more than 20 billion"):
        LDARNetConfig.preset("ldarnet-2m", d_model=[65_536, 65_536])
    assert peak_memory() < 64 * 2**20


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "ldarnet-110m"])
def test_the_estimated_number_of_parameters_is_close(preset):
    config = LDARNetConfig.preset(preset)
    parameters = sum(parameter.numel() for parameter in LDARNetForMaskedLM(config).parameters())
    assert config._estimate_parameters() == pytest.approx(parameters, rel=0.2)


def alias_bomb(levels: int = 9) -> str:
    """YAML text with 9 ** levels values after expanding its aliases."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "alias bomb": (alias_bomb().encode(), "more than 20,000 values after expanding aliases"),
    "alias of itself": (b"run: &x {dir: *x}", "more than 20,000 values"),
    "nested": (b"run: " + b"[" * 10**5, "nested too deeply"),
    "many values": (b"run: [" + b"1," * 500_000 + b"]", "more than 20,000 values; fix the file"),
    "NUL": (b"run: {dir: x\0}", "not valid YAML"),
    "escaped NUL": (b'run: {dir: "x\\0"}', "line 1: a string contains NUL or a lone surrogate"),
    "lone surrogate": (b'\nrun: {dir: "\\ud800"}', "line 2: a string contains NUL or a lone surrogate"),
    "not UTF-8": (b"run: {dir: \xff}", "not valid YAML"),
    "truncated": (b"run: {dir: x", "line 1: not valid YAML"),
    "truncated text": (b'run: {dir: "x', "not valid YAML"),
    "python tag": (b"run: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    "keys that are not text": (b"1: 2\n", "keys must be text"),
    "too large": (b"#" * (2**20 + 1), "larger than 1,048,576 bytes"),
    "binary": (bytes(range(256)), "not valid YAML"),
    "escape sequence": (b'run: {dir: x}\ndata: {on_damaged: "\\e[31m"}', r"data.on_damaged='\x1b[31m'"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_one_line_errors(content, message, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(path)) + 600


@pytest.mark.parametrize("text", [alias_bomb(), "[" * 10**4, '"\\0"', "{", "!!python/name:os.system x"])
def test_hostile_overrides_are_one_line_errors(text, tmp_path):
    path: Path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL[RunConfig]))
    with pytest.raises(UserError, match=r"^override .*; fix or quote it") as caught:
        load_config(path, [f"data.shards={text}"])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
