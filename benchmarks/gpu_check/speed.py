"""Checks of the model in plain PyTorch: speed, profile, host synchronizations, decrease of the loss."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch

from benchmarks.baselines import CONFIGURATIONS
from benchmarks.gpu_check.results import NOT_RUN, Result
from benchmarks.measure import DTYPES, SEED, Cell, bundled_genome, masked, measure, real_windows
from benchmarks.worker import report_partial
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.cost import dense_bf16_peak
from ldarnet.model.kernel_options import kernel_options
from ldarnet.ops import backends_of, choose_backends, input_dtype

OUT_OF_MEMORY = torch.OutOfMemoryError
LEARNING_RATE = 1e-3
AVERAGED = 10
"""Number of losses at the beginning and at the end whose means are compared."""


def cell(checkpointed: list[int] | None = None, **settings: Any) -> Result:
    """Run a measurement of `benchmarks.measure`; if memory runs out, halve the number of windows and try again."""
    described = Cell(checkpointed=tuple(checkpointed or ()), **settings)
    while True:
        try:
            result = measure(described)
            break
        except OUT_OF_MEMORY:
            if described.windows == 1:
                raise
            described = replace(described, windows=described.windows // 2)
        gc.collect()
        if described.device == "cuda":
            torch.cuda.empty_cache()
    peak = dense_bf16_peak(str(result.get("device", "")))
    return {**result, "windows": described.windows, "peak_flops": peak}


def alternative(**settings: Any) -> Result:
    """Run `cell` with a backend that is not selected automatically; `settings["ops"]` names it."""
    ((operation, name),) = settings["ops"].items()
    device, dtype = settings["device"], DTYPES[settings["dtype"]]
    if reason := backends_of(operation)[name].unsupported_reason(device, input_dtype(operation, dtype)):
        return {NOT_RUN: reason}
    options = kernel_options(CONFIGURATIONS[settings["model"]]())
    if choose_backends(device, dtype, options)[operation] == name:
        return {NOT_RUN: "this backend is selected automatically"}
    return cell(**settings)


def learning(device: str, model: str, length: int, windows: int, steps: int) -> Result:
    """Train a new model on real windows, each used once, in bf16; report whether the loss falls.

    Raises:
        ImportError: a package that reads the bundled genome is missing; random bases cannot be learned.
    """
    bundled_genome()
    ids, source = real_windows(windows * steps, length)
    torch.manual_seed(SEED)
    with torch.device(device):
        network = LDARNetForMaskedLM(LDARNetConfig.preset(model))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(SEED))
    inputs, labels = masked(ids[order])
    losses = []
    for batch_ids, batch_labels in zip(inputs.split(windows), labels.split(windows), strict=True):
        real = torch.ones(batch_ids.shape, dtype=torch.bool)
        with torch.autocast(device, torch.bfloat16):
            loss = network(batch_ids.to(device), real, batch_labels.to(device)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if len(losses) % 50 == 0:
            report_partial({"source": source, "losses": torch.stack(losses).tolist()})
    values = torch.stack(losses).double().cpu()
    count = min(AVERAGED, max(len(values) // 2, 1))
    first, last = values[:count].mean().item(), values[-count:].mean().item()
    return {
        "source": source,
        "windows": windows,
        "steps": steps,
        "first_loss": first,
        "last_loss": last,
        "averaged": count,
        "falls": last < first,
        "losses": values.tolist(),
    }
