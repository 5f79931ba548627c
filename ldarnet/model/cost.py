"""What a model costs: its parameters, the floating-point operations of a base, and the bytes kept for its gradient.

Operations are those of matrix products, 2 for every multiplication with its addition; all else (convolution, norms,
gates, decays) is elementwise and not counted. Per position of a stage of width D, inner width E = expand * D, state
width N, H heads of the scan, hidden width F of the MLP (rounded up to 128), in the forward pass:

    projections   2 D (2E + 2N + H) in, 2 E D out: once, for both reading directions
    scan          2QN for C.B^T, 2QE within a block of Q positions, 4NE for states in and out; in each of 2 directions
                  (arXiv 2405.21060, section 6; B and C are shared by the heads)
    attention     6 D^2 in, 2 D^2 out, 4 D for every key that the position sees
    MLP           4 D F in, 2 F D out
    router        4 D^2
    residual path 2 D^2
    dechunking    a scan per chunk with E = D, N = 1 and blocks of 32
    head          2 D V for V letters

The backward pass takes twice as much. That sum is the model's operations, which utilisation (MFU) is reckoned from
(arXiv 2204.02311, appendix B). What a machine executes is more where it saves memory: the scan computes all but
what happens within a block again, attention its scores, and a stage that is recomputed all of its layers but their last
products.

The larger Q, the more operations for the same result. Q is 64 here whatever a kernel takes (mamba-ssm: 256), so that a
run is not credited for a larger block.

    python -m ldarnet.model.cost ldarnet-110m
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ldarnet import markdown
from ldarnet.model.blocks import mlp_width
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import is_innermost, layer_letters
from ldarnet.ops.slabs import slabs

SCAN_BLOCK, DECHUNK_BLOCK = 64, 32
EXACT, IDENTIFIER = 4, 8
"""Bytes of a float32 and of an int64."""
LONG_ROW = 2**16


PEAKS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Floating-point operations per second of dense bf16 matrix products, from NVIDIA's data sheet of each GPU; the sheets
of Ada, Hopper and Blackwell give twice as much, for sparse matrices. A variant stands before the plain one."""


def dense_bf16_peak(gpu: str) -> float | None:
    """Operations per second that a GPU of this name can do at most; None if it is unknown or a part of one (MIG)."""
    words = gpu.replace("-", " ").split()
    known = (peak for name, peak in PEAKS.items() if set(name.split()) <= set(words))
    return None if "MIG" in words else next(known, None)


