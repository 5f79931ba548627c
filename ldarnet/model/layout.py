"""Parsing of ``arch_layout``, the nested list that describes the hierarchy, e.g. ``["m3t1", ["M10"], "m4"]``.

A stack is a string of layer letters with counts: ``m`` for BiMamba-2, ``t`` for attention; an uppercase letter adds a
SwiGLU MLP. A stage is ``[encoder, inner layout, decoder]``, or ``[stack]`` for the main network.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence

Layout = list  # list[str | Layout]

_TOKEN = re.compile(r"([mMtT])(\d+)")
_STACK = re.compile(r"([mMtT][1-9]\d*)+")
MAX_LAYERS = 1_000
"""Maximum number of layers of a stack."""
MAX_STAGES = 16
MLP_MULTIPLE = 128
RESIDUAL_BRANCHES = {"m": 1, "t": 1, "M": 2, "T": 2}


def layer_letters(stack: str) -> str:
    """Expand a stack to one letter per layer: ``m3t1`` becomes ``mmmt``."""
    return "".join(letter * int(number) for letter, number in _TOKEN.findall(stack))


def residual_branches(*stacks: str) -> int:
    """Count the residual branches of these stacks: one per mixer and one per MLP."""
    return sum(RESIDUAL_BRANCHES[letter] for stack in stacks for letter in layer_letters(stack))


def mlp_width(hidden: int) -> int:
    """Round the hidden width of an MLP up to a multiple of 128."""
    return -(-hidden // MLP_MULTIPLE) * MLP_MULTIPLE


def is_innermost(layout: Sequence) -> bool:
    """Whether this layout is a single stack, without a router."""
    return len(layout) == 1


def depth(layout: Sequence) -> int:
    """Number of stages: one more than the number of routers."""
    return 1 if is_innermost(layout) else 1 + depth(layout[1])


def stage_stacks(layout: Sequence) -> list[list[str]]:
    """Stacks of each stage, outermost first."""
    if is_innermost(layout):
        return [[layout[0]]]
    return [[layout[0], layout[2]], *stage_stacks(layout[1])]


def check_layout(layout: object, stages: int = MAX_STAGES) -> None:
    """Validate a layout.

    Args:
        layout: the layout.
        stages: maximum number of stages.

    Raises:
        ValueError: a part of the layout is not a valid stack or stage, or there are too many layers or stages.
    """
    if stages < 1:
        raise ValueError(f"arch_layout: more than {MAX_STAGES} stages; use fewer")
    match layout:
        case [str() as stack]:
            parts = [stack]
        case [str() as encoder, list() as inner, str() as decoder]:
            parts = [encoder, decoder]
            check_layout(inner, stages - 1)
        case _:
            raise ValueError(
                f"arch_layout: {_shortened(layout)} is neither [stack] nor [encoder, inner layout, decoder], "
                'as in ["m3t1", ["M10"], "m4"]'
            )
    for part in parts:
        if not _STACK.fullmatch(part):
            raise ValueError(
                f"arch_layout: {_shortened(part)} is not a stack; use letters m, t, M and T with counts, as in m3t1"
            )
        if len(part) > 8 * MAX_LAYERS or sum(int(count[:9]) for _, count in _TOKEN.findall(part)) > MAX_LAYERS:
            raise ValueError(f"arch_layout: {_shortened(part)} has more than {MAX_LAYERS:,} layers; use fewer")


def _shortened(value: object) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
