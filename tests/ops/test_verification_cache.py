"""Cache of verification results: a kernel is verified once per machine, and again whenever the result may change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.kernel_options import kernel_options
from ldarnet.ops import (
    DEFAULT_SIZES,
    KernelOptions,
    backends_of,
    external,
    resolve,
    skip_reason,
    verification_cache,
)
from ldarnet.ops.dispatch import _mismatch
from ldarnet.ops.registry import Backend, register
from ldarnet.ops.verify import example
from ldarnet.plugins import load_folder

ROOT = Path(__file__).resolve().parents[2]
TOY = """
from ldarnet.ops import backends_of
from ldarnet.ops.dispatch import _mismatch
from ldarnet.ops.registry import Backend, register
from ldarnet.ops.verify import example

@register("swiglu", "toy")
def swiglu(x_TF):
    {body}
    return backends_of("swiglu")["torch"].function(x_TF)
"""
PROCESS = """
import sys, time
from pathlib import Path
import torch
from ldarnet.ops import backends_of, resolve
from ldarnet.ops.dispatch import _mismatch
from ldarnet.ops.registry import Backend, register
from ldarnet.ops.verify import example

count, started, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

@register("swiglu", "toy")
def swiglu(x_TF):
    with count.open("a") as file:
        file.write("called\\n")
    return backends_of("swiglu")["torch"].function(x_TF)

with started.open("a") as file:
    file.write("started\\n")
while len(started.read_text().splitlines()) < processes:
    time.sleep(0.01)
print(resolve("swiglu", "cpu", torch.float32).name)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enable the cache, in a temporary folder; restore the registry at the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(verification_cache.SWITCH, "1")
    verification_cache._warn_disabled.cache_clear()
    before = dict(backends_of("swiglu"))
    forget()
    yield tmp_path / "cache/ldarnet/kernels"
    backends_of("swiglu").clear()
    backends_of("swiglu").update(before)
    forget()


def forget():
    """Forget the selected backends, like a new process."""
    resolve.cache_clear()
    _mismatch.cache_clear()


@pytest.fixture
def selected(folder):
    """Return a function that selects a backend of ``swiglu`` and returns its name and the number of calls."""
    calls = []

    def toy(x):
        calls.append(x.shape)
        return backends_of("swiglu")["torch"].function(x)

    register("swiglu", "toy")(toy)

    def select(dtype=torch.float32, sizes=DEFAULT_SIZES):
        forget()
        calls.clear()
        return resolve("swiglu", "cpu", dtype, "auto", (sizes,)).name, len(calls)

    return select


def test_a_second_launch_verifies_nothing(selected):
    assert selected() == ("toy", 1)
    assert selected() == ("toy", 0)


@pytest.mark.parametrize("error", [1.5, float("nan")])
def test_a_wrong_kernel_stays_rejected(folder, error, caplog):
    calls = []

    def wrong(x):
        calls.append(x)
        return backends_of("swiglu")["torch"].function(x) * error

    register("swiglu", "wrong")(wrong)
    reasons = []
    for _ in range(2):
        forget()
        assert resolve("swiglu", "cpu", torch.float32).name == "torch"
        reasons.append(skip_reason(backends_of("swiglu")["wrong"], "cpu", torch.float32))
    assert len(calls) == 1 and reasons[0] == reasons[1] and "relative error" in reasons[0]
    assert caplog.text.count("skipping ops.swiglu=wrong") == 2


def test_a_kernel_that_fails_is_tried_again(folder):
    calls = []

    def failing(x):
        calls.append(x)
        raise RuntimeError("no C compiler")

    register("swiglu", "failing")(failing)
    for _ in range(2):
        forget()
        assert resolve("swiglu", "cpu", torch.float32).name == "torch"
    assert len(calls) == 2
    assert not list(folder.glob("*.json"))


def test_another_dtype_or_size_is_verified_separately(selected):
    assert selected() == ("toy", 1)
    assert selected(torch.bfloat16) == ("toy", 1)
    assert selected(sizes=DEFAULT_SIZES._replace(hidden=384)) == ("toy", 1)
    assert selected(sizes=DEFAULT_SIZES._replace(window=7)) == ("toy", 0), "swiglu does not depend on the window"
    assert selected(torch.bfloat16) == selected() == ("toy", 0)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("ldarnet.ops.verification_cache.__version__", "99.0"),
        ("torch.__version__", "99.0"),
        ("ldarnet.ops.verification_cache._version", lambda package: "99.0"),
        ("ldarnet.ops.verification_cache._device", lambda device: "another GPU"),
    ],
)
def test_another_version_or_machine_is_verified_separately(selected, monkeypatch, target, value):
    assert selected() == ("toy", 1)
    with monkeypatch.context() as changed:
        changed.setattr(target, value)
        assert selected() == ("toy", 1)
    assert selected() == ("toy", 0)


