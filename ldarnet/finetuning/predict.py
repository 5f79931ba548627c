"""Predictions of a fine-tuned classifier for sequences of any length."""

from collections import Counter
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
from ldarnet.finetuning.classifier import CROP, LONGEST, STRANDS, scorer
from ldarnet.finetuning.evaluation import run_over
from ldarnet.finetuning.predictions import cells, columns
from ldarnet.io import run_files
from ldarnet.model import LDARNetForSequenceClassification, load_model
from ldarnet.runtime.distributed import World
from ldarnet.runtime.timers import StepTimers
from ldarnet.tasks.labels import ambiguity, clean_sequence, fits_a_table

MAX_BASES = 2**22
"""Bases per group of sequences; within a group, sequences of similar length share a batch."""

Record = tuple[str, str]
"""Name and sequence."""


class Classifier:
    """A fine-tuned classifier, on the GPU if available.

    Args:
        folder: folder of a model, a fine-tuning run or a fold.
        max_length: crop longer sequences to this many central bases; None for the setting used in training.
        strands: 1, or 2 to average the probabilities of both strands; None for the setting used in evaluation.
        batch: sequences per forward pass.

    Attributes:
        classes: class names, in the order of the probabilities.
        longest: length of the longest training sequence in bases; None if unknown.
        max_length: crop length in bases; None if sequences are not cropped.
        seen: number of sequences predicted so far.
        cropped: number of cropped sequences so far.
        beyond: number of sequences so far that are longer than `longest` after cropping.
        ambiguous: number of ambiguity codes replaced with N so far.

    Raises:
        UserError: `folder` contains no classifier, or a file is damaged.
    """

    def __init__(
        self, folder: Path, *, max_length: int | None = None, strands: int | None = None, batch: int = 64
    ) -> None:
        _check_not_baseline(folder)
        model = load_model(folder, LDARNetForSequenceClassification)
        config: Any = model.config
        self.classes = [config.id2label[number] for number in range(config.num_labels)]
        self.longest: int | None = getattr(config, LONGEST, None)
        self.max_length: int | None = max_length or getattr(config, CROP, None)
        self.seen = self.cropped = self.beyond = self.ambiguous = 0
        self._written = Counter[str]()  # rows by predicted class
        self._strands, self._batch = strands or getattr(config, STRANDS, 1), batch
        self._world = World.alone(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        device: Any = self._world.device
        self._forward = scorer(model.to(device), device.type == "cuda", device)

    def predict(self, records: Iterable[Record], source: str | Path = "sequences") -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the class probabilities (classes,) float64 of each sequence, in order.

        Args:
            records: names and sequences.
            source: origin of the records, for messages.

        Raises:
            UserError: a sequence is empty or contains a character that is not a nucleotide code, or a name contains a
                tab or a line break.
        """
        for names, sequences in _grouped(self._checked(records, source)):
            self.seen += len(names)
            used = [cropped(sequence, self.max_length) for sequence in sequences]
            self.cropped += sum(len(part) < len(sequence) for part, sequence in zip(used, sequences, strict=True))
            self.beyond += sum(self.longest is not None and len(part) > self.longest for part in used)
            outputs = run_over(
                encoded(used),
                self._forward,
                len(self.classes),
                batch=self._batch,
                strands=self._strands,
                world=self._world,
                timers=StepTimers(),
            )
            yield from zip(names, np.exp(outputs.log_probabilities), strict=True)

    def _checked(self, records: Iterable[Record], source: str | Path) -> Iterator[Record]:
        """Validate names, and clean sequences as for training data."""
        for name, text in records:
            if not fits_a_table(name):
                raise UserError(f"{source}: the name {name[:60]!r} contains a tab or a line break; remove it")
            sequence, ambiguous = clean_sequence(text, partial(_error, source, name))
            self.ambiguous += ambiguous
            yield name, sequence

    def write(self, records: Iterable[Record], file: TextIO, source: str | Path = "sequences") -> None:
        """Predict and write a TSV table incrementally; arguments and errors as in `predict`."""
        predictions = self.predict(records, source)
        first = list(islice(predictions, 1))  # fail before anything is written
        print("name", *columns(self.classes), sep="\t", file=file)
        for name, probabilities in chain(first, predictions):
            predicted, *row = cells(self.classes, probabilities)
            self._written[predicted] += 1
            print(name, predicted, *row, sep="\t", file=file)

    def note(self) -> str:
        """Summarize predictions in one line: number of sequences, caveats, and number per predicted class."""
        parts = [f"{self.seen:,} sequences"]
        if self.cropped:
            parts.append(f"{self.cropped:,} cropped to their {self.max_length:,} central bases")
        if self.beyond:
            parts.append(
                f"{self.beyond:,} longer than the longest training sequence ({self.longest:,} bases), so the model "
                "extrapolates"
            )
        parts += ambiguity(self.ambiguous)
        if self._written:
            counts = ", ".join(f"{name} {self._written[name]:,}" for name in self.classes)
            parts.append(f"predicted: {counts}")
        return "; ".join(parts)


def _check_not_baseline(folder: Path) -> None:
    file = folder / run_files.CONFIG
    tree = read_yaml(file) if file.is_file() else {}
    if baseline := (tree.get("model") or {}).get("baseline"):
        raise UserError(
            f"{folder}: prediction with model.baseline={baseline} is not supported; choose a run that fine-tuned "
            "LDARNet"
        )


def _error(source: str | Path, name: str, message: str) -> UserError:
    return UserError(f"{source}: record {name!r}: {message}")


def _grouped(records: Iterable[Record]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield names and sequences in groups; a group ends when it has at least `MAX_BASES` bases."""
    names, sequences, bases = list[str](), list[str](), 0
    for name, sequence in records:
        names.append(name)
        sequences.append(sequence)
        bases += len(sequence)
        if bases >= MAX_BASES:
            yield names, sequences
            names, sequences, bases = [], [], 0
    if names:
        yield names, sequences
