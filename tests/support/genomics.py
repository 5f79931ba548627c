"""Genomes, scorers and models for the tests of tracks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, alphabet
from ldarnet.genomics.genome import GenomeRecord
from ldarnet.genomics.scoring import WindowInput, WindowScores
from ldarnet.model import write_model


def random_bases(length: int, seed: int = 0) -> str:
    """Random A, C, G and T."""
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def write_genome(path: Path, contigs: dict[str, str]) -> Path:
    """Write contigs as FASTA with lines of 60 bases."""
    with path.open("w") as file:
        for name, bases in contigs.items():
            file.write(f">{name}\n" + "".join(f"{bases[at : at + 60]}\n" for at in range(0, len(bases), 60)))
    return path


def save(folder: Path, kind: type = LDARNetForMaskedLM, **changes) -> Path:
    """Write a tiny model whose router does not have its initial weights."""
    torch.manual_seed(0)
    network = kind(LDARNetConfig.preset("tiny", **changes))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter += 0.5 * torch.randn_like(parameter)
    write_model(network, folder)
    return folder


def whole(bases: str, start: int = 0) -> GenomeRecord:
    """Record of a contig, or of the part of it that begins at ``start``."""
    return GenomeRecord(0, "c", start, start + len(bases), "")


class ContextScorer:
    """Scorer whose value at a base depends on the bases up to `reach` away; the first base of a window is a boundary.

    Attributes:
        batches: sizes of the batches so far.
    """

    reach = 5
    signals = ("p",)
    chunks = {"chunks": "p"}

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, windows: Sequence[WindowInput]) -> list[WindowScores]:
        self.batches.append(len(windows))
        return [self._score(window.ids) for window in windows]

    def _score(self, ids: np.ndarray) -> WindowScores:
        padded = np.concatenate((np.full(self.reach, 9), ids, np.full(self.reach, 9))).astype(np.float64)
        weights = np.cos(np.arange(2 * self.reach + 1))
        p = (np.abs(np.convolve(padded, weights, "valid")) % 1).astype(np.float32)
        p[0] = 1
        return WindowScores({"p": p}, {"chunks": p > 0.5})


def ids_of(bases: str) -> np.ndarray:
    """Token ids."""
    return alphabet.encode(bases)
