"""Run by each rank: one optimiser step at each ZeRO stage; rank 0 writes gradients and new weights of each."""

import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad
from safetensors.torch import save_file

from ldarnet.alphabet import NOT_SCORED
from ldarnet.config import load_config
from ldarnet.training import distributed
from ldarnet.training.loop import _accumulate, _data
from ldarnet.training.run_folder import Found
from ldarnet.training.session import build_engine, prepare_inputs
from ldarnet.training.state import whole_moments, whole_parameters


def main(config_file: str, out: str, stages: str) -> None:
    world = distributed.start(2)
    for stage in stages:
        config = load_config(config_file, [f"training.zero_stage={stage}"])
        inputs = prepare_inputs(config, world)
        torch.manual_seed(5)
        for parameter in inputs.model.parameters():
            # Fresh weights are too regular for a test: several are zero.
            torch.nn.init.normal_(parameter, std=0.3)
        engine = build_engine(config, inputs, Found(), world)
        assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}
        gradients = {}
        for step, batches in enumerate(_data(config, inputs, world, 0, 2)):
            scored = world.sum_on_host(sum(int((batch.labels != NOT_SCORED).sum()) for batch in batches))[0]
            _accumulate(engine, batches, scored, world)
            if step == 0:
                gradients = {
                    f"gradient.{name}": safe_get_full_grad(parameter).float().clone()
                    for name, parameter in engine.model.named_parameters()
                }
            engine.update(step)
        tensors = {**gradients, **dict(whole_parameters(engine)), **dict(whole_moments(engine))}
        if world.is_main:
            contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, Path(out) / f"stage{stage}-ranks{world.size}.safetensors")
    distributed.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