@dataclass(frozen=True)
class Item:
    """What one operation in one part of the model costs; all but the parameters per base.

    Attributes:
        operation: such as ``scan``.
        parameters: number of them.
        forward: operations of the forward pass.
        again: operations that the backward pass repeats.
        kept: bytes kept from the forward to the backward pass.
        part: such as ``encoder``; ``encoder 1`` in the stage after the outermost.
    """

    operation: str
    parameters: int = 0
    forward: float = 0.0
    again: float = 0.0
    kept: float = 0.0
    part: str = ""


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        items: in the order of the network.
        bases_per_chunk: by chunking, the outermost first, counted in bases.
    """

    items: tuple[Item, ...]
    bases_per_chunk: tuple[float, ...]

    @property
    def parameters(self) -> int:
        """Parameters of the model; tied ones counted once."""
        return sum(item.parameters for item in self.items)

    @property
    def forward(self) -> float:
        """Operations per base of the forward pass."""
        return sum(item.forward for item in self.items)

    @property
    def training(self) -> float:
        """Operations per base of forward and backward pass; what is repeated does not count."""
        return 3 * self.forward

    @property
    def executed(self) -> float:
        """Operations per base of forward and backward pass, with what is repeated to save memory."""
        return self.training + sum(item.again for item in self.items)

    @property
    def kept(self) -> float:
        """Bytes per base kept from the forward to the backward pass.

        A layer that is recomputed keeps its inputs; while its gradient is taken it needs the rest for a moment.
        """
        return sum(item.kept for item in self.items)

    def by(self, attribute: str) -> dict[str, Cost]:
        """The cost of every ``part`` or ``operation``."""
        names = dict.fromkeys(getattr(item, attribute) for item in self.items)
        return {
            name: replace(self, items=tuple(item for item in self.items if getattr(item, attribute) == name))
            for name in names
        }

    def table(self, attribute: str = "part") -> str:
        """A row for every part, or every operation, and one for the whole, as Markdown."""
        rows = [
            (
                name,
                f"{cost.parameters:,}",
                f"{cost.forward / 1e6:.3f}",
                f"{cost.training / 1e6:.3f}",
                f"{cost.forward / self.forward:.1%}",
                f"{cost.kept / 1e3:.1f}",
            )
            for name, cost in {**self.by(attribute), "all": self}.items()
        ]
        header = (attribute, "parameters", "MFLOP a base, forward", "training", "share", "kB kept a base")
        return markdown.table(header, rows)


def cost(
    config: LDARNetConfig,
    length: int,
    bases_per_chunk: Sequence[float] | None = None,
    *,
    recompute: Collection[int] = (),
    autocast: bool = False,
    device: str = "cpu",
) -> Cost:
    """What a model costs on windows of a length, computed by the reference operations.

    Args:
        config: the model's configuration.
        length: bases of a window.
        bases_per_chunk: of every chunking, the outermost first, each counted in bases; by default what
            ``config.target_ratio`` aims at.
        recompute: stages whose layers are computed again in the backward pass.
        autocast: whether matrix products take and give 2 bytes a number instead of 4.
        device: a torch device type; on a CPU the scan keeps more states.
    """
    if bases_per_chunk is None:
        bases_per_chunk = [config.target_ratio**stage for stage in range(1, config.num_stages)]
    counter = _Counter(config, length, (1.0, *bases_per_chunk), recompute, 2 if autocast else EXACT, device)
    return Cost((counter.ends(), *counter.network(config.arch_layout, 0)), tuple(bases_per_chunk))


def keys_per_query(length: float, window: int) -> float:
    """Positions seen by a position on average, itself among them: those up to ``window`` away, all if it is -1."""
    if window < 0 or window >= length - 1:
        return length
    return 2 * window + 1 - window * (window + 1) / length


@dataclass(frozen=True)
class _Counter:
    """Items of the operations; those of a layer are counted per position of its stage and get their part later.

    Attributes:
        config: of the model.
        length: bases of a window.
        bases: bases per position, by stage.
        recompute: stages.
        size: bytes of a number that goes into a matrix product.
        device: a torch device type.
    """

    config: LDARNetConfig
    length: int
    bases: tuple[float, ...]
    recompute: Collection[int]
    size: int
    device: str

    def ends(self) -> Item:
        """Embedding, head and loss: kept are ids, labels and the logarithms of the probabilities."""
        width, letters = self.config.d_model[0], self.config.vocab_size
        tables = 1 if self.config.tie_word_embeddings else 2
        kept = letters * EXACT + 2 * IDENTIFIER
        return Item("head", tables * letters * width, 2 * letters * width, kept=kept, part="embedding and head")

    def network(self, layout: list, stage: int) -> Iterator[Item]:
        """A stage and all inside it."""
        widening = Item("widening", self.config.d_model[stage] - self.config.d_model[max(stage - 1, 0)])
        if is_innermost(layout):
            yield from self._part("main network", stage, [widening, *self.stack(layout[0], stage)])
            return
        number = f" {stage}" if stage else ""
        encoder, inner, decoder = layout
        yield from self._part(f"encoder{number}", stage, [widening, *self.stack(encoder, stage)])
        yield from self._part(f"chunking{number}", stage, self.router(stage))
        yield from self._part(f"chunking{number}", stage + 1, [self.dechunking(stage)])
        yield from self.network(inner, stage + 1)
        yield from self._part(f"decoder{number}", stage, self.stack(decoder, stage))

    def _part(self, part: str, stage: int, items: Iterable[Item]) -> Iterator[Item]:
        """Items that were counted per position of a stage, per base."""
        bases = self.bases[stage]
        for item in items:
            forward, again, kept = item.forward / bases, item.again / bases, item.kept / bases
            yield replace(item, part=part, forward=forward, again=again, kept=kept)

    def stack(self, letters: str, stage: int) -> Iterator[Item]:
        """Layers and the last norm, which keeps the sum of the residual stream and its result."""
        D = self.config.d_model[stage]
        letters = layer_letters(letters)
        for number, letter in enumerate(letters):
            items = self.layer(letter, stage)
            if stage in self.recompute:
                # Nothing is added before the first layer, so without an MLP it hands on the stream that it got.
                same = number == 1 and letters[0].islower()
                inputs = (0 if same else EXACT * D) + (self.size * D if number else 0)
                items = [replace(item, again=item.again + item.forward, kept=0) for item in items]
                items[0] = replace(items[0], kept=inputs)
                items[-1] = replace(items[-1], again=items[-1].again - items[-1].forward)
            yield from items
        yield Item("norms", D, kept=2 * EXACT * D)

    def layer(self, letter: str, stage: int) -> list[Item]:
        """A layer's operations in their order."""
        norm = Item("norms", self.config.d_model[stage], kept=EXACT * self.config.d_model[stage])
        mixer = self.attention(stage) if letter in "tT" else self.bimamba(stage)
        return [norm, *mixer, *([norm, *self.mlp(stage)] if letter.isupper() else [])]

    def bimamba(self, stage: int) -> list[Item]:
        """What :class:`ldarnet.model.bimamba2.BiMamba2` computes."""
        ssm, D, Q = self.config.ssm_cfg, self.config.d_model[stage], SCAN_BLOCK
        E, N = ssm["expand"] * D, ssm["d_state"]
        H, C = E // ssm["headdim"], E + 2 * N
        states = len(slabs(torch.device(self.device), LONG_ROW, E, Q)) / LONG_ROW
        return [
            Item("projections", (E + C + H) * D, 2 * (E + C + H) * D, kept=self.size * (D + E + C + H)),
            Item("convolution", 2 * (ssm["d_conv"] + 1) * C, kept=2 * self.size * C),
            Item(
                "scan",
                6 * H,
                2 * (2 * Q * N + 2 * Q * E + 4 * N * E),
                2 * (2 * Q * N + 4 * N * E),
                2 * EXACT * (3 * H + N * E * states),
            ),
            Item("norms", 2 * E, kept=2 * self.size * E),
            Item("projections", E * D, 2 * E * D, kept=self.size * E),
        ]

    def attention(self, stage: int) -> list[Item]:
        """What :class:`ldarnet.model.blocks.LocalAttention` computes."""
        settings, D = self.config.attn_cfg, self.config.d_model[stage]
        keys = keys_per_query(self.length / self.bases[stage], settings["window_size"][stage])
        heads, angles = settings["num_heads"][stage], 2 * settings["rotary_emb_dim"][stage]
        return [
            Item("projections", 3 * D * D, 6 * D * D, kept=self.size * 4 * D),
            Item("attention", 0, 4 * D * keys, 2 * D * keys, self.size * 3 * D + EXACT * (heads + angles)),
            Item("projections", D * D, 2 * D * D, kept=self.size * D),
        ]

    def mlp(self, stage: int) -> list[Item]:
        """What :class:`ldarnet.model.blocks.SwiGLU` computes."""
        D, F = self.config.d_model[stage], mlp_width(self.config.d_intermediate[stage])
        return [
            Item("MLP", 2 * D * F, 4 * D * F, kept=self.size * (D + 2 * F)),
            Item("MLP", F * D, 2 * F * D, kept=self.size * F),
        ]

    def router(self, stage: int) -> list[Item]:
        """Kept are queries and keys, before and after they are normalised, and some numbers a base."""
        D = self.config.d_model[stage]
        return [
            Item("router", 2 * D * D, 4 * D * D, kept=EXACT * (4 * D + 5) + 2),
            Item("residual path", D * D + D, 2 * D * D, kept=EXACT * (D + 1) + IDENTIFIER),
        ]

    def dechunking(self, stage: int) -> Item:
        """The smoothing of chunks; per chunk."""
        D, Q = self.config.d_model[stage], DECHUNK_BLOCK
        return Item("dechunking", 0, 2 * (2 * Q + 2 * Q * D + 4 * D), 2 * (2 * Q + 4 * D), EXACT * (D + 8) + IDENTIFIER)


def report(preset: str, length: int) -> str:
    """The tables of a preset at its target of bases per chunk; memory as under bf16 autocast on a GPU."""
    config = LDARNetConfig.preset(preset)
    whole = cost(config, length, autocast=True, device="cuda")
    rows = []
    for stages in ([], [0], [*range(config.num_stages)]):
        spent = cost(config, length, recompute=stages, autocast=True, device="cuda")
        rows.append((stages or "none", f"{spent.executed / 1e6:.1f}", f"{spent.kept / 1e3:.1f}"))
    return "\n\n".join(
        [
            f"{preset}, windows of {length:,} bases, {config.target_ratio:g} bases per chunk:",
            whole.table(),
            whole.table("operation"),
            markdown.table(("recomputed stages", "MFLOP a base executed in training", "kB kept a base"), rows),
        ]
    )


if __name__ == "__main__":
    print(report(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4096))
