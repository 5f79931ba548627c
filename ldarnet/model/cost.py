"""Analytical cost of a model: parameters, FLOPs per base, and activation memory per base.

FLOPs are those of matrix products (2 per multiply-add); elementwise work (convolution, norms, gates, decays) is not
counted. Forward FLOPs per position of a stage, for width D, inner width E = expand * D, state width N, H scan heads and
MLP hidden width F (rounded up to a multiple of 128):

    projections    2 D (2E + 2N + H) for in_proj, 2 E D for out_proj; shared by both directions
    scan           in each direction, 2QN for the scores C.B^T (shared by the heads) within a block of Q positions,
                   2QE for the product of the scores and the inputs, and 4NE for writing and reading the states
                   (arXiv 2405.21060, section 6)
    attention      6 D^2 for qkv_proj, 2 D^2 for out_proj, 4 D per visible key (in causal models, only keys to the left)
    MLP            4 D F for fc1, 2 F D for fc2
    router         4 D^2 for the query and key projections
    residual path  2 D^2
    dechunking     as for the scan with E = D, N = 1 and Q = 32, but per chunk, in each direction of the smoothing
    head           2 D V for vocabulary size V

The backward pass costs twice the forward pass. The sum of both passes is the model FLOPs, from which MFU is computed
(arXiv 2204.02311, appendix B). Hardware FLOPs also include the forward FLOPs that the backward pass repeats to
save memory: those of the attention scores, and those of the scan without the 2QE term. In stages with activation
checkpointing, the backward pass also repeats every layer except its last projection.

The FLOPs of the scan grow with Q, but its result does not depend on Q. Here Q is 64 regardless of the kernel's block
size (256 in mamba-ssm), so that a larger block does not raise the reported MFU.

    python -m ldarnet.model.cost ldarnet-110m
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ldarnet import markdown
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import is_innermost, layer_letters, mlp_width
from ldarnet.ops.slabs import slabs
from ldarnet.tokenization import tokenization

SCAN_BLOCK, DECHUNK_BLOCK = 64, 32
FP32_BYTES, INT64_BYTES = 4, 8
LONG_ROW = 2**16
"""Row length, in positions, used to estimate the number of slabs per position."""

PEAK_BF16_FLOPS = {
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
"""Peak dense bf16 FLOP/s from NVIDIA's data sheets. The data sheets of Ada, Hopper and Blackwell GPUs list the sparse
peak, which is twice as high. More specific names come first, because the first match is used."""


def dense_bf16_peak(gpu: str) -> float | None:
    """Peak dense bf16 FLOP/s of the GPU with this name; None for unknown GPUs and MIG slices."""
    words = gpu.replace("-", " ").split()
    known = (peak for name, peak in PEAK_BF16_FLOPS.items() if set(name.split()) <= set(words))
    return None if "MIG" in words else next(known, None)


@dataclass(frozen=True)
class CostItem:
    """Cost of one operation in one part of the model; all numbers except ``parameters`` are per base.

    Attributes:
        operation: name of the operation, for example ``scan``.
        forward_flops: FLOPs of the forward pass.
        recomputed_flops: forward FLOPs that the backward pass repeats.
        activation_bytes: bytes saved by the forward pass for the backward pass.
        part: part of the model, for example ``encoder``, or ``encoder 1`` for the encoder of stage 1.
    """

    operation: str
    parameters: int = 0
    forward_flops: float = 0.0
    recomputed_flops: float = 0.0
    activation_bytes: float = 0.0
    part: str = ""


@dataclass(frozen=True)
class Cost:
    """Cost of a model.

    Attributes:
        items: cost items in network order.
        bases_per_chunk: mean chunk length of each router in bases, outermost first.
        bases_per_token: mean number of bases per token; 1 for a model that reads bases.
    """

    items: tuple[CostItem, ...]
    bases_per_chunk: tuple[float, ...]
    bases_per_token: float

    @property
    def parameters(self) -> int:
        """Number of parameters; tied parameters count once."""
        return sum(item.parameters for item in self.items)

    @property
    def forward_flops(self) -> float:
        """FLOPs per base of the forward pass."""
        return sum(item.forward_flops for item in self.items)

    @property
    def training_flops(self) -> float:
        """Model FLOPs per base of the forward and backward passes, without recomputation."""
        return 3 * self.forward_flops

    @property
    def hardware_flops(self) -> float:
        """FLOPs per base of the forward and backward passes, including recomputation."""
        return self.training_flops + sum(item.recomputed_flops for item in self.items)

    @property
    def activation_bytes(self) -> float:
        """Bytes per base saved for the backward pass.

        Of a checkpointed layer, only the inputs are counted, not the temporary memory for recomputing the layer.
        """
        return sum(item.activation_bytes for item in self.items)

    def group_by(self, attribute: str) -> dict[str, Cost]:
        """Split the cost by an attribute of its items, ``part`` or ``operation``."""
        names = dict.fromkeys(getattr(item, attribute) for item in self.items)
        return {
            name: replace(self, items=tuple(item for item in self.items if getattr(item, attribute) == name))
            for name in names
        }

    def table(self, attribute: str = "part") -> str:
        """Markdown table with one row per part (or operation) and one for the total."""
        rows = [
            (
                name,
                f"{cost.parameters:,}",
                f"{cost.forward_flops / 1e6:.3f}",
                f"{cost.training_flops / 1e6:.3f}",
                f"{cost.forward_flops / self.forward_flops:.1%}",
                f"{cost.activation_bytes / 1e3:.1f}",
            )
            for name, cost in {**self.group_by(attribute), "total": self}.items()
        ]
        header = (attribute, "parameters", "MFLOP/base, forward", "training", "fraction of FLOPs", "activation kB/base")
        return markdown.table(header, rows)


def cost(
    config: LDARNetConfig,
    length: int,
    bases_per_chunk: Sequence[float] | None = None,
    *,
    bases_per_token: float | None = None,
    activation_checkpointing: Collection[int] = (),
    autocast: bool = False,
    device: str = "cpu",
) -> Cost:
    """Estimate the cost of a model on windows of ``length`` bases.

    Activation memory is that of the reference kernels; under autocast on a GPU, that of the Triton scan.

    Args:
        config: model configuration.
        length: window length in bases.
        bases_per_chunk: mean chunk length of each router in bases, outermost first; by default, R, R**2 and so on,
            where R is the expected ratio of the chunking method, usually ``config.target_ratio``; required for methods
            without an expected ratio.
        bases_per_token: mean number of bases per token. By default, 1 for a model that reads bases, and that of
            windows of ``length`` bases for k-mers; required for tokens of variable length.
        activation_checkpointing: stages with activation checkpointing; 0 is the outermost stage.
        autocast: whether matrix products run in a 2-byte dtype instead of float32.
        device: torch device type; the scan saves different tensors for the backward pass on a CPU and on a GPU.

    Raises:
        ValueError: ``bases_per_token`` or ``bases_per_chunk`` is missing.
    """
    if bases_per_chunk is None:
        ratio = config.expected_ratio
        if ratio is None:
            raise ValueError(f"bases_per_chunk: give it for chunking method {config.chunking['method']}")
        bases_per_chunk = [ratio**stage for stage in range(1, config.num_stages)]
    size = 2 if autocast else FP32_BYTES
    bases = bases_per_token or _bases_per_token(config, length)
    counter = _Counter(config, length, (bases, *bases_per_chunk), activation_checkpointing, size, device)
    ends = counter.per_base("embedding and head", 0, [counter.ends()])
    return Cost((*ends, *counter.network(config.arch_layout, 0)), tuple(bases_per_chunk), bases)


def _bases_per_token(config: LDARNetConfig, length: int) -> float:
    if config.tokenizer is None:
        return 1.0
    count = tokenization(config.tokenizer).token_count(length)
    if count is None:
        raise ValueError(f"bases_per_token: give it for {config.tokenizer['method']} tokens, whose lengths vary")
    return length / count


def keys_per_query(length: float, window: int, causal: bool = False) -> float:
    """Mean number of visible keys per query, including the key at the query's position.

    ``window`` is the number of visible positions on each side; -1 for no limit. If ``causal``, only positions to the
    left are visible.
    """
    whole = window < 0 or window >= length - 1
    keys = length if whole else 2 * window + 1 - window * (window + 1) / length
    return (keys + 1) / 2 if causal else keys


@dataclass(frozen=True)
class _Counter:
    """Builds the cost items of a model.

    Methods for layers return costs per position of their stage; `per_base` converts them to costs per base.

    Attributes:
        length: window length in bases.
        bases: mean number of bases per position, by stage; more than 1 in stage 0 if the model reads tokens.
        checkpointed: stages with activation checkpointing; 0 is the outermost stage.
        size: bytes per element of matrix product inputs and outputs.
    """

    config: LDARNetConfig
    length: int
    bases: tuple[float, ...]
    checkpointed: Collection[int]
    size: int
    device: str

    def ends(self) -> CostItem:
        """Cost of embedding, head and loss; ids, labels and log-probabilities are saved for the backward pass."""
        width, vocab = self.config.d_model[0], self.config.vocab_size
        tables = 1 if self.config.tie_word_embeddings else 2
        saved = vocab * FP32_BYTES + 2 * INT64_BYTES
        parameters = tables * vocab * width
        return CostItem("head", parameters, 2 * vocab * width, activation_bytes=saved)

    def network(self, layout: list, stage: int) -> Iterator[CostItem]:
        """Yield the cost items of a stage and all stages inside it."""
        widening = CostItem("widening", self.config.d_model[stage] - self.config.d_model[max(stage - 1, 0)])
        if is_innermost(layout):
            yield from self.per_base("main network", stage, [widening, *self.stack(layout[0], stage)])
            return
        number = f" {stage}" if stage else ""
        encoder, inner, decoder = layout
        yield from self.per_base(f"encoder{number}", stage, [widening, *self.stack(encoder, stage)])
        yield from self.per_base(f"chunking{number}", stage, self.router(stage))
        yield from self.per_base(f"chunking{number}", stage + 1, [self.dechunking(stage)])
        yield from self.network(inner, stage + 1)
        yield from self.per_base(f"decoder{number}", stage, self.stack(decoder, stage))

    def per_base(self, part: str, stage: int, items: Iterable[CostItem]) -> Iterator[CostItem]:
        """Convert costs per position of a stage to costs per base."""
        bases = self.bases[stage]
        for item in items:
            yield replace(
                item,
                part=part,
                forward_flops=item.forward_flops / bases,
                recomputed_flops=item.recomputed_flops / bases,
                activation_bytes=item.activation_bytes / bases,
            )

    def stack(self, letters: str, stage: int) -> Iterator[CostItem]:
        """Yield the cost items of the layers and of the final norm, which saves its output and the residual sum."""
        D = self.config.d_model[stage]
        letters = layer_letters(letters)
        for number, letter in enumerate(letters):
            items = self.layer(letter, stage)
            if stage in self.checkpointed:
                # Layer 0 adds no branch before its mixer, so without an MLP layer 1 saves the same residual tensor.
                same = number == 1 and letters[0].islower()
                inputs = (0 if same else FP32_BYTES * D) + (self.size * D if number else 0)
                items = [
                    replace(item, recomputed_flops=item.recomputed_flops + item.forward_flops, activation_bytes=0)
                    for item in items
                ]
                items[0] = replace(items[0], activation_bytes=inputs)
                items[-1] = replace(items[-1], recomputed_flops=items[-1].recomputed_flops - items[-1].forward_flops)
            yield from items
        yield CostItem("norms", D, activation_bytes=2 * FP32_BYTES * D)

    def layer(self, letter: str, stage: int) -> list[CostItem]:
        """Cost items of a layer in execution order."""
        norm = CostItem("norms", self.config.d_model[stage], activation_bytes=FP32_BYTES * self.config.d_model[stage])
        mixer = self.attention(stage) if letter in "tT" else self.bimamba(stage)
        return [norm, *mixer, *([norm, *self.mlp(stage)] if letter.isupper() else [])]

    def bimamba(self, stage: int) -> list[CostItem]:
        """Cost items of :class:`ldarnet.model.bimamba2.BiMamba2`."""
        ssm, D, Q = self.config.ssm_cfg, self.config.d_model[stage], SCAN_BLOCK
        E, N = ssm["expand"] * D, ssm["d_state"]
        H, C = E // ssm["headdim"], E + 2 * N
        states, K = len(slabs(torch.device(self.device), LONG_ROW, E, Q)) / LONG_ROW, self.config.directions
        scan_bytes = K * FP32_BYTES * (3 * H + N * E * states)
        if self.device == "cuda" and self.size < FP32_BYTES:  # scores and states of blocks, saved by the Triton scan
            scan_bytes = K * (FP32_BYTES * Q + self.size * N * E / Q)
        return [
            CostItem("projections", (E + C + H) * D, 2 * (E + C + H) * D, activation_bytes=self.size * (D + E + C + H)),
            CostItem("convolution", K * (ssm["d_conv"] + 1) * C, activation_bytes=K * self.size * C),
            CostItem(
                "scan",
                3 * K * H,
                K * (2 * Q * N + 2 * Q * E + 4 * N * E),
                K * (2 * Q * N + 4 * N * E),
                scan_bytes,
            ),
            CostItem("norms", K * E, activation_bytes=K * self.size * E),
            CostItem("projections", E * D, 2 * E * D, activation_bytes=self.size * E),
        ]

    def attention(self, stage: int) -> list[CostItem]:
        """Cost items of :class:`ldarnet.model.blocks.LocalAttention`."""
        settings, D = self.config.attn_cfg, self.config.d_model[stage]
        window, causal = settings["window_size"][stage], self.config.causal
        keys = keys_per_query(self.length / self.bases[stage], window, causal)
        heads, angles = settings["num_heads"][stage], 2 * settings["rotary_emb_dim"][stage]
        return [
            CostItem("projections", 3 * D * D, 6 * D * D, activation_bytes=self.size * 4 * D),
            CostItem("attention", 0, 4 * D * keys, 2 * D * keys, self.size * 3 * D + FP32_BYTES * (heads + angles)),
            CostItem("projections", D * D, 2 * D * D, activation_bytes=self.size * D),
        ]

    def mlp(self, stage: int) -> list[CostItem]:
        """Cost items of :class:`ldarnet.model.blocks.SwiGLU`."""
        D, F = self.config.d_model[stage], mlp_width(self.config.d_intermediate[stage])
        return [
            CostItem("MLP", 2 * D * F, 4 * D * F, activation_bytes=self.size * (D + 2 * F)),
            CostItem("MLP", F * D, 2 * F * D, activation_bytes=self.size * F),
        ]

    def router(self, stage: int) -> list[CostItem]:
        """Cost items of router and residual path; the router saves queries and keys before and after normalization."""
        D, items = self.config.d_model[stage], []
        if self.config.chunking_method.has_router:
            items.append(CostItem("router", 2 * D * D, 4 * D * D, activation_bytes=FP32_BYTES * (4 * D + 5) + 2))
        if self.config.chunking["residual"] != "none":
            saved = FP32_BYTES * (D + 1) + INT64_BYTES
            items.append(CostItem("residual path", D * D + D, 2 * D * D, activation_bytes=saved))
        return items

    def dechunking(self, stage: int) -> CostItem:
        """Cost per chunk of smoothing the chunks in no, one or both directions."""
        D, Q = self.config.d_model[stage], DECHUNK_BLOCK
        directions = {"none": 0, "forward": 1}.get(str(self.config.chunking["smoothing"]), 2)
        return CostItem(
            "dechunking",
            0,
            directions * (2 * Q + 2 * Q * D + 4 * D),
            directions * (2 * Q + 4 * D),
            FP32_BYTES * (D + 8) + INT64_BYTES,
        )


def report(preset: str, length: int) -> str:
    """Cost tables of a preset at its target compression ratio; memory is estimated for bf16 autocast on a GPU."""
    config = LDARNetConfig.preset(preset)
    total = cost(config, length, autocast=True, device="cuda")
    rows = []
    for stages in ([], [0], [*range(config.num_stages)]):
        spent = cost(config, length, activation_checkpointing=stages, autocast=True, device="cuda")
        rows.append((stages or "none", f"{spent.hardware_flops / 1e6:.1f}", f"{spent.activation_bytes / 1e3:.1f}"))
    header = ("activation checkpointing (stages)", "hardware MFLOP/base, training", "activation kB/base")
    return "\n\n".join(
        [
            f"{preset}, {length:,}-base windows, {config.target_ratio:g} bases per chunk:",
            total.table(),
            total.table("operation"),
            markdown.table(header, rows),
        ]
    )


if __name__ == "__main__":
    print(report(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4096))
