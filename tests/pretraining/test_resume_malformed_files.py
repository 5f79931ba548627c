"""Malformed files in a run that resumes: every file, read by the functions that read it, without training.

Resuming works, or fails with one line that names the file or the line. `tests/test_malformed_folders.py` covers all
programs with a sample of changes.
"""

import json
import random
import shutil
from types import SimpleNamespace

import pytest
import torch

from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.io.manifest import write_manifest
from ldarnet.pretraining.callbacks.router_health import RouterHealth, RouterHealthMonitor
from ldarnet.pretraining.run import best_validation
from ldarnet.pretraining.run_folder import open_run_folder
from ldarnet.runtime.checkpoint import CheckpointStore
from ldarnet.runtime.checkpoint_files import check_fits, load_weights, moments_of
from ldarnet.runtime.guard import Guard
from ldarnet.runtime.metrics_file import ALL_STEPS, MetricsFile
from ldarnet.runtime.tracking import Tracker
from tests.runtime.test_checkpoint import FINGERPRINT, Run

LINE = {"step": 1, "split": "train", "bases_per_chunk": [4.0], "periodicity": [0.1], "period": [3]}
VALID = {"mlm_loss": 1.0, "mask_loss": 1.0, "composition_loss": 1.0, "accuracy": 0.5, "bases_per_chunk": [4.0]}
IN_CHECKPOINT = ["manifest.json", "state.json", "config.json", "config.yaml"]
IN_RUN = ["metrics.jsonl", "boundaries.jsonl", "starts.jsonl", "mlflow.json", "config.yaml"]
FILES = [f"checkpoints/step-00000002/{name}" for name in IN_CHECKPOINT] + ["checkpoints/pointers.json", *IN_RUN]
BYTES = {
    "empty": b"",
    "NUL": b"\0" * 100,
    "not UTF-8": b"\xff\xfe{}",
    "null": b"null",
    "list": b"[]\n",
    "number": b"5\n",
    "text": b'"x"\n',
    "empty mapping": b"{}\n",
    "deeply nested": b"[" * 100_000,
    "deeply nested mapping": b'{"a":' * 100_000,
    "huge number": b"1" + b"0" * 100_000,
    "escape sequence": b'{"\x1b[31m": 1}\n',
}
VALUES = [None, True, -1, 0, 10**30, 1.5, "x", "../../x", "\0", [], [[]], {}, {"a": {"a": []}}, float("nan"), 1e308]
SAMPLES = 20
"""Mutations per file."""


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def template(tmp_path_factory, shards):
    """A run stopped after step 2, with one line in each file."""
    from tests.support.ranks import write_config

    folder = tmp_path_factory.mktemp("malformed")
    run = Run(write_config(folder, shards), folder / "run")
    run.write(1)
    run.write(2, best_step=1)
    run.open()
    lines = [LINE, {"step": 1, "split": "valid", **VALID}]
    for name in ("metrics.jsonl", "boundaries.jsonl", "starts.jsonl"):
        (folder / "run" / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run/mlflow.json").write_text(json.dumps({"tracking_uri": None, "run_id": "0" * 32}))
    run.writer.close()
    return folder / "run", run.model, folder / "config.yaml"


def resume(run_dir, config_file, network):
    """Read every file that a launch reads, as a launch does."""
    config = load_config(config_file, [f"run.dir={run_dir}"])
    store = CheckpointStore(run_dir, 2)
    found = open_run_folder(config, store, FINGERPRINT)
    if found.checkpoint is not None:
        check_fits(found.checkpoint, network, FINGERPRINT)
        load_weights(network, found.checkpoint)
        with moments_of(found.checkpoint) as moments:
            moments("exp_avg.a", torch.Size([3]))
        Guard(config.guard, next(network.parameters()).device).load_state_dict(found.state.guard)
    step = found.state.step if found.state else 0
    for name in ("metrics.jsonl", "boundaries.jsonl"):
        MetricsFile(run_dir, step, name).close()
    MetricsFile(run_dir, ALL_STEPS, "starts.jsonl").close()
    monitor = object.__new__(RouterHealthMonitor)
    monitor.context = SimpleNamespace(config=config, resumed=found.state or SimpleNamespace(step=0))
    monitor._health, monitor._monitored = RouterHealth(10, lambda _: 4.0), True
    monitor._replay()
    Tracker(config, print).close("KILLED")
    best_validation(store, run_dir / "metrics.jsonl")
    return step


def check(template, tmp_path, name, content, *, sealed=False):
    """Resume with another content of a file; returns the error, if any."""
    original, network, config_file = template
    run_dir = shutil.copytree(original, tmp_path / "run")
    (run_dir / name).write_bytes(content)
    if sealed:
        manifest = json.loads((run_dir / name).with_name("manifest.json").read_text())
        write_manifest((run_dir / name).parent, step=manifest["step"], run_id=manifest["run_id"])
    outside = {path: path.read_bytes() for path in tmp_path.parent.glob("*") if path.is_file()}
    message = None
    try:
        resume(run_dir, config_file, network)
    except UserError as error:
        message = str(error)
    shutil.rmtree(run_dir)
    assert message is None or (message.isprintable() and len(message) < 1500), repr(message)
    assert {path: path.read_bytes() for path in tmp_path.parent.glob("*") if path.is_file()} == outside
    return message


def test_the_unchanged_run_resumes(template, tmp_path):
    original, network, config_file = template
    assert resume(shutil.copytree(original, tmp_path / "run"), config_file, network) == 2


@pytest.mark.parametrize("sealed", [False, True], ids=["", "with its hash"])
@pytest.mark.parametrize("name", FILES)
def test_malformed_bytes(template, tmp_path, name, sealed):
    if sealed and (name.endswith("manifest.json") or name.count("/") != 2):
        pytest.skip("has no hash")
    original = (template[0] / name).read_bytes()
    variants = {**BYTES, "flipped bit": bytes([original[0] ^ 64]) + original[1:]}
    variants |= {f"truncated to {size}": original[:size] for size in (1, 20, len(original) // 2, len(original) - 2)}
    errors = {kind: check(template, tmp_path, name, content, sealed=sealed) for kind, content in variants.items()}
    if name.startswith("checkpoints/step"):
        mappings = {"empty mapping", "escape sequence"} if sealed and name.endswith("config.json") else set()
        assert all(errors[kind] for kind in BYTES.keys() - mappings), errors
        assert all("step-00000002" in error for error in errors.values() if error)


def mutations(tree, rng):
    """Every key removed, and every value replaced by values of other types."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield {name: tree[name] for name in tree if name != key}
            yield from ({**tree, key: other} for other in rng.sample(VALUES, 6))
            yield from ({**tree, key: inner} for inner in mutations(value, rng))
    elif isinstance(tree, list) and tree:
        yield from ([other, *tree[1:]] for other in rng.sample(VALUES, 6))
        yield from ([inner, *tree[1:]] for inner in mutations(tree[0], rng))


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("json")])
def test_mutated_json(template, tmp_path, name):
    rng = random.Random(name)
    original = json.loads((template[0] / name).read_text())
    sealed = name.endswith(("state.json", "config.json"))
    variants = list(mutations(original, rng))
    errors = [
        check(template, tmp_path, name, json.dumps(variant).encode(), sealed=sealed)
        for variant in rng.sample(variants, min(len(variants), SAMPLES))
    ]
    assert any(errors) or name.endswith("mlflow.json")


@pytest.mark.parametrize("name", ["metrics.jsonl", "boundaries.jsonl", "starts.jsonl"])
def test_mutated_lines(template, tmp_path, name):
    rng = random.Random(name)
    original = [json.loads(line) for line in (template[0] / name).read_text().splitlines()]
    variants = rng.sample(list(mutations(original, rng)), SAMPLES)
    for variant in [*variants, [original[0], {**original[1], "mlm_loss": "x"}], [{**LINE, "periodicity": []}]]:
        check(template, tmp_path, name, b"".join(json.dumps(line).encode() + b"\n" for line in variant))


def test_a_line_that_the_router_needs_is_named(template, tmp_path):
    content = json.dumps({**LINE, "period": ["x"]}).encode() + b"\n"
    assert "metrics.jsonl: line 1: damaged (period.0: " in (check(template, tmp_path, "metrics.jsonl", content) or "")
    content = json.dumps({**LINE, "periodicity": []}).encode() + b"\n"
    message = "line 1: the lists bases_per_chunk, periodicity and period have different numbers of entries"
    assert message in (check(template, tmp_path, "metrics.jsonl", content) or "")


def test_a_damaged_record_of_mlflow_is_reported_and_replaced(template, tmp_path):
    config = load_config(template[2], [f"run.dir={tmp_path}"])
    (tmp_path / "mlflow.json").write_text('{"run_id": "../x", "tracking_uri": null}')
    said = []
    assert Tracker(config, said.append).run_id is None
    assert len(said) == 1 and "mlflow.json: damaged (run_id: " in said[0]
