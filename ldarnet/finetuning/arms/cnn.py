"""Baseline: a small convolutional network, for sequences or for bases.

Shapes: B sequences, L positions, C channels.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldarnet.alphabet import PAD, A, N, T
from ldarnet.config import FinetuneConfig
from ldarnet.finetuning.arms import BASELINE, Arm, register
from ldarnet.finetuning.learning import epoch_learner
from ldarnet.model.outputs import LDARNetClassifierOutput
from ldarnet.ops import to_device
from ldarnet.tasks.metrics import BASES, CLASSIFICATION, REGRESSION

CHANNELS = (64, 128, 128)
KERNEL = 9
POOL = 2
DILATIONS = (1, 4, 16)
"""Dilations of the network for bases, which sees 169 bases around each base."""


class SmallCNN(nn.Module):
    """Three blocks of convolution, norm, ReLU and pooling, then a linear layer on global mean and max pooling.

    The baseline network of Genomic Benchmarks (Grešová et al. 2023), adapted to sequences of any length: outputs do not
    depend on the padding of the batch. N is encoded as four zeros.
    """

    def __init__(self, classes: int) -> None:
        """Initialize the network with random weights."""
        super().__init__()
        widths = (T + 1, *CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width_in, width_out, KERNEL, padding=KERNEL // 2) for width_in, width_out in pairwise(widths)
        )
        # Not BatchNorm, whose running statistics would differ between ranks and include padding.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in CHANNELS)
        self.head = nn.Linear(2 * CHANNELS[-1], classes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LDARNetClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) on any device, 0 on padding. If None, positions with [PAD] are padding.
            labels: (B,) int64.

        Returns:
            Logits (B, classes), and the mean cross-entropy if labels are given. `boundaries` is empty and `ratio_loss`
            is 0, for compatibility with the output of LDARNet.
        """
        x_BCL, real_BL = _one_hot(input_ids, attention_mask, self.head.weight.dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BCL = norm(convolution(x_BCL).transpose(1, 2)).transpose(1, 2)
            # Set padded positions to 0: convolutions pad with 0 too, and max pooling ignores 0 after ReLU.
            x_BCL = F.relu(x_BCL) * real_BL.unsqueeze(1)
            x_BCL = F.max_pool1d(x_BCL, POOL, ceil_mode=True)
            real_BL = F.max_pool1d(real_BL.to(x_BCL.dtype), POOL, ceil_mode=True).bool()
        mean_BC = x_BCL.sum(2) / real_BL.sum(1, keepdim=True)
        logits = self.head(torch.cat([mean_BC, x_BCL.amax(2)], dim=1))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = LDARNetClassifierOutput(loss=loss, logits=logits)
        output.ratio_loss, output.boundaries = logits.new_zeros(()), ()
        return output


class BaseCNN(nn.Module):
    """Three blocks of dilated convolution, norm and ReLU, then a linear layer at each base.

    Outputs do not depend on the padding of the batch. N is encoded as four zeros.
    """

    def __init__(self, classes: int) -> None:
        """Initialize the network with random weights."""
        super().__init__()
        widths = (T + 1, *CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width_in, width_out, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
            for (width_in, width_out), dilation in zip(pairwise(widths), DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in CHANNELS)
        self.head = nn.Linear(CHANNELS[-1], classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> LDARNetClassifierOutput:
        """Classify each base of a batch; arguments as in `SmallCNN`. Logits are (B, L, classes)."""
        x_BCL, real_BL = _one_hot(input_ids, attention_mask, self.head.weight.dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BCL = F.relu(norm(convolution(x_BCL).transpose(1, 2)).transpose(1, 2)) * real_BL.unsqueeze(1)
        output = LDARNetClassifierOutput(logits=self.head(x_BCL.transpose(1, 2)))
        output.ratio_loss, output.boundaries = x_BCL.new_zeros(()), ()
        return output


def _one_hot(input_ids: Tensor, attention_mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One-hot bases (B, 4, L), and the positions that are not padding, (B, L) bool."""
    mask_BL = input_ids != PAD if attention_mask is None else attention_mask.bool()
    real_BL = to_device(mask_BL, input_ids.device)
    bases_BLC = F.one_hot(input_ids.clamp(A, T), T + 1) * (real_BL & (input_ids < N)).unsqueeze(2)
    return bases_BLC.to(dtype).transpose(1, 2), real_BL


def build_cnn(classes: int, seed: int) -> SmallCNN:
    """Build the small convolutional network (about 225,000 parameters), initialized with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN(classes)


def _build(config: FinetuneConfig, classes: list[str], longest: int) -> nn.Module:
    if config.task_type != BASES:
        return build_cnn(len(classes), config.run.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return BaseCNN(len(classes))


register(
    Arm(
        option=BASELINE,
        name="cnn",
        task_types=(CLASSIFICATION, REGRESSION, BASES),
        description="small convolutional network",
        learner=epoch_learner,
        build=_build,
        ignored=("model.", "training.ratio_weight"),
    )
)
