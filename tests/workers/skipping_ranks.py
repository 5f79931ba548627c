"""Run by each rank: runs with a non-finite or spiking loss on the last rank; each rank writes one line per run.

Arguments: configuration file, output folder.
"""

import math
import sys
from pathlib import Path

import torch

from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.pretraining import loop
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.zero_state import whole_moments, whole_weights

NAN, SPIKE, END = 2, 9, 12  # steps, from 0

config_file, out = sys.argv[1], Path(sys.argv[2])
world = distributed.start(2)
step = 0
factors: dict[int, float] = {}
mismatches: list[str] = []
update, forward = Engine.update, Engine.forward
pretraining_loss, accumulate = loop.pretraining_loss, loop._accumulate


def tensors(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (*whole_weights(engine), *whole_moments(engine))}


def watched_update(engine: Engine, factor: float, loss: torch.Tensor):
    """Update, and record a mismatch if a skipped step changed a tensor or any other step changed none."""
    number, before = step, tensors(engine)
    outcome = update(engine, factor, loss)
    changed = [name for name, tensor in tensors(engine).items() if not tensor.equal(before[name])]
    if bool(changed) == (number in factors):
        mismatches.append(f"step {number} changed {changed}")
    inner = engine.deepspeed.optimizer
    counts = {int(entry["step"]) for entry in getattr(inner, "optimizer", inner).state.values() if "step" in entry}
    if counts != {number + 1 - sum(skipped <= number for skipped in factors)}:
        mismatches.append(f"Adam counts {counts} steps after step {number}")
    if any(parameter.grad is not None for parameter in engine.model.parameters()):
        mismatches.append(f"gradients remain after step {number}")
    return outcome


def local_factor() -> float:
    return factors.get(step, 1.0) if world.rank == world.size - 1 else 1.0


def corrupted_forward(engine: Engine, input_ids: torch.Tensor, **named):
    """Forward pass with NaN embeddings if the local factor is NaN."""
    if not math.isnan(local_factor()):
        return forward(engine, input_ids, **named)
    hook = engine.model.get_input_embeddings().register_forward_hook(lambda *arguments: arguments[-1] * local_factor())
    try:
        return forward(engine, input_ids, **named)
    finally:
        hook.remove()


def corrupted_loss(output, labels, **named):
    loss, part = pretraining_loss(output, labels, **named)
    part.nll, part.windows = part.nll * local_factor(), part.windows * local_factor()
    return loss, part


def counted_accumulate(engine, batches, scored, timers, number, *others, **named):
    global step
    step = number
    return accumulate(engine, batches, scored, timers, number, *others, **named)


def attempt(name: str, *overrides: str) -> str:
    mismatches.clear()
    try:
        train_on(world, load_config(config_file, [f"run.dir={out}/{name}", *overrides]))
    except UserError as error:
        return str(error)
    return "; ".join(mismatches) or "correct"


Engine.update, Engine.forward = watched_update, corrupted_forward
loop.pretraining_loss, loop._accumulate = corrupted_loss, counted_accumulate
factors = {NAN: float("nan"), SPIKE: 50.0}
messages = [attempt(f"whole-{stage}", f"training.zero_stage={stage}") for stage in range(4)]
messages += [attempt(f"muon-{stage}", "optimizer.name=muon", f"training.zero_stage={stage}") for stage in (1, 3)]
messages.append(attempt("stopped", f"training.stop_after={SPIKE + 1}"))
messages.append(attempt("stopped"))
factors = dict.fromkeys(range(NAN, END), float("inf"))
messages.append(attempt("diverged", "guard.stop_after=4", "training.log_every=3", "checkpoint.every=2"))
factors = dict.fromkeys(range(SPIKE - 1, END), 50.0)
messages.append(attempt("shifted", "guard.stop_after=2"))
(out / f"messages-{world.rank}.txt").write_text("\n".join(messages))
distributed.stop()
