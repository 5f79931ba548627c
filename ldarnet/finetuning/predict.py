"""Predictions of a fine-tuned model for sequences of any length."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from ldarnet.config.loading import read_yaml
from ldarnet.errors import UserError
from ldarnet.finetuning.batches import crop_start, cropped, encoded
from ldarnet.finetuning.classifier import CROP, LONGEST, STRANDS, scorer, tokenizer_of
from ldarnet.finetuning.evaluation import run_over
from ldarnet.finetuning.targets import TARGETS, ClassTargets, targets_of_model
from ldarnet.io import run_files
from ldarnet.io.tsv import UniqueNames, repeated_names, tsv_writer
from ldarnet.model import load_model
from ldarnet.model.classifiers import LDARNetClassifier
from ldarnet.printable import printable
from ldarnet.runtime.distributed import World
from ldarnet.runtime.timers import StepTimers
from ldarnet.tasks.bed_labels import BACKGROUND
from ldarnet.tasks.labels import ambiguity, clean_sequence

MAX_BASES = 2**22
"""Bases per group of sequences; within a group, sequences of similar length share a batch."""

Record = tuple[str, str]
"""Name and sequence."""

Region = tuple[str, int, str]
"""Contig, position of the first base (0-based) and sequence."""

Advance = Callable[[int], None]
"""Progress callback: number of bases done since the last call."""


class Classifier:
    """A fine-tuned classifier or regression model, on the GPU if available.

    Args:
        folder: folder of a model, a fine-tuning run or a fold.
        max_length: crop longer sequences to this many central bases. By default, the value saved with the model.
        strands: 1, or 2 to average the predictions of both strands. By default, the value saved with the model.
        batch: sequences per forward pass.

    Attributes:
        targets: type and names of the predictions.
        classes: class names, or names of the values of a regression, in the order of the predictions.
        longest: length of the longest training sequence in bases; None if unknown.
        max_length: crop length in bases; None if sequences are not cropped.
        seen: number of sequences predicted so far.
        cropped: number of cropped sequences so far.
        beyond: number of sequences so far that are longer than `longest` after cropping.
        ambiguous: number of ambiguity codes replaced with N so far.
        repeated: number of names so far that got a suffix because they repeat an earlier name.
        unknown: number of sequences so far that consist of N alone.

    Raises:
        UserError: `folder` contains no fine-tuned model, or a file is damaged.
    """

    def __init__(
        self, folder: Path, *, max_length: int | None = None, strands: int | None = None, batch: int = 64
    ) -> None:
        _check_not_baseline(folder)
        model = load_model(folder, LDARNetClassifier)
        config: Any = model.config
        if (targets := targets_of_model(model)) is None:
            known = sorted({f"{kind.model_class.__name__} with {kind.problem_type}" for kind in TARGETS.values()})
            raise UserError(
                f"{folder}: {type(model).__name__} with problem_type {model.problem!r} has no table of predictions; "
                f"call the model from Python, or choose one of {', '.join(known)}"
            )
        self.targets, self.classes = targets, targets.names
        self.longest: int | None = getattr(config, LONGEST, None)
        self.max_length: int | None = max_length or getattr(config, CROP, None)
        self.seen = self.cropped = self.beyond = self.ambiguous = self.repeated = self.unknown = 0
        self._written = Counter[str]()  # rows, or intervals of a BED file, by predicted class
        self._unit = "predicted"
        self._strands, self._batch = strands or getattr(config, STRANDS, 1), batch
        self._world = World.alone(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        device: Any = self._world.device
        self._tokenizer = tokenizer_of(model)
        self._forward = scorer(model.to(device), device.type == "cuda", device)

    def predict(
        self, records: Iterable[Record], source: str | Path = "sequences", advance: Advance = lambda bases: None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the prediction of each sequence, in order.

        Names are made unique and printable (see `ldarnet.io.tsv.UniqueNames`). A prediction is (classes,) float64: the
        probability of each class, or the values of a regression; for a model of bases, the class probabilities of
        each base, (L, classes).

        Args:
            records: names and sequences.
            source: origin of the records, for messages.
            advance: called with the number of bases done since the last call.

        Raises:
            UserError: a sequence is empty or contains a character that is not a nucleotide code, or a predicted
                value is not finite.
        """

        def forward(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
            outputs = self._forward(ids, mask)
            if self._tokenizer is None:
                advance(int(mask.sum()) // self._strands)
            return outputs

        for names, sequences in _grouped(self._checked(records, source)):
            self.seen += len(names)
            used = [cropped(sequence, self.max_length) for sequence in sequences]
            self.cropped += sum(len(part) < len(sequence) for part, sequence in zip(used, sequences, strict=True))
            self.beyond += sum(self.longest is not None and len(part) > self.longest for part in used)
            advance(sum(map(len, sequences)) - sum(map(len, used)))
            outputs = run_over(
                encoded(used),
                forward,
                len(self.classes),
                batch=self._batch,
                strands=self._strands,
                world=self._world,
                timers=StepTimers(),
                tokenizer=self._tokenizer,
                per_base=self.targets.per_base,
            )
            if self._tokenizer is not None:
                advance(sum(map(len, used)))
            predicted = self.targets.predictions(outputs)
            if len(wrong := np.flatnonzero(~self.targets.finite(predicted))):
                problem = "its predictions are NaN or infinite; choose another model or checkpoint"
                raise _error(source, names[wrong[0]], problem)
            yield from zip(names, predicted, strict=True)

    def _checked(self, records: Iterable[Record], source: str | Path) -> Iterator[Record]:
        """Make names unique and printable, and clean sequences in the same way as training data."""
        names = UniqueNames()
        for number, (given, text) in enumerate(records, start=1):
            name = names.add(given, f"sequence:{number}")
            self.repeated += names.was_repeated
            sequence, ambiguous = clean_sequence(text, partial(_error, source, name))
            self.ambiguous += ambiguous
            self.unknown += not sequence.strip("N")
            yield name, sequence

    def write(
        self,
        records: Iterable[Record],
        file: TextIO,
        source: str | Path = "sequences",
        advance: Advance = lambda bases: None,
    ) -> None:
        """Predict and write a TSV table incrementally; arguments and errors as in `predict`."""
        predictions, write_row = self.predict(records, source, advance), tsv_writer(file)
        if isinstance(self.targets, ClassTargets):
            self._written.update(dict.fromkeys(self.classes, 0))
        first = list(islice(predictions, 1))  # fail before anything is written
        write_row(("name", *self.targets.columns()))
        for name, prediction in chain(first, predictions):
            row = self.targets.cells(prediction)
            if isinstance(self.targets, ClassTargets):
                self._written[row[0]] += 1
            write_row((name, *row))

    def write_bed(
        self,
        regions: Iterable[Region],
        file: TextIO,
        source: str | Path = "regions",
        advance: Advance = lambda bases: None,
    ) -> None:
        """Predict and write the classes of bases as BED lines: contig, start, end, class, score and strand (`.`).

        A line is an interval of bases with the same most probable class, other than `none`; its score is 1,000 times
        their mean probability of this class. Arguments and errors as in `predict`, for a model of bases.
        """
        places = deque[tuple[str, int]]()

        def records() -> Iterator[Record]:
            for contig, start, sequence in regions:
                places.append((contig, start + crop_start(len(sequence), self.max_length)))
                yield f"{contig}:{start + 1}-{start + len(sequence)}", sequence

        write_row = tsv_writer(file)
        self._unit = "predicted intervals"
        self._written.update({name: 0 for name in self.classes if name != BACKGROUND})
        for _, probabilities in self.predict(records(), source, advance):
            contig, start = places.popleft()
            labels = probabilities.argmax(1)
            edges = np.flatnonzero(np.diff(labels, prepend=-1, append=-1))
            for first, last in pairwise(edges.tolist()):
                if (name := self.classes[labels[first]]) != BACKGROUND:
                    score = round(1000 * probabilities[first:last, labels[first]].mean())
                    write_row((printable(contig), start + first, start + last, printable(name), score, "."))
                    self._written[name] += 1

    def note(self) -> str:
        """Summarize predictions in one line: number of sequences in total and per predicted class, and caveats."""
        parts = [f"{self.seen:,} sequences"]
        if self.cropped:
            parts.append(f"{self.cropped:,} cropped to their {self.max_length:,} central bases")
        if self.beyond:
            parts.append(
                f"{self.beyond:,} longer than the longest training sequence ({self.longest:,} bases), so the model "
                "extrapolates"
            )
        parts += ambiguity(self.ambiguous)
        if self.unknown:
            parts.append(f"{self.unknown:,} of N alone, whose predictions carry no information")
        parts += repeated_names(self.repeated)
        if self._written:
            counts = ", ".join(f"{name} {count:,}" for name, count in self._written.items())
            parts.append(f"{self._unit}: {counts}")
        return "; ".join(parts)


def _check_not_baseline(folder: Path) -> None:
    file = folder / run_files.CONFIG
    model = read_yaml(file).get("model") if file.is_file() else None
    if isinstance(model, dict) and (baseline := model.get("baseline")):
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
