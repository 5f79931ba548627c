"""Motifs: position weight matrices from MEME files, and their hits in a landscape.

Shapes: w bases of a motif, T positions of the axis.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genome.sources import text_lines
from ldarnet.genomics.enrichment.features import Place
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.printable import printable

SCALE = 50
"""Integer steps per bit of a score."""
SITES = 20.0
"""Number of sites of a motif that does not state it, for the pseudocount of one site."""
MAX_WIDTH = 100
LOG_ODDS = "log-odds matrix"


@dataclass(frozen=True)
class Motif:
    """Probabilities of A, C, G and T at each position of a motif, (w, 4); with a pseudocount."""

    name: str
    probability: np.ndarray


def read_motifs(path: Path, names: Sequence[str] = ()) -> list[Motif]:
    """Read the motifs of a file in MEME's minimal format: probability or log-odds matrices of DNA.

    Of a motif with both matrices, the probabilities are used.

    Args:
        path: path of the file.
        names: names of motifs to read; by default, all.

    Raises:
        UserError: the file cannot be read or is malformed, or has no such motif, or two of the same name.
    """
    sections: dict[int, Motif] = {}
    for section, exact, motif in _parse(path):
        if exact or section not in sections:
            sections[section] = motif
    motifs = list(sections.values())
    if not motifs:
        raise UserError(f"{path}: no motifs; choose a file in MEME format with letter-probability or log-odds matrices")
    known = {motif.name for motif in motifs}
    for name in names:
        if name not in known:
            some = ", ".join(printable(motif.name) for motif in motifs[:5])
            raise UserError(
                f"--motif {printable(name)}: not in {path}; its motifs are {some}{', ...' * (len(motifs) > 5)}"
            )
    chosen = [motif for motif in motifs if not names or motif.name in names]
    repeated = [name for name, count in Counter(motif.name for motif in chosen).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: several motifs {printable(repeated[0])}; give each a name of its own")
    return chosen


def _parse(path: Path) -> Iterator[tuple[int, bool, Motif]]:
    """Yield the line of the name of a motif, whether its matrix has probabilities, and the motif; per matrix."""
    section, name, header, background = 0, "", "", np.full(4, 0.25)
    rows: list[list[float]] = []
    in_background, start = False, 0

    def motif() -> tuple[int, bool, Motif]:
        found = _motif(f"{path}: line {start}", name, header, rows, background)
        return section, not header.startswith(LOG_ODDS), found

    for number, line in enumerate(text_lines(path), start=1):
        words = line.split()
        values = _numbers(words)
        if header and len(values) == 4 and len(words) == 4:
            rows.append(values)
            continue
        if rows:
            yield motif()
            header, rows = "", []
        if in_background and words[:1] == ["A"]:
            background = _background(f"{path}: line {number}", words)
        in_background = line.startswith("Background letter frequencies")
        if line.startswith("MOTIF") and len(words) > 1:
            section, name = number, words[1]
        elif line.startswith(("letter-probability matrix", LOG_ODDS)):
            header, start = line, number
        elif line.startswith("ALPHABET=") and "".join(words[1:] or [line[9:].strip()]) != "ACGT":
            raise UserError(f"{path}: line {number}: the alphabet is not ACGT; choose motifs of DNA")
    if rows:
        yield motif()


def _motif(place: str, name: str, header: str, rows: list[list[float]], background: np.ndarray) -> Motif:
    values = np.array(rows)
    if not name or len(values) > MAX_WIDTH:
        raise UserError(f"{place}: a motif without a name or with more than {MAX_WIDTH} positions; fix the file")
    if header.startswith(LOG_ODDS):  # in hundredths of bits
        values = background * np.exp2(np.clip(values / 100, -50, 50))
    sums = values.sum(axis=1, keepdims=True)
    if (values < 0).any() or not np.isfinite(values).all() or (sums <= 0).any():
        raise UserError(f"{place}: motif {printable(name)}: not a matrix of probabilities; fix the file")
    words = header.replace("=", " ").split()
    sites = _numbers(words[words.index("nsites") + 1 :][:1]) if "nsites" in words else []
    count = sites[0] if sites and sites[0] > 0 else SITES
    return Motif(name, (values / sums * count + background) / (count + 1))


def _background(place: str, words: list[str]) -> np.ndarray:
    values = np.array(_numbers(words[1::2]))
    if words[::2] != list("ACGT") or len(values) != 4 or (values <= 0).any():
        raise UserError(f"{place}: not background frequencies of A, C, G and T; fix the file")
    return values / values.sum()


def _numbers(words: Sequence[str]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def motif_hits(motif: Motif, landscape: Landscape, p_value: float) -> list[Place]:
    """Find the hits of a motif on both strands; of hits at the same bases, the strand with the higher score.

    The score is the log-likelihood ratio of the motif and independent bases with the composition of the landscape; the
    threshold is the smallest score whose p-value for such bases is at most ``p_value``.
    """
    counts = np.bincount(landscape.ids, minlength=alphabet.N)[: alphabet.N].astype(np.float64)
    background = (counts + counts[::-1] + 1) / (counts + counts[::-1] + 1).sum()  # equal on both strands
    scores = np.rint(SCALE * np.log2(motif.probability / background)).astype(np.int32)
    threshold = _threshold(scores, background, p_value)
    if threshold is None:
        return []
    forward, reverse = _scan(landscape.ids, scores), _scan(landscape.ids, scores[::-1, ::-1])
    at = np.flatnonzero(np.maximum(forward, reverse) >= threshold)
    row = np.searchsorted(landscape.offsets, at, side="right") - 1
    found: list[Place] = []
    for position, interval in zip(at.tolist(), row.tolist(), strict=True):
        start = position - int(landscape.offsets[interval]) + int(landscape.starts[interval])
        strand = "-" if reverse[position] > forward[position] else "+"
        found.append((landscape.contigs[interval], start, start + len(scores), strand))
    return found


def _threshold(scores: np.ndarray, background: np.ndarray, p_value: float) -> int | None:
    """Smallest score with a p-value of at most ``p_value``; None if even the highest score has a larger one."""
    low = scores.min(axis=1)
    distribution = np.ones(1)
    for row, least in zip(scores, low, strict=True):
        wider = np.zeros(len(distribution) + int(row.max() - least))
        for score, probability in zip((row - least).tolist(), background.tolist(), strict=True):
            wider[score : score + len(distribution)] += probability * distribution
        distribution = wider
    tail = np.cumsum(distribution[::-1])[::-1]
    rare = np.flatnonzero(tail <= p_value * (1 + 1e-9))
    rare = rare[distribution[rare] > 0]
    return int(rare[0] + low.sum()) if len(rare) else None


def _scan(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores at the first bases of all windows, (T - w + 1,) int32; very low where a base is unknown."""
    never = -(2**24)
    table = np.full((len(scores), 256), never, np.int32)
    table[:, : alphabet.N] = scores
    total = np.zeros(max(len(ids) - len(scores) + 1, 0), np.int32)
    for step, row in enumerate(table):
        total += row[ids[step : step + len(total)]]
    return total
