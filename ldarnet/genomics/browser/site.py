"""The page of the genome browser and its data: what the server serves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ldarnet.errors import UserError
from ldarnet.genomics.browser.annotation import GeneTrack
from ldarnet.genomics.browser.features import (
    BigBedRows,
    SortedRows,
    chunk_features,
    first_position,
    open_indexed,
    value_features,
)
from ldarnet.genomics.browser.predictions import BASES, BasePredictor, clean_sequence
from ldarnet.genomics.browser.sequence import SequenceStore
from ldarnet.genomics.browser.server import WebContent, WebSite
from ldarnet.genomics.tracks import RECORD, TrackRecord, read_track_record
from ldarnet.io.names import inside
from ldarnet.io.records import Count, parse_record
from ldarnet.printable import printable

PAGE_FILES = {
    "index.html": "text/html; charset=utf-8",
    "browse.js": "text/javascript; charset=utf-8",
    "browse.css": "text/css; charset=utf-8",
    "igv.min.js": "text/javascript; charset=utf-8",
}
"""File of the page -> media type."""
SUFFIXES = {".bw": "values", ".bedgraph": "values", ".bb": "chunks", ".bed": "chunks"}
"""Suffix of a file of `ldarnet tracks` -> its content. If a track has two files, the first suffix is used."""
SIGNALS = {
    "boundary": ("boundary probability", 0.0, 1.0),
    "log_likelihood": ("log-likelihood (nats)", -4.0, 0.0),
    "entropy": ("entropy (nats)", 0.0, math.log(4)),
    "chunks": ("chunks", 0.0, 1.0),
}
"""Start of the name of a track -> label, and minimum and maximum of its axis."""
HINT = "reload the page"
LOCUS_BASES = 2000


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """Body of a request for chunks."""

    model: Count
    sequence: str


@dataclass(frozen=True, slots=True)
class BaseRequest:
    """Body of a request for the distribution of a base; the position is 0-based."""

    contig: Annotated[str, Field(max_length=1000)]
    position: Count


def build_site(
    genome: Path,
    store: SequenceStore,
    folders: Sequence[Path],
    models: Sequence[BasePredictor],
    annotation: GeneTrack | None,
    locus: str,
) -> WebSite:
    """Build the site.

    Args:
        genome: path of the genome, for the title.
        store: bases of the genome.
        folders: folders of `ldarnet tracks`.
        models: models that answer requests.
        annotation: genes.
        locus: region to show first, such as ``chr1:1-2000``.

    Raises:
        UserError: a folder has no tracks, or a file cannot be read or is of another genome.
        ModuleNotFoundError: a file is bigWig or bigBed, and pybigtools is not installed.
    """
    site = WebSite()
    static = files("ldarnet.genomics.browser").joinpath("static")
    for name, media_type in PAGE_FILES.items():
        content = WebContent.of(static.joinpath(name).read_bytes(), media_type)
        site.contents["" if name == "index.html" else name] = content
    site.contents["sequence"] = WebContent("application/octet-stream", store.length, store.content)
    site.contents["sequence.fai"] = WebContent.of(store.index().encode(), "text/plain; charset=utf-8")
    shown = list[dict[str, Any]]()
    if annotation is not None:
        site.queries["genes"] = annotation.query
        shown.append({"kind": "genes", "label": "genes", "url": "genes"})
    names = _folder_names(folders)
    for folder, name in zip(folders, names, strict=True):
        shown += _add_tracks(site, folder, name, store.sizes)
    _add_actions(site, store, models)
    page = {
        "genome": printable(genome.name),
        "locus": locus,
        "tracks": shown,
        "models": [{"name": model.name, "window": model.window} for model in models],
    }
    site.contents["page.json"] = WebContent.of(json.dumps(page).encode(), "application/json")
    return site


def first_locus(store: SequenceStore, folders: Sequence[Path], annotation: GeneTrack | None) -> str:
    """Region to show first: where the tracks begin, or the first gene, or the beginning of the first contig."""
    for folder in folders:
        for path in _listed_files(folder):
            if (begin := first_position(path)) is not None:
                contig, start = begin
                return f"{contig}:{start + 1}-{start + LOCUS_BASES}"
    if annotation is not None:
        contig, start, end = annotation.first(store.sizes)
        return f"{contig}:{max(start - 499, 1)}-{end + 500}"
    contig, size = next(iter(store.sizes.items()))
    return f"{contig}:1-{min(size, LOCUS_BASES)}"


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """Names of the models of the tracks; the paths of the folders if two models have the same name."""
    names = [Path(_track_record(folder).model).name for folder in folders]
    return [printable(name) for name in (names if len({*names}) == len(names) else map(str, folders))]


def _track_record(folder: Path) -> TrackRecord:
    record = read_track_record(folder)
    if record is None:
        raise UserError(f"{folder}: no tracks ({RECORD} is missing); write them with ldarnet tracks")
    return record


def _listed_files(folder: Path) -> list[Path]:
    """Files of a folder of tracks."""
    names = _track_record(folder).files
    paths = [inside(folder, name, str(folder / RECORD), "run ldarnet tracks again") for name in names]
    return [path for path in paths if path.suffix in SUFFIXES and path.stem.startswith((*SIGNALS,))]


def _add_tracks(site: WebSite, folder: Path, model: str, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Add the files of a folder to the site; return the tracks to show."""
    order = [*SUFFIXES]
    listed = [
        inside(folder, name, str(folder / RECORD), "run ldarnet tracks again") for name in _track_record(folder).files
    ]
    found = dict[str, Path]()
    for path in sorted((path for path in listed if path.suffix in order), key=lambda path: order.index(path.suffix)):
        found.setdefault(path.stem, path)
    tracks = list[dict[str, Any]]()
    kinds = [*SIGNALS]
    for stem in sorted(found, key=lambda stem: (kinds.index(_kind(stem)), stem)):
        path, url = found[stem], f"tracks/{len(site.contents) + len(site.queries)}"
        label, low, high = SIGNALS[_kind(stem)]
        detail = stem.removeprefix(_kind(stem)).replace("stage", "stage ").replace("_", ", ")
        track = {"label": f"{model}: {label}{detail}", "min": low, "max": high}
        if path.suffix == ".bw":
            open_indexed(path, sizes)
            site.contents[url] = WebContent.of_file(path)
            kind = "bigwig"
        elif SUFFIXES[path.suffix] == "values":
            site.queries[url] = value_features(SortedRows(path, sizes))
            kind = "values"
        else:
            rows = SortedRows(path, sizes) if path.suffix == ".bed" else BigBedRows(path, sizes)
            site.queries[url] = chunk_features(rows)
            kind = "chunks"
        tracks.append(track | {"kind": kind, "signal": _kind(stem), "url": url})
    return tracks


