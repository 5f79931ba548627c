"""One step under bf16 autocast; fails if an operation runs in an unexpected precision."""

import sys
from dataclasses import replace

import torch

from ldarnet.config import load_config
from ldarnet.ops import backends_of, operations
from ldarnet.pretraining.setup import build_engine, initial_state, prepare_inputs
from ldarnet.pretraining.step_totals import pretraining_loss
from ldarnet.runtime import distributed

HALF, SINGLE = torch.bfloat16, torch.float32
ARGUMENTS = {
    "convolution": {"x": HALF, "weight": SINGLE, "bias": SINGLE},
    "ssd": {"x": HALF, "dt": SINGLE, "a": SINGLE, "b": HALF, "c": HALF, "d": SINGLE},
    "gated_norm": {"y": HALF, "z": HALF, "weight": SINGLE},
    "attention": {"q": HALF, "k": HALF, "v": HALF},
    "swiglu": {"x": HALF},
    "dechunk": {"chunk": SINGLE, "probability": SINGLE, "confidence": SINGLE, "residual": SINGLE},
}
seen = {}


def spy(operation, function):
    def watched(*arguments):
        dtypes = [value.dtype for value in arguments if isinstance(value, torch.Tensor) and value.is_floating_point()]
        seen.setdefault(operation, set()).add(tuple(dtypes))
        return function(*arguments)

    return watched


def watch_module(name, module):
    module.register_forward_hook(lambda module, given, out: seen.setdefault(name, set()).add((out[0].dtype,)))


for operation in operations():
    known = backends_of(operation)
    known["torch"] = replace(known["torch"], function=spy(operation, known["torch"].function))

world = distributed.start(2)
config = load_config(sys.argv[1], ["training.precision=bf16", "training.accumulation=1", "data.length=64"])
inputs = prepare_inputs(config, world)
engine = build_engine(config, inputs, None, initial_state(config, inputs), world)
backbone = engine.model.model.backbone
exact = {"router": backbone.router, "residual": backbone.residual_proj, "norm": backbone.encoder.norm}
for name, module in {**exact, "head": engine.model.lm_head}.items():
    watch_module(name, module)

ids = torch.randint(0, 4, (8, 64))
loss, totals = pretraining_loss(
    engine.forward(ids), ids, scored=ids.numel(), accumulation=1, target=4.0, weight=0.03, world=world
)
assert loss.dtype == SINGLE, loss.dtype
assert {totals.nll.dtype, totals.ratio.dtype} == {torch.float64}
for operation, dtypes in ARGUMENTS.items():
    expected = tuple(dtypes.values())
    assert seen[operation] == {expected}, f"{operation}{tuple(dtypes)}: {seen[operation]}"
# The first layer of a stack has no residual input; the others add a bf16 matmul output.
assert seen["add_norm"] == {(SINGLE, SINGLE), (HALF, SINGLE, SINGLE)}, seen["add_norm"]
assert all(seen[name] == {(SINGLE,)} for name in (*exact, "head")), seen

engine.backward(loss)
engine.update(1.0, totals.nll / ids.numel())
state = engine.deepspeed.optimizer.optimizer.state.values()
assert {parameter.dtype for parameter in engine.model.parameters()} == {SINGLE}
assert {value.dtype for moments in state for value in moments.values()} == {SINGLE}
distributed.stop()
print("bf16 step done")
