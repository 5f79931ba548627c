"""Predictions of a fine-tuned classifier for sequences of any length."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from ldarnet.config.loading import read_yaml
from ldarnet.errors import UserError
from ldarnet.finetuning.batches import cropped, encoded
from ldarnet.finetuning.classifier import CUT, LONGEST, STRANDS, scorer
from ldarnet.finetuning.evaluation import run_over
from ldarnet.finetuning.predictions import cells, columns
from ldarnet.io import run_files
from ldarnet.model import LDARNetForSequenceClassification, load_model
from ldarnet.runtime.distributed import World
from ldarnet.runtime.timers import StepTimers
from ldarnet.tasks.labels import ambiguity, clean_sequence, fits_a_table

MOST_BASES = 2**22
"""Of the sequences that are looked at together, so that those of like length share a batch."""

Record = tuple[str, str]
"""Name and bases."""


class Classifier:
    """A fine-tuned model on the GPU, if there is one.

    Args:
        place: its folder, or that of the fine-tuning run or fold.
        max_length: bases that longer sequences are cropped to, around their centre; None for what the model was trained
            with, which may be no limit.
        strands: 2 for the mean of the probabilities of both; None for what the model was evaluated with.
        batch: sequences at once.

    Attributes:
        classes: names, in the order of probabilities.
        longest: bases of the longest sequence that it was trained on; None where that is not known.
        max_length: as above; None for no limit.
        seen: sequences so far.
        cropped: those of them that were cropped.
        beyond: those that were read with more bases than `longest`.
        ambiguous: letters so far that stand for several bases, which were read as N.

    Raises:
        UserError: there is no classifier, or it is damaged.
    """

    def __init__(
        self, place: Path, *, max_length: int | None = None, strands: int | None = None, batch: int = 64
    ) -> None:
        _refuse_baseline(place)
        model = load_model(place, LDARNetForSequenceClassification)
        config: Any = model.config
        self.classes = [config.id2label[number] for number in range(config.num_labels)]
        self.longest: int | None = getattr(config, LONGEST, None)
        self.max_length: int | None = max_length or getattr(config, CUT, None)
        self.seen = self.cropped = self.beyond = self.ambiguous = 0
        self._strands, self._batch = strands or getattr(config, STRANDS, 1), batch
        self._world = World.alone(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        device: Any = self._world.device
        self._forward = scorer(model.to(device), device.type == "cuda", device)

    def predict(self, records: Iterable[Record], source: str | Path = "sequences") -> Iterator[tuple[str, np.ndarray]]:
        """The name of each sequence, in order, and the probabilities of the classes, (classes,) float64.

        Args:
            records: the sequences.
            source: where they are from, for messages.

        Raises:
            UserError: a sequence is empty or holds what is no letter of DNA, or a name has a tab or a line break.
        """
        for names, sequences in _gathered(self._checked(records, source)):
            self.seen += len(names)
            read = [cropped(sequence, self.max_length) for sequence in sequences]
            self.cropped += sum(len(part) < len(sequence) for part, sequence in zip(read, sequences, strict=True))
            self.beyond += sum(self.longest is not None and len(part) > self.longest for part in read)
            outputs = run_over(
                encoded(read),
                self._forward,
                len(self.classes),
                batch=self._batch,
                strands=self._strands,
                world=self._world,
                phases=StepTimers(),
            )
            yield from zip(names, np.exp(outputs.log_probabilities), strict=True)

    def _checked(self, records: Iterable[Record], source: str | Path) -> Iterator[Record]:
        """The records as training reads them."""
        for name, text in records:
            if not fits_a_table(name):
                raise UserError(f"{source}: the name {name[:60]!r} holds a tab or a line break; remove it")
            sequence, ambiguous = clean_sequence(text, partial(_error, source, name))
            self.ambiguous += ambiguous
            yield name, sequence

    def write(self, records: Iterable[Record], file: TextIO, source: str | Path = "sequences") -> None:
        """Predict, and write a table as it comes; arguments and errors as of `predict`."""
        predictions = self.predict(records, source)
        first = list(islice(predictions, 1))  # a mistake in it shows before anything is written
        print("name", *columns(self.classes), sep="\t", file=file)
        for name, probabilities in chain(first, predictions):
            print(name, *cells(self.classes, probabilities), sep="\t", file=file)

    def note(self) -> str:
        """What a reader of the predictions should know."""
        parts = [f"{self.seen:,} sequences"]
        if self.cropped:
            parts.append(f"{self.cropped:,} were cropped to the {self.max_length:,} bases of their centre")
        if self.beyond:
            parts.append(
                f"{self.beyond:,} were read with more bases than the {self.longest:,} that the model was trained on, "
                "which it has not learned"
            )
        return "; ".join([*parts, *ambiguity(self.ambiguous)])


def _refuse_baseline(place: Path) -> None:
    file = place / run_files.CONFIG
    tree = read_yaml(file) if file.is_file() else {}
    if baseline := (tree.get("model") or {}).get("baseline"):
        raise UserError(
            f"{place}: a run of model.baseline={baseline}, which is only to be compared with; name a run that has "
            "fine-tuned LDARNet"
        )


def _error(source: str | Path, name: str, message: str) -> UserError:
    return UserError(f"{source}: record {name!r}: {message}")


def _gathered(records: Iterable[Record]) -> Iterator[tuple[list[str], list[str]]]:
    """Names and sequences, as many at a time as have `MOST_BASES` together."""
    names, sequences, bases = list[str](), list[str](), 0
    for name, sequence in records:
        names.append(name)
        sequences.append(sequence)
        bases += len(sequence)
        if bases >= MOST_BASES:
            yield names, sequences
            names, sequences, bases = [], [], 0
    if names:
        yield names, sequences
