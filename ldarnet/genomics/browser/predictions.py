"""Predictions of a model on request: chunks of a sequence, and the distribution of a base."""

from __future__ import annotations

import re
from threading import Lock
from typing import Any

import numpy as np
from scipy.special import softmax

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.boundaries import BoundaryScorer, check_reads_bases
from ldarnet.genomics.browser.sequence import SequenceStore
from ldarnet.genomics.forward import run_model
from ldarnet.genomics.genome import GenomeRecord
from ldarnet.genomics.stitching import stitched_chunks
from ldarnet.genomics.windows import WindowGrid
from ldarnet.model import LDARNetForMaskedLM

MAX_PASTED_BASES = 20_000
BASES = "ACGT"
_NOT_DNA = re.compile("[^ACGTURYSWKMBDHVN]")


class BasePredictor:
    """A model that answers requests, one at a time.

    Attributes:
        name: name of the model on the page.
        window: bases that the model reads at once.
    """

    def __init__(self, name: str, network: LDARNetForMaskedLM, window: int) -> None:
        """Prepare the scorers of all stages.

        Raises:
            UserError: the model does not read single bases.
        """
        check_reads_bases(network.config)
        self.name, self.window, self._network = name, window, network
        self._grid = WindowGrid.of(window)
        stages = range(network.config.num_stages - 1)
        self._scorers = [BoundaryScorer(network.model, "forward", [stage]) for stage in stages]
        self._lock = Lock()

    def chunks(self, bases: str) -> list[list[dict[str, Any]]]:
        """Chunks of a sequence, as those of `ldarnet tokenize`.

        Returns:
            For each stage, the chunks with keys ``start``, ``end`` and ``p``, the boundary probability at the start.
        """
        record = GenomeRecord(0, "sequence", 0, len(bases), "")
        ids, whole = alphabet.encode(bases), np.array([[0, len(bases)]])
        with self._lock:
            return [
                [
                    {"start": start, "end": end, "p": None if np.isnan(p) else round(p, 4)}
                    for table in stitched_chunks(record, ids, whole, self._grid, scorer, 8)
                    for start, end, p in zip(
                        table.starts.tolist(), table.ends.tolist(), table.start_probability.tolist(), strict=True
                    )
                ]
                for scorer in self._scorers
            ]

    def distribution(self, store: SequenceStore, contig: str, position: int) -> dict[str, Any]:
        """Predicted distribution of a masked base in the middle of a window.

        Args:
            store: bases of the genome.
            contig: name of the contig.
            position: position of the base, 0-based.

        Returns:
            Probabilities of A, C, G and T on the forward strand: ``forward`` and ``reverse`` from the model that reads
            this strand, and their mean, ``average``; and the interval of the window, ``start`` and ``end``.

        Raises:
            UserError: the position is outside the genome, or a probability is not finite.
        """
        record = store.record_at(contig, position)
        if record is None:
            raise UserError("this position is outside the sequences of the genome; choose another one")
        start = max(position - self.window // 2, record.start)
        end = min(start + self.window, record.end)
        start = max(end - self.window, record.start)
        ids, at = alphabet.encode(store.read(contig, start, end)), position - start
        ids[at] = alphabet.MASK
        with self._lock:
            batch = [ids, alphabet.reverse_complement(ids)]
            logits = run_model(self._network, batch).logits[:, :, : alphabet.N].double().cpu().numpy()
        forward, reverse = softmax(logits[0, at]), softmax(logits[1, len(ids) - 1 - at])[::-1]
        average = (forward + reverse) / 2
        if not np.isfinite(average).all():
            raise UserError("a predicted probability is NaN or infinite; choose another model or checkpoint")
        named = {"forward": forward, "reverse": reverse, "average": average}
        return {name: values.round(6).tolist() for name, values in named.items()} | {"start": start, "end": end}


def clean_sequence(text: str) -> str:
    """Bases of a pasted sequence, in upper case, without white space and FASTA header lines.

    Raises:
        UserError: the text is not DNA, or too long.
    """
    lines = (line for line in text.splitlines() if not line.startswith(">"))
    bases = "".join("".join(lines).split()).upper()
    if not bases:
        raise UserError("no bases; paste a DNA sequence")
    if found := _NOT_DNA.search(bases):
        raise UserError(f"{found[0]!r} is not a nucleotide code; paste a DNA sequence")
    if len(bases) > MAX_PASTED_BASES:
        raise UserError(f"{len(bases):,} bases; paste at most {MAX_PASTED_BASES:,}, or use ldarnet tokenize")
    return bases