def _kind(stem: str) -> str:
    """Kind of a track, by the start of its name; a key of `SIGNALS`."""
    return next(kind for kind in SIGNALS if stem.startswith(kind))


def _add_actions(site: WebSite, store: SequenceStore, models: Sequence[BasePredictor]) -> None:
    def tokenize(body: bytes) -> dict[str, Any]:
        request = parse_record(body, TokenizeRequest, where="request", hint=HINT)
        if request.model >= len(models):
            raise UserError("no model; restart ldarnet browse with --model")
        bases = clean_sequence(request.sequence)
        return {"bases": bases, "stages": models[request.model].chunks(bases)}

    def base(body: bytes) -> dict[str, Any]:
        request = parse_record(body, BaseRequest, where="request", hint=HINT)
        if store.record_at(request.contig, request.position) is None:
            raise UserError("this position is outside the sequences of the genome; choose another one")
        flank = 10
        around = store.read(request.contig, max(request.position - flank, 0), request.position + flank + 1).decode()
        return {
            "contig": request.contig,
            "position": request.position,
            "before": around[: min(request.position, flank)],
            "base": around[min(request.position, flank)],
            "after": around[min(request.position, flank) + 1 :],
            "bases": BASES,
            "models": [
                {"name": model.name, **model.distribution(store, request.contig, request.position)} for model in models
            ],
        }

    site.actions |= {"api/tokenize": tokenize, "api/base": base}
