"""Device synchronizations that DeepSpeed adds to a training step, counted on a CPU."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.accelerator import get_accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from ldarnet.config.optimization import AdamWSection
from ldarnet.config.schema import GuardSection
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions
from ldarnet.runtime.zero_state import prepare_optimizer_state

DEEPSPEED, LDARNET = (Path(str(package.__file__)).parent for package in (deepspeed, sys.modules["ldarnet"]))
STEPS, MICRO_STEPS = 4, 2
RECORDED_STEPS = 2
"""Steps until ZeRO stage 3 has recorded the order of the parameters and compared it between ranks."""
COMPARISON = {
    "assert_lst_len_same_as_other_ranks cpu",
    "assert_lst_len_same_as_other_ranks item",
    "get_lst_from_rank0 cpu",
    "get_lst_from_rank0 item",
}


class Waits(TorchDispatchMode):
    """Counts the calls of DeepSpeed that would wait for an accelerator.

    Attributes:
        places: "<function of DeepSpeed> <call>" -> number of calls.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        patch.setattr(type(get_accelerator()), "synchronize", self._counted("synchronize", lambda *_: None))
        for name in ("cpu", "tolist", "numpy"):
            patch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:  # item(), float(), bool()
            self._count("item")
        return func(*args, **kwargs or {})

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count(name)
            return function(*args, **kwargs)

        return counted

    def _count(self, call: str) -> None:
        """Count the call if its innermost frame in DeepSpeed or this package is in DeepSpeed."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(LDARNET):
            if Path(frame.f_code.co_filename).is_relative_to(DEEPSPEED):
                name = frame.f_code.co_qualname.partition(".<locals>")[0]
                self.places[f"{name} {call}"] += 1
                return
            frame = frame.f_back


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_does_not_wait_for_the_device(stage: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    group = {"params": list(model.parameters()), "name": "all", "lr": 1e-3, "base_lr": 1e-3, "weight_decay": 0.0}
    engine = Engine(model, [group], EngineOptions(AdamWSection(), GuardSection(), MICRO_STEPS, stage, True), world)
    prepare_optimizer_state(engine)
    first: set[str] = set()
    with Waits(monkeypatch) as waits:
        for step in range(STEPS):
            for _ in range(MICRO_STEPS):
                loss = engine.forward(torch.randint(0, 4, (2, 64))).logits.float().square().mean()
                engine.backward(loss)
            engine.update(1.0, loss.detach())
            if step + 1 == RECORDED_STEPS:
                first = set(waits.places)
                waits.places.clear()
    assert not waits.places
    assert first == (COMPARISON if stage == 3 else set())
