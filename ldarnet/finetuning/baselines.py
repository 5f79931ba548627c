"""What LDARNet is held against on the same rows and folds: a small convolutional network, and counts of 6-mers.

Shapes: B sequences, L positions, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from ldarnet.alphabet import PAD, A, N, T, encode
from ldarnet.finetuning.evaluation import best_by
from ldarnet.model.modeling import LDARNetClassifierOutput
from ldarnet.tasks.dataset import Examples

CHANNELS = (64, 128, 128)
KERNEL = 9
POOL = 2

K = 6
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Inverse strengths of the penalty (scikit-learn's C) that the validation rows choose among."""
ITERATIONS = 1000


class SmallCNN(nn.Module):
    """Three blocks of convolution, norm, ReLU and pooling; a linear layer on the mean and the maximum of what is left.

    The network that Genomic Benchmarks (Grešová et al. 2023) compares with, made fit for sequences of any length: a
    sequence gets what it would get alone, whatever stands beside it in the batch. N is no base: four zeros.
    """

    def __init__(self, classes: int) -> None:
        """Build with fresh weights."""
        super().__init__()
        widths = (T + 1, *CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width_in, width_out, KERNEL, padding=KERNEL // 2) for width_in, width_out in pairwise(widths)
        )
        # Over channels, not over the batch: running means would differ between ranks, and padding would enter them.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in CHANNELS)
        self.head = nn.Linear(2 * CHANNELS[-1], classes)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> LDARNetClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 on padding, on any device; by default everything but [PAD] is read.
            labels: (B,) int64.

        Returns:
            Logits (B, classes), the mean cross-entropy if there are labels, and, so that it trains as LDARNet does, no
            boundaries and a ratio loss of zero.
        """
        mask_BL = input_ids != PAD if attention_mask is None else attention_mask.bool()
        real_BL = mask_BL.to(input_ids.device, non_blocking=True)
        bases_BLC = F.one_hot(input_ids.clamp(A, T), T + 1) * (real_BL & (input_ids < N)).unsqueeze(2)
        x_BCL = bases_BLC.to(self.head.weight.dtype).transpose(1, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BCL = norm(convolution(x_BCL).transpose(1, 2)).transpose(1, 2)
            # Zero is what a sequence's end is followed by where it stands alone, and the least that ReLU gives.
            x_BCL = F.relu(x_BCL) * real_BL.unsqueeze(1)
            x_BCL = F.max_pool1d(x_BCL, POOL, ceil_mode=True)
            real_BL = F.max_pool1d(real_BL.to(x_BCL.dtype), POOL, ceil_mode=True).bool()
        mean_BC = x_BCL.sum(2) / real_BL.sum(1, keepdim=True)
        logits = self.head(torch.cat([mean_BC, x_BCL.amax(2)], dim=1))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = LDARNetClassifierOutput(loss=loss, logits=logits)
        output.ratio_loss, output.boundaries = logits.new_zeros(()), ()
        return output


def build_cnn(classes: int, seed: int) -> SmallCNN:
    """The small convolutional network (about 230 thousand parameters) with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN(classes)


@dataclass(frozen=True)
class KmerModel:
    """A fitted logistic regression on counts of 6-mers.

    Attributes:
        strands: `one`: a 6-mer and its reverse complement are two features; `both`: they are one.
        strength: scikit-learn's C.
        classes: number of classes, also those without a training row.
    """

    strands: str
    strength: float
    classes: int
    scaler: StandardScaler
    regression: LogisticRegression

    def probabilities(self, sequences: list[str]) -> np.ndarray:
        """Probability of each class, (n, classes) float64."""
        features = self.scaler.transform(kmer_counts(sequences, self.strands))
        found = np.zeros((len(sequences), self.classes))
        found[:, self.regression.classes_] = self.regression.predict_proba(features)
        return found


Fitted = tuple[KmerModel, dict[str, Any]]


def fit_kmers(
    train: Examples,
    classes: int,
    validate: Callable[[KmerModel], dict[str, Any]],
    metric: str,
    turn: Callable[[Callable[[], Fitted]], Fitted],
) -> Fitted:
    """Fit counts of 6-mers; the validation rows choose the penalty, and whether the strand matters.

    Both forms are tried because neither is fair to all tasks: a histone mark has no strand, a splice site has one. The
    same rows choose here as choose the best epoch of a network.

    Args:
        train: rows to fit.
        classes: number of classes.
        validate: the metrics of a model on the validation rows.
        metric: of these, to choose by.
        turn: is given each of the fits to call.

    Returns:
        The best model, and its metrics.
    """

    def one(strands: str, strength: float, scaler: StandardScaler, features: Any) -> Fitted:
        regression = LogisticRegression(C=strength, max_iter=ITERATIONS, random_state=0)
        model = KmerModel(strands, strength, classes, scaler, regression.fit(features, train.labels))
        return model, validate(model)

    candidates = []
    for strands in ("one", "both"):
        counts = kmer_counts(train.sequences, strands)
        scaler = StandardScaler(with_mean=False).fit(counts)  # to centre them would fill the zeros
        features = scaler.transform(counts)
        candidates += [turn(partial(one, strands, strength, scaler, features)) for strength in STRENGTHS]
    return best_by(metric, candidates)


def kmer_counts(sequences: list[str], strands: str = "one") -> sparse.csr_array:
    """How often each 6-mer of A, C, G and T stands in each sequence; those that hold an N are left out.

    Returns:
        (n, 4096) float32 in the order AAAAAA, AAAAAC, ...; for `both` (n, 2080), a 6-mer with its reverse complement.
    """
    ids = np.concatenate([np.append(encode(sequence), PAD) for sequence in sequences]).astype(np.int64)
    row = np.repeat(np.arange(len(sequences)), [len(sequence) + 1 for sequence in sequences])
    places = max(0, len(ids) - K + 1)
    code, whole = np.zeros(places, dtype=np.int64), np.ones(places, dtype=bool)
    for offset in range(K):
        letter = ids[offset : offset + places]
        code = 4 * code + letter
        whole &= letter <= T
    column = (code if strands == "one" else _canonical()[np.where(whole, code, 0)])[whole]
    width = 4**K if strands == "one" else int(_canonical().max()) + 1
    ones = np.ones(len(column), dtype=np.float32)
    return sparse.csr_array(sparse.coo_array((ones, (row[:places][whole], column)), shape=(len(sequences), width)))


def _canonical() -> np.ndarray:
    """For each 6-mer (4096,) the number of the pair that it forms with its reverse complement, from 0."""
    code, other = np.arange(4**K), np.zeros(4**K, dtype=np.int64)
    for place in range(K):
        other = 4 * other + (T - (code // 4**place) % 4)
    return np.unique(np.minimum(code, other), return_inverse=True)[1]
