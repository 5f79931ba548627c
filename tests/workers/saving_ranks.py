"""Run by each rank: runs whose checkpoints are slow or cannot be written; each rank writes one message per event."""

import errno
import shutil
import sys
import threading
from pathlib import Path

from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.pretraining import loop
from ldarnet.pretraining import mirror as remote
from ldarnet.pretraining.callbacks.checkpoint_failures import CheckpointFailures
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import checkpoint_files as contents
from ldarnet.runtime import distributed

config_file, out = sys.argv[1], Path(sys.argv[2])
world = distributed.start(2)
messages: list[str] = []
write, accumulate, validate = contents.CheckpointContents.write, loop._accumulate, loop.validate
validated: list[dict] = []
full: set[int] = set()  # steps at which the disk is full
step_3_started, failure_counted = threading.Event(), threading.Event()


def attempt(name: str, *overrides: str) -> None:
    try:
        train_on(world, load_config(config_file, [f"run.dir={out}/{name}", *overrides]))
        messages.append(f"{name}: trained")
    except UserError as error:
        messages.append(f"{name}: {error}")


def faulty_write(content: contents.CheckpointContents, folder: Path) -> None:
    """Fail with a full disk at the steps in `full`; write the checkpoint of step 2 only after step 3 has started."""
    if content.state.step in full:
        raise OSError(errno.ENOSPC, "No space left on device")
    if content.state.step == 2:
        messages.append("written late" if step_3_started.wait(60) else "training waited for the checkpoint")
    write(content, folder)


def watched_accumulate(*arguments, **named):  # arguments[4] is the step
    if arguments[4] == 3:
        step_3_started.set()
        if world.is_main and not failure_counted.wait(60):  # the line of this step has the number of failures
            messages.append("the failed copy was not counted")
    return accumulate(*arguments, **named)


def watched_failure(callback: CheckpointFailures, reason: str) -> None:
    count_failure(callback, reason)
    failure_counted.set()


def unreachable(mirror: remote.Mirror, *_):
    with mirror._errors("cannot be reached"):
        raise ConnectionError("no answer")


def increasing_loss(*arguments):
    validated.append(validate(*arguments))
    return validated[-1] | {"mlm_loss": float(len(validated))}


contents.CheckpointContents.write, loop._accumulate = faulty_write, watched_accumulate
count_failure, CheckpointFailures.on_checkpoint_failed = CheckpointFailures.on_checkpoint_failed, watched_failure
step_3_started.set()
failure_counted.set()
attempt("unbroken", "checkpoint.every=6")
step_3_started.clear()
failure_counted.clear()
update, remote.Mirror.update = remote.Mirror.update, unreachable
attempt("late", "checkpoint.every=2", "training.stop_after=4", f"checkpoint.remote=file://{out}/late-remote")
remote.Mirror.update = update
full = {6, 8}
loop.validate = increasing_loss
attempt("full-for-a-while", "checkpoint.every=2", "checkpoint.keep=5", "validation.every=6")
loop.validate = validate
full = {10}
attempt("full-at-the-end", "checkpoint.every=4")
full = set()
attempt("full-at-the-end", "checkpoint.every=4")

copied = f"checkpoint.remote=file://{out}/remote"
attempt("lost", copied, "training.stop_after=6")
if world.is_main:
    shutil.rmtree(out / "lost")
world.sum_on_host(0)
attempt("lost", copied)
remote.Mirror.complete = unreachable
attempt("lost", copied)
attempt("new", copied)

(out / f"messages-{world.rank}.txt").write_text("\n".join(messages))
distributed.stop()
