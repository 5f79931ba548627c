"""Registry of the published genome sets in `published.yaml`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ldarnet.errors import UserError, refuse_credentials
from ldarnet.io.records import read_yaml

_REGISTRY = Path(__file__).with_name("published.yaml")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_ASSEMBLY = re.compile(r"(GC[AF])_(\d{3})(\d{3})(\d{3})\.\d+_[A-Za-z0-9._+-]+_genomic\.fna\.gz")
_SPECIES_FOLDER = re.compile(r"/genomes/(?:refseq|genbank)/[a-z_]+/([A-Z][A-Za-z0-9._-]+)/")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file that a publisher serves.

    Attributes:
        name: local file name.
        url: URL of the file.
        checksums: URL of the publisher's checksum list (MD5 or SHA-256); None if the publisher has no such list.
        elsewhere: other copies to try if the file no longer exists at ``url``. Each item is the URL of the copy and the
            URL of its checksum list.
    """

    name: str
    url: str
    checksums: str | None = None
    elsewhere: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A genome set of the registry.

    Attributes:
        name: key of the set in the registry.
        title: one-line description.
        size: length of the genomes and size of the download, such as "3.2 Gb, a download of 0.98 GB".
        license: terms of use, one line.
        files: files of the set; empty if it is defined by ``assemblies``.
        assemblies: file that lists the URL of one assembly per line; None if the set is defined by ``files``.
        held_out: split -> number of assemblies. The last assemblies of the list belong to these splits, in the
            order of the keys; all assemblies before them belong to ``train``.
        build: arguments of ``ldarnet shard``; ``{folder}`` is replaced by the download folder.
    """

    name: str
    title: str
    size: str
    license: str
    files: tuple[PublishedFile, ...]
    assemblies: PublishedFile | None
    held_out: Mapping[str, int] = field(default_factory=dict)
    build: str = ""


@dataclass(frozen=True, slots=True)
class PublishedAssembly:
    """An assembly in an assembly list: its species, split and file."""

    species: str
    split: str
    file: PublishedFile


class Registry:
    """The published genome sets, with URLs at their publishers or at mirrors."""

    def __init__(self, mirrors: Sequence[str] = ()) -> None:
        """Read the registry.

        Args:
            mirrors: ``PUBLISHER=URL`` for each publisher whose base URL is replaced.

        Raises:
            UserError: a publisher is unknown, or a URL is not http or https, or contains credentials.
        """
        content = read_yaml(_REGISTRY)
        self._publishers: dict[str, str] = content["publishers"]
        self._bases = self._publishers | dict(self._mirror(mirror) for mirror in mirrors)
        self.sets = {name: self._published(name, entry) for name, entry in content["sets"].items()}

    def __getitem__(self, name: str) -> PublishedSet:
        """Look up a set by name.

        Raises:
            UserError: no such set.
        """
        if name not in self.sets:
            raise UserError(f"{name}: no such published set; use one of {', '.join(self.sets)} (see --list)")
        return self.sets[name]

    def parse_assemblies(self, published: PublishedSet, text: str) -> list[PublishedAssembly]:
        """Parse the assembly list of a set.

        A species is named after its NCBI folder in the URL, or after the assembly if the URL has no such folder.

        Raises:
            UserError: a line is not the URL of an NCBI assembly, a file is listed twice, or there are too few lines.
        """
        assert published.assemblies is not None
        held_out = [split for split, count in published.held_out.items() for _ in range(count)]
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) <= len(held_out):
            raise UserError(
                f"{published.assemblies.url}: lists {len(lines)} assemblies, but more than {len(held_out)} are "
                "expected; report it to the publisher"
            )
        splits = ["train"] * (len(lines) - len(held_out)) + held_out
        assemblies: dict[str, PublishedAssembly] = {}
        for number, (line, split) in enumerate(zip(lines, splits, strict=True), start=1):
            place = f"{published.assemblies.url}: line {number}"
            file, species = self._assembly(place, line)
            if any(file == other.file for other in assemblies.values()):
                raise UserError(f"{place}: {file.name} is listed twice; report it to the publisher")
            if species in assemblies:
                species = f"{species}_{'_'.join(file.name.split('_')[:2])}"
            assemblies[species] = PublishedAssembly(species, split, file)
        return list(assemblies.values())

    def _assembly(self, place: str, line: str) -> tuple[PublishedFile, str]:
        name, home = line.rsplit("/", 1)[-1], self._publishers["ncbi"]
        path = re.sub(r"^(ftp|https?)://", "https://", line).removeprefix(f"{home}/")
        fits = _ASSEMBLY.fullmatch(name)
        if not fits or path.startswith("https://") or ".." in path:
            raise UserError(
                f"{place}: {line[:200]!r} is not the URL of an assembly at {home}; report it to the publisher"
            )
        named = _SPECIES_FOLDER.search(f"/{path}")
        species = named[1] if named else name.removesuffix("_genomic.fna.gz")
        # NCBI removes old assemblies from the species folders, but keeps all assemblies under genomes/all.
        archive = "genomes/all/{}/{}/{}/{}/".format(*fits.groups()) + name.removesuffix("_genomic.fna.gz")
        paths = [(f"{folder}/{name}", f"{folder}/md5checksums.txt") for folder in (path.rpartition("/")[0], archive)]
        (url, checksums), *elsewhere = dict.fromkeys((self._url("ncbi", a), self._url("ncbi", b)) for a, b in paths)
        return PublishedFile(name, url, checksums, tuple(elsewhere)), species

    def _mirror(self, mirror: str) -> tuple[str, str]:
        publisher, _, url = mirror.partition("=")
        refuse_credentials(url, f"--mirror {publisher}")
        if publisher not in self._publishers:
            raise UserError(
                f"--mirror {mirror}: unknown publisher {publisher!r}; use PUBLISHER=URL, where PUBLISHER is one of "
                f"{', '.join(self._publishers)}"
            )
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--mirror {mirror}: {url!r} is not an http or https URL; use {publisher}=https://HOST")
        return publisher, url.rstrip("/")

    def _published(self, name: str, entry: Mapping) -> PublishedSet:
        assemblies = entry.get("assemblies")
        return PublishedSet(
            name,
            *(entry[key] for key in ("title", "size", "license")),
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
