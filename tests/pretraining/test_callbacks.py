"""Extension point: one file in the callbacks folder adds a hook to every run."""

import json

CALLBACK = '''
import json

from ldarnet.pretraining.callbacks.base import Callback, register


@register(order=45)
class LossRecorder(Callback):
    """Adds a key to training lines and writes every call to calls.jsonl."""

    def record(self, name, **values):
        with (self.context.config.run.dir / "calls.jsonl").open("a") as file:
            file.write(json.dumps([name, values]) + "\\n")

    def on_run_start(self):
        self.record("on_run_start", resumed=self.context.resumed.step)

    def before_step(self, step):
        self.record("before_step", step=step)

    def on_step_logged(self, line):
        line["perplexity"] = 2.0
        self.record("on_step_logged", loss=line["loss"])

    def on_validation(self, line):
        self.record("on_validation", loss=line["mlm_loss"])

    def on_run_end(self, state, received):
        self.record("on_run_end", step=state.step, received=received)

    def close(self):
        self.record("close")
'''
PROGRAM = """
import sys
from ldarnet.config import load_config
from ldarnet.pretraining import callbacks, train

callbacks.__path__.append(sys.argv[1])
train(load_config(sys.argv[2], sys.argv[3:]))
"""


def test_a_file_in_the_folder_adds_a_callback(config_file, run_ranks, tmp_path):
    folder, script = tmp_path / "callbacks", tmp_path / "program.py"
    folder.mkdir()
    (folder / "loss_recorder.py").write_text(CALLBACK)
    script.write_text(PROGRAM)
    overrides = ("training.stop_after=2", "validation.every=2", "training.log_every=1")
    run_ranks(1, folder, config_file, *overrides, script=script).succeed()
    calls = [json.loads(text) for text in (tmp_path / "run/calls.jsonl").read_text().splitlines()]
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    train, valid = ([line for line in lines if line["split"] == split] for split in ("train", "valid"))
    assert calls == [
        ["on_run_start", {"resumed": 0}],
        ["before_step", {"step": 0}],
        ["on_step_logged", {"loss": train[0]["loss"]}],
        ["before_step", {"step": 1}],
        ["on_step_logged", {"loss": train[1]["loss"]}],
        ["on_validation", {"loss": valid[0]["mlm_loss"]}],
        ["on_run_end", {"step": 2, "received": None}],
        ["close", {}],
    ]
    assert list(train[0])[-2:] == ["warnings", "perplexity"]
