"""Download published genomes: ``ldarnet fetch NAME --out DIR``."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from ldarnet.console import Printer, make_console, progress_bar
from ldarnet.errors import UserError
from ldarnet.io.download import DOWNLOAD_RETRY, GoneError, Receipt, Report, describe
from ldarnet.io.files import atomic_path
from ldarnet.io.retry import Retry
from ldarnet.program import run
from sharding.fetched import Fetcher, open_fetcher
from sharding.published import PublishedAssembly, PublishedFile, Registry

GENOMES_NAME = "genomes.tsv"
_ASSEMBLIES = "assemblies"


class FetchProgress(Printer):
    """Progress of several downloads: one line per finished file and, on a terminal, one bar per running download."""

    def __init__(self, console: Console, total: int) -> None:
        """Prepare to show the progress of ``total`` files."""
        self._total = total
        self._done = 0
        self._bar = progress_bar(
            console,
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            transient=True,
        )
        super().__init__(console, self._bar)

    @contextmanager
    def file(self, name: str) -> Iterator[Report]:
        """Inside the ``with`` block, show a progress bar for one file."""
        task = self._bar.add_task(name, total=None)
        try:
            yield lambda have, total: self._bar.update(task, completed=have, total=total)
        finally:
            self._bar.remove_task(task)

    def finished(self, name: str, receipt: Receipt) -> None:
        """Report a finished file."""
        self._done += 1
        self.info(f"[{self._done}/{self._total}] {describe(name, receipt)}")


def fetch_all(
    fetcher: Fetcher, files: Sequence[PublishedFile], display: FetchProgress, jobs: int, subfolder: str = ""
) -> dict[PublishedFile, GoneError]:
    """Download files, ``jobs`` at a time. Files that no longer exist are skipped; any other error stops all downloads.

    Returns:
        The error of each file that no longer exists at its publisher.

    Raises:
        UserError: a download failed for another reason.
    """

    def one(file: PublishedFile) -> None:
        with display.file(file.name) as report:
            receipt = fetcher.fetch(file, report, subfolder)
        display.finished(file.name, receipt)

    gone: dict[PublishedFile, GoneError] = {}
    with ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(one, file): file for file in files}
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_EXCEPTION).done:
                    file = pending.pop(future)
                    try:
                        future.result()
                    except GoneError as error:
                        gone[file] = error
        except BaseException:
            fetcher.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return gone


def fetch(
    registry: Registry,
    name: str,
    out: Path,
    *,
    jobs: int = 4,
    unchecked: bool = False,
    skip_missing: bool = False,
    retry: Retry | None = None,
    console: Console | None = None,
) -> str:
    """Download a published genome set into a folder; existing files are kept.

    Args:
        registry: the published sets.
        name: name of the set.
        out: the folder.
        jobs: parallel downloads.
        unchecked: accept a file without verification if the publisher's checksum list no longer exists, or does not
            contain the file.
        skip_missing: skip assemblies that no longer exist at their publisher.
        retry: retry policy for network failures; by default `DOWNLOAD_RETRY`.
        console: console that shows progress; by default standard output.

    Returns:
        Shell-quoted arguments of ``ldarnet shard`` that build this set.

    Raises:
        UserError: no such set, or a file cannot be downloaded, does not match its checksum, or does not fit on disk.
    """
    published, console = registry[name], console or make_console()
    with open_fetcher(out, retry or DOWNLOAD_RETRY, unchecked=unchecked) as fetcher:
        if published.assemblies is None:
            with FetchProgress(console, len(published.files)) as display:
                for error in fetch_all(fetcher, published.files, display, jobs).values():
                    raise error
        else:
            with FetchProgress(console, 1) as display:
                for error in fetch_all(fetcher, [published.assemblies], display, jobs).values():
                    raise error
            text = (out / published.assemblies.name).read_text(encoding="utf-8", errors="replace")
            assemblies = registry.parse_assemblies(published, text)
            with FetchProgress(console, len(assemblies)) as display:
                gone = fetch_all(fetcher, [assembly.file for assembly in assemblies], display, jobs, _ASSEMBLIES)
            _check_missing(assemblies, gone, skip_missing)
            _write_genomes(out, [assembly for assembly in assemblies if assembly.file not in gone])
    return published.build.format(folder=shlex.quote(str(out)))


def _check_missing(
    assemblies: Sequence[PublishedAssembly], gone: Mapping[PublishedFile, GoneError], skip_missing: bool
) -> None:
    if gone and not skip_missing:
        names = ", ".join(sorted(file.name for file in gone))
        raise UserError(
            f"{len(gone)} of {len(assemblies)} assemblies no longer exist at their publisher: {names} (first error: "
            f"{next(iter(gone.values()))}); all others have been downloaded; use --skip-missing to skip the "
            "missing ones"
        )


def _write_genomes(out: Path, assemblies: Sequence[PublishedAssembly]) -> None:
    """Write the input files of ``ldarnet shard``: a table of genomes, and ``<split>.txt`` for each held-out split.

    Each line of the table is a species and a path. Each line of ``<split>.txt`` is a species with a trailing slash.
    """
    lines = {GENOMES_NAME: [f"{assembly.species}\t{_ASSEMBLIES}/{assembly.file.name}" for assembly in assemblies]}
    for assembly in assemblies:
        if assembly.split != "train":
            lines.setdefault(f"{assembly.split}.txt", []).append(f"{assembly.species}/")
    for name, content in lines.items():
        with atomic_path(out / name) as partial:
            partial.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")


def list_sets(registry: Registry, console: Console) -> None:
    """Print the published sets."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for published in registry.sets.values():
        files = (*published.files, *((published.assemblies,) if published.assemblies else ()))
        hosts = dict.fromkeys(f"{file.url.split('/')[2]}{'' if file.checksums else ' (no checksum)'}" for file in files)
        rows = (published.title, published.size, f"license: {published.license}", f"from {', '.join(hosts)}", "")
        table.add_row(Text(published.name, style="bold"), "\n".join(rows))
    console.print(table)


def main(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the genome set; --list shows all names.")
    ] = None,
    *,
    show: Annotated[
        bool, typer.Option("--list", help="List the genome sets with size, license and publisher.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Download folder. Default: the name of the set.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Parallel downloads.")] = 4,
    mirror: Annotated[
        list[str] | None,
        typer.Option(metavar="PUBLISHER=URL", help="Download from a mirror of a publisher (repeatable)."),
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Accept files that are missing from the publisher's checksum list.")
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Skip assemblies that their publisher no longer serves.")
    ] = False,
) -> None:
    """Download published genomes and verify them against their publishers' checksums.

    Run the same command again to resume an interrupted download.
    """
    registry, console = Registry(mirror or []), make_console()
    if show:
        list_sets(registry, console)
        return
    if name is None:
        raise UserError("no genome set given; use --list to show the available sets")
    out = out or Path(name)
    build = fetch(registry, name, out, jobs=jobs, unchecked=unchecked, skip_missing=skip_missing, console=console)
    console.print(f"downloaded {name} to {out}")
    console.print(f"license: {registry[name].license}")
    console.print("to build the shard set, run:")
    shards = shlex.quote(f"{out}-shards")
    console.print(f"  ldarnet shard --out {shards} {build}")


if __name__ == "__main__":
    sys.exit(run(main, name="python -m sharding.fetch"))
