"""Sizes of main networks, so that models with different tokenization have equal training FLOPs per base."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count, groupby

from ldarnet import markdown
from ldarnet.errors import UserError
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.cost import Cost, cost
from ldarnet.model.layout import MAX_LAYERS, MLP_MULTIPLE, Layout, is_innermost, layer_letters, mlp_width, stage_stacks

TOLERANCE = 0.01
"""Maximum relative difference in training FLOPs per base from the reference."""
MLP_RATIOS = (0.5, 4)
"""Range of the MLP hidden width relative to the width; always includes the hidden width of the reference."""


@dataclass(frozen=True)
class ModelArm:
    """A model of a comparison.

    Attributes:
        config: model configuration; `size_arm` replaces the sizes of its main network.
        bases_per_chunk: measured mean chunk length of each router in bases, outermost first; None for the expected
            lengths, see :func:`ldarnet.model.cost.cost`.
        bases_per_token: mean number of bases per token; required for tokens of variable length.

    Raises:
        ValueError: `bases_per_chunk` does not have one value of at least 1 per router, or `bases_per_token` is less
            than 1.
    """

    config: LDARNetConfig
    bases_per_chunk: tuple[float, ...] | None = None
    bases_per_token: float | None = None

    def __post_init__(self) -> None:
        routers = self.config.num_stages - 1
        if self.bases_per_chunk is not None and len(self.bases_per_chunk) != routers:
            raise ValueError(f"bases_per_chunk: needs one value for each of the {routers} routers")
        for name, values in (("bases_per_chunk", self.bases_per_chunk), ("bases_per_token", [self.bases_per_token])):
            if not all(value is None or 1 <= value < math.inf for value in values or ()):
                raise ValueError(f"{name}: must be finite and at least 1, not {getattr(self, name)}")

    def cost(self, length: int) -> Cost:
        """Cost of the model on windows of ``length`` bases."""
        return cost(self.config, length, self.bases_per_chunk, bases_per_token=self.bases_per_token)

    def resized(self, size: MainSize) -> ModelArm:
        """The arm with a main network of this size."""
        config = self.config
        content = deepcopy(config.to_dict()) | {
            "arch_layout": _with_main(config.arch_layout, _stack(config, size.layers)),
            "d_model": [*config.d_model[:-1], size.width],
            "d_intermediate": [*config.d_intermediate[:-1], size.hidden],
        }
        resized = LDARNetConfig.from_dict(content)
        resized.ops = dict(config.ops)
        return replace(self, config=resized)


@dataclass(frozen=True, order=True)
class MainSize:
    """Size of a main network: number of layers, width, and hidden width of its MLPs."""

    layers: int
    width: int
    hidden: int

    @classmethod
    def of(cls, config: LDARNetConfig) -> MainSize:
        """Size of the main network of a model."""
        return cls(sum(number for _, number in _runs(config)), config.d_model[-1], config.d_intermediate[-1])


@dataclass(frozen=True)
class SizedArm:
    """An arm after sizing.

    Attributes:
        arm: the arm with the new sizes.
        cost: its cost; FLOPs per base and number of parameters.
        difference: relative difference in training FLOPs per base from the reference.
    """

    arm: ModelArm
    cost: Cost
    difference: float

    @property
    def config(self) -> LDARNetConfig:
        """Model configuration with the new sizes."""
        return self.arm.config


def size_arm(arm: ModelArm, reference: ModelArm, length: int, *, tolerance: float = TOLERANCE) -> SizedArm:
    """Size the main network of an arm so that its training FLOPs per base match those of the reference.

    Of all sizes within the tolerance, choose the one nearest to the main network of the reference: the same depth and
    width if possible, else the same width, else any.

    Args:
        arm: the arm.
        reference: the arm that sets the FLOPs and the preferred sizes.
        length: window length in bases.
        tolerance: maximum relative difference in training FLOPs per base.

    Raises:
        UserError: no size is within the tolerance; the message has the nearest one.
        ValueError: the tokens of an arm have variable length and `ModelArm.bases_per_token` is missing.
    """
    target, start = reference.cost(length).training_flops, MainSize.of(reference.config)
    differences = {size: flops / target - 1 for size, flops in _sizes(arm, start, length, target, tolerance)}
    matching = [size for size, difference in differences.items() if abs(difference) <= tolerance]
    if not matching:
        nearest = arm.resized(min(differences, key=lambda size: (abs(differences[size]), size)))
        raise UserError(_no_size(nearest.config, nearest.cost(length), target, tolerance))
    sized = arm.resized(min(matching, key=lambda size: _distance(size, start)))
    total = sized.cost(length)
    return SizedArm(sized, total, total.training_flops / target - 1)


def size_table(arms: Mapping[str, SizedArm]) -> str:
    """Markdown table of the sizes and costs of arms, by name."""
    header = (
        *("arm", "main network", "width", "MLP hidden width", "bases per token", "bases per chunk"),
        *("training MFLOP/base", "difference", "parameters"),
    )
    rows = [
        (
            markdown.escape(name),
            _main_stack(one.config),
            one.config.d_model[-1],
            mlp_width(one.config.d_intermediate[-1]) if _has_mlp(one.config) else "-",
            f"{one.cost.bases_per_token:.4g}",
            _chunk_lengths(one.cost),
            one.cost.training_flops / 1e6,
            f"{one.difference:+.2%}",
            f"{one.cost.parameters:,}",
        )
        for name, one in arms.items()
    ]
    return markdown.table(header, rows)


def _no_size(nearest: LDARNetConfig, total: Cost, target: float, tolerance: float) -> str:
    hidden = f", MLP hidden width {nearest.d_intermediate[-1]}" if _has_mlp(nearest) else ""
    if nearest.tokenizer is not None:
        arm = f"{nearest.tokenizer['method']} tokens, {total.bases_per_token:.4g} bases per token"
    elif total.bases_per_chunk:
        arm = f"chunking {nearest.chunking['method']}, {_chunk_lengths(total)} bases per chunk"
    else:
        arm = "layout without chunking"
    return (
        f"no main network has {target / 1e6:.4g} training MFLOP/base within {tolerance:.2%}: {arm}; the nearest is "
        f"{_main_stack(nearest)}, width {nearest.d_model[-1]}{hidden} with {total.training_flops / target - 1:+.2%}; "
        f"use a reference with more FLOPs or a higher tolerance"
    )


def _sizes(
    arm: ModelArm, start: MainSize, length: int, target: float, tolerance: float
) -> Iterator[tuple[MainSize, float]]:
    """Yield sizes and their training FLOPs per base: the best MLP hidden width for each width and depth.

    FLOPs are linear in the number of layers and in the hidden width, and grow with each size. Hence three
    evaluations per width are enough, and the search ends at the first width and depth above the target.
    """
    layer_step, limit = _depth_step(arm.config), target * (1 + tolerance)
    preferred = mlp_width(start.hidden) // MLP_MULTIPLE
    for width in _widths(arm.config):
        fixed, per_layer, per_block = _linear(arm, width, layer_step, length)
        low, high = (math.ceil(ratio * width / MLP_MULTIPLE) for ratio in MLP_RATIOS)
        low, high = min(low, preferred or low), max(high, preferred)
        for layers in range(layer_step, MAX_LAYERS + 1, layer_step):
            base, step = fixed + layers * per_layer, layers * per_block
            blocks = _blocks(target - base, tolerance * target, step, preferred) if step else 0
            blocks = min(max(blocks, low), high)
            hidden = start.hidden if blocks == preferred else blocks * MLP_MULTIPLE
            yield MainSize(layers, width, hidden if step else arm.config.d_intermediate[-1]), base + blocks * step
            if base + low * step > limit:
                break
        if fixed + layer_step * (per_layer + low * per_block) > limit:
            return


def _blocks(budget: float, slack: float, step: float, preferred: int) -> int:
    """Number of blocks of ``step`` FLOPs within the slack nearest to ``preferred``, else nearest to the budget."""
    low, high = math.ceil((budget - slack) / step), math.floor((budget + slack) / step)
    return min(max(preferred, low), high) if low <= high else round(budget / step)


def _linear(arm: ModelArm, width: int, layers: int, length: int) -> tuple[float, float, float]:
    """Training FLOPs per base at a width: fixed, per layer without MLP, and per layer and 128 of MLP hidden width."""

    def flops(layers: int, blocks: int) -> float:
        return arm.resized(MainSize(layers, width, blocks * MLP_MULTIPLE)).cost(length).training_flops

    smallest = flops(layers, 1)
    per_layer = (flops(2 * layers, 1) - smallest) / layers
    per_block = (flops(layers, 2) - smallest) / layers
    return smallest - layers * per_layer, per_layer - per_block, per_block


def _distance(size: MainSize, start: MainSize) -> tuple[int, float, MainSize]:
    """Sort key: which sizes differ from ``start``, by how much in total (log scale), and the size to break ties."""
    changed = 2 if size.width != start.width else int(size.layers != start.layers)
    new, old = ((one.layers, one.width, max(mlp_width(one.hidden), MLP_MULTIPLE)) for one in (size, start))
    return changed, round(sum(abs(math.log(a / b)) for a, b in zip(new, old, strict=True)), 9), size


def _widths(config: LDARNetConfig) -> Iterator[int]:
    """Widths of the main network that the head counts allow, ascending and without end."""
    headdim, expand = config.ssm_cfg["headdim"], config.ssm_cfg["expand"]
    attention = "t" in str(config.arch_layout).lower()
    heads = config.attn_cfg["num_heads"][-1] if attention else 1
    step = math.lcm(headdim // math.gcd(headdim, expand), heads)
    rotary = config.attn_cfg["rotary_emb_dim"][-1] if attention else 0
    minimum = max(config.d_model[-2] if config.num_stages > 1 else 1, rotary * heads)
    return count(-(-minimum // step) * step, step)


def _main_stack(config: LDARNetConfig) -> str:
    return stage_stacks(config.arch_layout)[-1][0]


def _runs(config: LDARNetConfig) -> list[tuple[str, int]]:
    """Runs of equal layers in the main network: letter and number of layers."""
    return [(letter, len([*same])) for letter, same in groupby(layer_letters(_main_stack(config)))]


def _has_mlp(config: LDARNetConfig) -> bool:
    return any(letter.isupper() for letter, _ in _runs(config))


def _depth_step(config: LDARNetConfig) -> int:
    """Number of layers of the smallest main network with the same proportions of layers."""
    numbers = [number for _, number in _runs(config)]
    return sum(numbers) // math.gcd(*numbers)


def _stack(config: LDARNetConfig, layers: int) -> str:
    """Main stack with this many layers, in the same proportions."""
    runs = _runs(config)
    total = sum(number for _, number in runs)
    return "".join(f"{letter}{number * layers // total}" for letter, number in runs)


def _with_main(layout: Layout, stack: str) -> Layout:
    if is_innermost(layout):
        return [stack]
    encoder, inner, decoder = layout
    return [encoder, _with_main(inner, stack), decoder]


def _chunk_lengths(total: Cost) -> str:
    return ", ".join(f"{bases:.4g}" for bases in total.bases_per_chunk) or "-"
