"""The published genomes that `sharding.fetch` knows, as `published.yaml` lists them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ldarnet.errors import UserError

_REGISTRY = Path(__file__).with_name("published.yaml")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_ASSEMBLY = re.compile(r"(GC[AF])_(\d{3})(\d{3})(\d{3})\.\d+_[A-Za-z0-9._+-]+_genomic\.fna\.gz")
_SPECIES_FOLDER = re.compile(r"/genomes/(?:refseq|genbank)/[a-z_]+/([A-Z][A-Za-z0-9._-]+)/")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file at its publisher.

    Attributes:
        name: under which it is kept.
        url: where it lies.
        checksums: URL of the publisher's list of MD5 or SHA-256; None when there is none.
        elsewhere: URLs to try when nothing lies at ``url`` any more, each with its list.
    """

    name: str
    url: str
    checksums: str | None = None
    elsewhere: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """One set of the registry.

    Attributes:
        name: by which it is asked for.
        title: what it is.
        size: in words.
        licence: in words.
        files: what it consists of.
        assemblies: a list of URLs, one a line, of further files; None when ``files`` is all.
        held_out: split -> how many of the last assemblies of that list are in it; the last split is at the end.
        build: arguments of ``sharding.build``; ``{folder}`` stands for the folder of the files.
    """

    name: str
    title: str
    size: str
    licence: str
    files: tuple[PublishedFile, ...]
    assemblies: PublishedFile | None
    held_out: Mapping[str, int] = field(default_factory=dict)
    build: str = ""


@dataclass(frozen=True, slots=True)
class PublishedAssembly:
    """One line of a list of assemblies: the species it stands for, its split, and its file."""

    species: str
    split: str
    file: PublishedFile


class Registry:
    """The sets, at their publishers or at mirrors of them."""

    def __init__(self, mirrors: Sequence[str] = ()) -> None:
        """Read the registry.

        Args:
            mirrors: ``PUBLISHER=URL`` for each publisher to be replaced.

        Raises:
            UserError: a mirror of another form, or of a publisher that there is not.
        """
        content = yaml.safe_load(_REGISTRY.read_text(encoding="utf-8"))
        self._publishers: dict[str, str] = content["publishers"]
        self._bases = self._publishers | dict(self._mirror(mirror) for mirror in mirrors)
        self.sets = {name: self._published(name, entry) for name, entry in content["sets"].items()}

    def __getitem__(self, name: str) -> PublishedSet:
        """A set by its name.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self.sets:
            raise UserError(f"{name}: no published set of that name; there are {', '.join(self.sets)} (see --list)")
        return self.sets[name]

    def parse_assemblies(self, published: PublishedSet, text: str) -> list[PublishedAssembly]:
        """Read the list of assemblies of a set.

        A species is named by its folder at NCBI where the URL tells it, and otherwise by its assembly.

        Raises:
            UserError: a line is no URL of an assembly at NCBI, a file comes twice, or there are too few lines.
        """
        assert published.assemblies is not None
        held_out = [split for split, count in published.held_out.items() for _ in range(count)]
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) <= len(held_out):
            raise UserError(f"{published.assemblies.url}: {len(lines)} lines are no list of assemblies; report it")
        splits = ["train"] * (len(lines) - len(held_out)) + held_out
        assemblies: dict[str, PublishedAssembly] = {}
        for number, (line, split) in enumerate(zip(lines, splits, strict=True), start=1):
            place = f"{published.assemblies.url}: line {number}"
            file, species = self._assembly(place, line)
            if any(file == other.file for other in assemblies.values()):
                raise UserError(f"{place}: {file.name} comes twice; report it to the publisher")
            if species in assemblies:
                species = f"{species}_{'_'.join(file.name.split('_')[:2])}"
            assemblies[species] = PublishedAssembly(species, split, file)
        return list(assemblies.values())

    def _assembly(self, place: str, line: str) -> tuple[PublishedFile, str]:
        name, home = line.rsplit("/", 1)[-1], self._publishers["ncbi"]
        path = re.sub(r"^(ftp|https?)://", "https://", line).removeprefix(f"{home}/")
        fits = _ASSEMBLY.fullmatch(name)
        if not fits or path.startswith("https://") or ".." in path:
            raise UserError(f"{place}: {line[:200]!r} is no assembly at {home}; report it to the publisher")
        named = _SPECIES_FOLDER.search(f"/{path}")
        species = named[1] if named else name.removesuffix("_genomic.fna.gz")
        # Old assemblies leave the folders of their species; under genomes/all all of them stay.
        lasting = "genomes/all/{}/{}/{}/{}/".format(*fits.groups()) + name.removesuffix("_genomic.fna.gz")
        places = [(f"{folder}/{name}", f"{folder}/md5checksums.txt") for folder in (path.rpartition("/")[0], lasting)]
        (url, checksums), *elsewhere = dict.fromkeys((self._url("ncbi", a), self._url("ncbi", b)) for a, b in places)
        return PublishedFile(name, url, checksums, tuple(elsewhere)), species

    def _mirror(self, mirror: str) -> tuple[str, str]:
        publisher, _, url = mirror.partition("=")
        if publisher not in self._publishers or not url.startswith(("http://", "https://")):
            names = ", ".join(self._publishers)
            raise UserError(f"--mirror {mirror}: not a mirror; write PUBLISHER=URL with one of {names}")
        return publisher, url.rstrip("/")

    def _published(self, name: str, entry: Mapping) -> PublishedSet:
        assemblies = entry.get("assemblies")
        return PublishedSet(
            name,
            *(entry[key] for key in ("title", "size", "licence")),
            files=tuple(self._file(file) for file in entry.get("files", ())),
            assemblies=self._file(assemblies) if assemblies else None,
            held_out=assemblies["held_out"] if assemblies else {},
            build=entry["build"],
        )

    def _file(self, file: Mapping[str, str]) -> PublishedFile:
        name = file.get("name", file["path"].rsplit("/", 1)[-1])
        assert _FILE_NAME.fullmatch(name)
        checksums = self._url(file["publisher"], file["checksums"]) if "checksums" in file else None
        return PublishedFile(name, self._url(file["publisher"], file["path"]), checksums)

    def _url(self, publisher: str, path: str) -> str:
        return f"{self._bases[publisher]}/{path}"
