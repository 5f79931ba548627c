"""An error on one rank ends all ranks with the same message."""

from ldarnet.runtime.checkpoint import CheckpointStore
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import WORKERS

FAILING_RANKS = WORKERS / "failing_ranks.py"


def test_all_ranks_raise_the_same_error(config_file, run_ranks, shards, tmp_path):
    run_ranks(2, config_file, tmp_path, script=FAILING_RANKS).succeed()
    messages = (tmp_path / "messages-0.txt").read_text().splitlines()
    assert messages == (tmp_path / "messages-1.txt").read_text().splitlines()
    unreadable, full_for_a_while, full = messages
    assert unreadable == f"TransientError: {shards}: Input/output error"

    assert full == f"UserError: {tmp_path}/full/metrics.jsonl: No space left on device"
    assert CheckpointStore(tmp_path / "full", keep=2).latest().name == "step-00000010"
    assert full_for_a_while == "trained"
    lines = read_metrics(tmp_path / "full-for-a-while/metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 11))


def test_signal_before_the_first_step_saves_nothing(config_file, run_ranks, tmp_path):
    script = tmp_path / "stopped_at_once.py"
    script.write_text(
        "import sys\n"
        "from ldarnet.config import load_config\n"
        "from ldarnet.runtime import signals; from ldarnet.pretraining import train\n"
        "def stopped(self):\n"
        "    self.received = 'SIGTERM'\n"
        "signals.StopRequest.__init__ = stopped\n"
        "train(load_config(sys.argv[1]))\n"
    )
    output = run_ranks(1, config_file, script=script).succeed()
    assert "stopped by SIGTERM before the first step; nothing to save" in output
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_model_without_chunks_trains(config_file, run_ranks, tmp_path):
    overrides = ["model.arch_layout=[m1]", "model.d_model=[16]", "model.d_intermediate=[0]"]
    overrides += ["model.attn_cfg={num_heads: [2], rotary_emb_dim: [8], window_size: [7]}"]
    output = run_ranks(1, "--config", config_file, *overrides).succeed()
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 11))
    assert len([line for line in lines if line["split"] == "valid"]) == 2
    for line in lines:
        assert (line["ratio_loss"], line["bases_per_chunk"], line["boundary_probability"]) == (0, [], [])
    assert "bases/chunk" not in output
    assert "bases a chunk" not in output
    assert {path.name for path in (tmp_path / "run/figures").iterdir()} == {"training.png"}
    assert (tmp_path / "run/export/model.safetensors").is_file()