def test_changed_source_is_verified_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(external, "__path__", [*external.__path__, str(tmp_path)])
    counts = []
    for body in ("pass", "pass", "assert len(x_TF)"):
        (tmp_path / "toy.py").write_text(TOY.format(body=body))
        sys.modules.pop("ldarnet.ops.external.toy", None)
        load_folder(external.__name__)
        forget()
        assert resolve("swiglu", "cpu", torch.float32).name == "toy"
        counts.append(len(list(folder.glob("swiglu-toy-*.json"))))
    sys.modules.pop("ldarnet.ops.external.toy")
    assert counts == [1, 1, 2]


def test_a_package_without_metadata_is_identified_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "unnamed_kernels.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = verification_cache._version("unnamed_kernels")
    os.utime(tmp_path / "unnamed_kernels.py", (1, 1))
    assert "unnamed_kernels.py" in before != verification_cache._version("unnamed_kernels")
    assert verification_cache._version("torch") == torch.__version__


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"key": {}, "error": "0"}', b"[" * 10_000])
def test_a_damaged_file_is_replaced_after_one_warning(selected, folder, content, caplog):
    assert selected() == ("toy", 1)
    (file,) = folder.glob("*.json")
    stored = file.read_text()
    file.write_bytes(content)
    assert selected() == ("toy", 1)
    assert len([record for record in caplog.records if str(file) in record.message]) == 1
    assert "verifying the kernel again" in caplog.text
    assert file.read_text() == stored
    assert selected() == ("toy", 0)


def test_the_result_of_another_kernel_is_not_used(selected, folder, caplog):
    assert selected() == ("toy", 1)
    (file,) = folder.glob("*.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"key": content["key"] | {"device": "another GPU"}}))
    assert selected() == ("toy", 1)
    assert "result of another kernel or machine" in caplog.text
    assert selected() == ("toy", 0)


def test_the_switch_disables_the_cache(selected, folder, monkeypatch):
    monkeypatch.setenv(verification_cache.SWITCH, "0")
    assert selected() == selected() == ("toy", 1)
    assert not folder.exists()


def test_without_a_writable_folder_kernels_are_verified_after_one_warning(selected, folder, caplog):
    folder.parent.parent.mkdir()
    folder.parent.write_text("a file, not a folder")
    assert selected() == selected() == ("toy", 1)
    assert caplog.text.count("kernel cache disabled") == 1


def test_processes_that_start_together_verify_once(folder, tmp_path):
    (tmp_path / "process.py").write_text(PROCESS)
    command = [sys.executable, str(tmp_path / "process.py"), str(tmp_path / "calls"), str(tmp_path / "started"), "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["toy\n", "toy\n"]
    assert (tmp_path / "calls").read_text() == "called\n"


def test_kernels_are_verified_for_the_sizes_of_the_model():
    sizes = kernel_options(LDARNetConfig.preset("ldarnet-110m")).sizes
    assert [(one.heads, one.headdim, one.d_state, one.chunk_size) for one in sizes["ssd"]] == [
        (16, 64, 128, 256),
        (24, 64, 128, 256),
    ]
    assert [one.width for one in sizes["add_norm"]] == [512, 768]
    assert [one.width for one in sizes["dechunk"]] == [512]
    assert [one.hidden for one in sizes["swiglu"]] == [2560]
    assert [(one.attention_heads, one.attention_dim, one.window) for one in sizes["attention"]] == [(16, 32, 1023)]
    assert sizes["ssd"][0]._replace(hidden=2560) == DEFAULT_SIZES


def test_a_backend_must_match_in_every_stage(folder):
    config = LDARNetConfig.preset("tiny", arch_layout=["M1", ["M1"], "m1"], d_intermediate=[100, 300])
    shapes = []

    def wrong_if_wide(x):
        shapes.append(x.shape[1])
        return backends_of("swiglu")["torch"].function(x) * (1 + (x.shape[1] > 256))

    register("swiglu", "toy")(wrong_if_wide)
    options = kernel_options(config)
    assert options.resolve("swiglu", "cpu", torch.float32).name == "torch"
    assert shapes == [256, 768]
    assert KernelOptions({"swiglu": "toy"}, options.sizes).resolve("swiglu", "cpu", torch.float32).name == "toy"


def test_examples_have_the_strides_of_the_model(folder):
    """Strides are compile-time constants of some kernels."""
    config = LDARNetConfig.preset("tiny")
    sizes = kernel_options(config).sizes
    for operation in ("convolution", "ssd", "gated_norm"):
        seen = spy(operation, lambda: LDARNetForMaskedLM(config)(torch.zeros(1, 9, dtype=torch.long)))
        for one in sizes[operation]:
            ours = [x.stride() for x in example(operation, [9], sizes=one) if torch.is_tensor(x)]
            assert ours in seen


def spy(operation, run):
    """Run a function; return the strides of the tensor arguments of each call of an operation."""
    known, seen = backends_of(operation), []
    reference = known["torch"]

    def function(*arguments):
        seen.append([x.stride() for x in arguments if torch.is_tensor(x)])
        return reference.function(*arguments)

    known["torch"] = Backend(operation, "torch", function)
    resolve.cache_clear()
    try:
        run()
    finally:
        known["torch"] = reference
        resolve.cache_clear()
    return seen
