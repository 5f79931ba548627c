"""Run by one rank: a training step under bf16 autocast that fails if an operation runs in an unexpected precision."""

import sys
from dataclasses import replace

import torch

from ldarnet.config import load_config
from ldarnet.model.chunking import Routing
from ldarnet.ops import backends_of, operations
from ldarnet.pretraining.setup import build_engine, initial_state, prepare_inputs
from ldarnet.pretraining.step_totals import pretraining_loss
from ldarnet.runtime import distributed

BF16, FP32 = torch.bfloat16, torch.float32
ARGUMENTS = {
    "convolution": {"x": BF16, "weight": FP32, "bias": FP32},
    "ssd": {"x": BF16, "dt": BF16, "dt_bias": FP32, "a_log": FP32, "b": BF16, "c": BF16, "d": FP32},
    "gated_norm": {"y": BF16, "z": BF16, "weight": FP32},
    "attention": {"q": BF16, "k": BF16, "v": BF16},
    "rotary": {"qkv": BF16},
    "router": {"q": FP32, "k": FP32},
    "swiglu": {"x": BF16},
    "dechunk": {"chunk": FP32, "probability": FP32, "confidence": FP32, "residual": FP32},
}
seen = {}


def spy(operation, function):
    def watched(*arguments):
        dtypes = [value.dtype for value in arguments if isinstance(value, torch.Tensor) and value.is_floating_point()]
        seen.setdefault(operation, set()).add(tuple(dtypes))
        return function(*arguments)

    return watched


def dtype_of(output):
    return (output.probability if isinstance(output, Routing) else output[0]).dtype


def watch_module(name, module):
    module.register_forward_hook(lambda module, inputs, out: seen.setdefault(name, set()).add((dtype_of(out),)))


for operation in operations():
    known = backends_of(operation)
    known["torch"] = replace(known["torch"], function=spy(operation, known["torch"].function))

world = distributed.start(2)
config = load_config(sys.argv[1], ["training.precision=bf16", "training.accumulation=1", "data.length=64"])
inputs = prepare_inputs(config, world)
engine = build_engine(config, inputs, None, initial_state(config, inputs), world)
backbone = engine.model.model.backbone
fp32_modules = {"router module": backbone.router, "residual": backbone.residual_proj, "norm": backbone.encoder.norm}
for name, module in {**fp32_modules, "head": engine.model.lm_head}.items():
    watch_module(name, module)

ids = torch.randint(0, 4, (8, 64))
loss, totals = pretraining_loss(
    engine.forward(ids), ids, scored=ids.numel(), accumulation=1, target=4.0, config=inputs.model.config, world=world
)
assert loss.dtype == FP32, loss.dtype
assert {totals.nll.dtype, totals.ratio.dtype} == {torch.float64}
for operation, dtypes in ARGUMENTS.items():
    expected = tuple(dtypes.values())
    assert seen[operation] == {expected}, f"{operation}{tuple(dtypes)}: {seen[operation]}"
# The first layer of a stack has no residual input; the others add a bf16 matmul output.
assert seen["add_norm"] == {(FP32, FP32), (BF16, FP32, FP32)}, seen["add_norm"]
assert all(seen[name] == {(FP32,)} for name in (*fp32_modules, "head")), seen

engine.backward(loss)
engine.update(1.0, totals.nll / ids.numel())
state = engine.deepspeed.optimizer.optimizer.state.values()
assert {parameter.dtype for parameter in engine.model.parameters()} == {FP32}
assert {value.dtype for moments in state for value in moments.values()} == {FP32}
distributed.stop()
print("bf16 step done")
