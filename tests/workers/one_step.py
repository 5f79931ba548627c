"""Run by each rank: two optimizer steps in each engine; rank 0 writes gradients, losses and updated weights.

Each argument is `CONFIG:WEIGHTS:FOLDER:ENGINES`: initial weights, output folder, and engines (ZeRO stages) such as
`0,1,2,3,1-offload`.
"""

import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad
from safetensors.torch import load_model, save_file

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.config import load_config
from ldarnet.pretraining.loop import _accumulate, _data
from ldarnet.pretraining.setup import build_engine, initial_state, prepare_inputs
from ldarnet.runtime import distributed
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.timers import StepTimers
from ldarnet.runtime.zero_state import whole_moments, whole_weights


def assert_dtypes(engine: Engine, *, offload: bool) -> None:
    """Check that parameters, master weights and moments are fp32 and on the expected device."""
    optimizer = engine.deepspeed.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    held = [parameter for group in inner.param_groups for parameter in group["params"]]
    held += [value for state in inner.state.values() for value in state.values()]
    assert {tensor.dtype for tensor in (*engine.model.parameters(), *held)} == {torch.float32}
    assert {tensor.device.type for tensor in held} == {"cpu"}
    assert bool(getattr(optimizer, "cpu_offload", getattr(optimizer, "offload_optimizer", False))) == offload


def steps(config_file: str, weights: str, name: str, world: World) -> dict[str, torch.Tensor]:
    """Gradients of step 1, losses of both steps, the resulting weights and moments, and chunks per window."""
    stage, _, offload = name.partition("-")
    config = load_config(config_file, [f"training.zero_stage={stage}", f"training.offload={bool(offload)}"])
    inputs = prepare_inputs(config, world)
    load_model(inputs.model, weights)
    engine = build_engine(config, inputs, None, initial_state(config, inputs), world)
    assert_dtypes(engine, offload=bool(offload))
    tensors, chunks = {}, []
    engine.model.register_forward_hook(
        lambda *call: chunks.append(torch.tensor([[bounds.mask.sum() for bounds in call[-1].boundaries]]))
    )
    for step, batches in enumerate(_data(config, inputs, world, 0, 2)):
        scored = world.sum_on_host(sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in batches))[0]
        totals = _accumulate(engine, batches, scored, StepTimers(), step, world, target=4.0, logged=False)
        if step == 0:
            for parameter_name, parameter in engine.model.named_parameters():
                tensors[f"gradient.{parameter_name}"] = safe_get_full_grad(parameter).float().clone()
        loss = world.sum_on_device(totals.nll) / scored
        tensors[f"loss.{step}"] = torch.stack([loss, totals.ratio])
        engine.update(inputs.schedule.factor(step), loss)
    tensors["chunks"] = torch.stack(world.gather([torch.cat(chunks)]))
    return {**tensors, **dict(whole_weights(engine)), **dict(whole_moments(engine))}


def main(*jobs: str) -> None:
    world = distributed.start(2)
    for job in jobs:
        config_file, weights, out, engines = job.split(":")
        for name in engines.split(","):
            tensors = steps(config_file, weights, name, world)
            if world.is_main:
                contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
                save_file(contiguous, Path(out) / f"{name}.safetensors")
    distributed.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
