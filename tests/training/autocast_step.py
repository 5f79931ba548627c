"""One step under bf16 autocast; says on its output what stayed in float32."""

import sys

import torch

from ldarnet.config import load_config
from ldarnet.training import distributed
from ldarnet.training.run_folder import Found
from ldarnet.training.session import build_engine, prepare_inputs

world = distributed.start(2)
config = load_config(sys.argv[1], ["training.precision=bf16", "training.accumulation=1", "data.length=64"])
inputs = prepare_inputs(config, world)
engine = build_engine(config, inputs, Found(), world)
seen = {}
router, mixer = engine.model.model.backbone.router, engine.model.model.backbone.encoder.layers[0].mixer
router.register_forward_hook(lambda module, args, out: seen.update(router=out[0].dtype))
mixer.in_proj.register_forward_hook(lambda module, args, out: seen.update(in_proj=out.dtype))
out = engine.forward(torch.randint(0, 4, (8, 64)))
assert seen == {"router": torch.float32, "in_proj": torch.bfloat16}, seen
assert out.logits.dtype == torch.bfloat16
engine.backward(out.logits.float().square().mean())
engine.update(0)
assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}
distributed.stop()
print("bf16 step done")
