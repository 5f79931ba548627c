"""Download published genomes: ``ldarnet fetch NAME --out DIR``."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from ldarnet.console import Printer, make_console, progress_bar
from ldarnet.errors import UserError
from ldarnet.io.download import GoneError, Patience, Report
from ldarnet.io.files import atomic_path
from ldarnet.program import run
from sharding.fetched import Store
from sharding.published import Assembly, Registry, Remote

GENOMES_NAME = "genomes.tsv"
_ASSEMBLIES = "assemblies"


class FetchProgress(Printer):
    """Progress of several downloads: bars on a terminal, a line for each finished file elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        """Show ``total`` files."""
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
        """A bar for one file."""
        task = self._bar.add_task(name, total=None)
        try:
            yield lambda have, total: self._bar.update(task, completed=have, total=total)
        finally:
            self._bar.remove_task(task)

    def finished(self, name: str, receipt: Mapping[str, Any]) -> None:
        """Say that a file is there."""
        self._done += 1
        checked = receipt["checked_against"]
        said = f"NOT CHECKED ({checked.removeprefix('nothing: ')})" if checked.startswith("nothing") else "checked"
        self.info(f"[{self._done}/{self._total}] {name}: {receipt['size']:,} bytes, {said}, sha256 {receipt['sha256']}")


def fetch_all(
    store: Store, remotes: Sequence[Remote], display: FetchProgress, jobs: int, folder: str = ""
) -> dict[Remote, GoneError]:
    """Fetch files, ``jobs`` at a time; the first fault but the absence of a file stops all of them.

    Returns:
        The files that are nowhere any more.

    Raises:
        UserError: any other fault.
    """

    def one(remote: Remote) -> None:
        with display.file(remote.name) as report:
            receipt = store.fetch(remote, report, folder)
        display.finished(remote.name, receipt)

    gone: dict[Remote, GoneError] = {}
    with ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(one, remote): remote for remote in remotes}
        try:
            while pending:
                for future in wait(pending, return_when=FIRST_EXCEPTION).done:
                    remote = pending.pop(future)
                    try:
                        future.result()
                    except GoneError as error:
                        gone[remote] = error
        except BaseException:
            store.stop()
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
    patience: Patience | None = None,
    console: Console | None = None,
) -> str:
    """Fetch a published set into a folder; what is there already is not fetched again.

    Args:
        registry: the sets and where they lie.
        name: of the set.
        out: the folder.
        jobs: files to fetch at a time.
        unchecked: take files that their publisher's list of checksums does not name.
        skip_missing: do without assemblies of a long list that are nowhere any more.
        patience: how faults that may pass are met.
        console: where progress is shown.

    Returns:
        The arguments of ``sharding.build`` that make a shard set of it, as a shell reads them.

    Raises:
        UserError: no such set, or a file that cannot be had, is not what it should be, or does not fit.
    """
    published, patience, console = registry[name], patience or Patience(), console or make_console()
    with Store(out, patience, unchecked=unchecked).opened() as store:
        if published.assemblies is None:
            with FetchProgress(console, len(published.files)) as display:
                for error in fetch_all(store, published.files, display, jobs).values():
                    raise error
        else:
            with FetchProgress(console, 1) as display:
                for error in fetch_all(store, [published.assemblies], display, jobs).values():
                    raise error
            text = (out / published.assemblies.name).read_text(encoding="utf-8", errors="replace")
            assemblies = registry.parse_assemblies(published, text)
            with FetchProgress(console, len(assemblies)) as display:
                gone = fetch_all(store, [assembly.remote for assembly in assemblies], display, jobs, _ASSEMBLIES)
            _demand_all(assemblies, gone, skip_missing)
            _write_genomes(out, [assembly for assembly in assemblies if assembly.remote not in gone])
    return published.build.format(folder=shlex.quote(str(out)))


def _demand_all(assemblies: Sequence[Assembly], gone: Mapping[Remote, GoneError], skip_missing: bool) -> None:
    if gone and not skip_missing:
        names = ", ".join(sorted(remote.name for remote in gone))
        raise UserError(
            f"{len(gone)} of {len(assemblies)} assemblies are no longer at their publisher: {names} (the first: "
            f"{next(iter(gone.values()))}); all others are there; --skip-missing does without these"
        )


def _write_genomes(out: Path, assemblies: Sequence[Assembly]) -> None:
    """What `sharding.build` reads: species and paths, and for each split but train its species, a slash behind each."""
    lines = {GENOMES_NAME: [f"{assembly.species}\t{_ASSEMBLIES}/{assembly.remote.name}" for assembly in assemblies]}
    for assembly in assemblies:
        if assembly.split != "train":
            lines.setdefault(f"{assembly.split}.txt", []).append(f"{assembly.species}/")
    for name, content in lines.items():
        with atomic_path(out / name) as partial:
            partial.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")


def list_sets(registry: Registry, console: Console) -> None:
    """Print what there is."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for published in registry.sets.values():
        files = (*published.files, *((published.assemblies,) if published.assemblies else ()))
        hosts = dict.fromkeys(f"{file.url.split('/')[2]}{'' if file.checksums else ' (no checksum)'}" for file in files)
        rows = (published.title, published.size, f"licence: {published.licence}", f"from {', '.join(hosts)}", "")
        table.add_row(Text(published.name, style="bold"), "\n".join(rows))
    console.print(table)


def main(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the genome set; --list shows them.")
    ] = None,
    *,
    show: Annotated[
        bool, typer.Option("--list", help="List the genome sets with size, licence and publisher.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Download folder. Default: the name of the set.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Parallel downloads.")] = 4,
    mirror: Annotated[
        list[str] | None, typer.Option(metavar="PUBLISHER=URL", help="Mirror of a publisher (repeatable).")
    ] = None,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Accept files without a published checksum.")] = False,
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
        raise UserError("no genome set given; --list shows them")
    out = out or Path(name)
    build = fetch(registry, name, out, jobs=jobs, unchecked=unchecked, skip_missing=skip_missing, console=console)
    console.print(f"downloaded {name} to {out}; licence: {registry[name].licence}")
    console.print("build shards with")
    shards = shlex.quote(f"{out}-shards")
    console.print(f"  ldarnet shard --out {shards} {build}")


if __name__ == "__main__":
    sys.exit(run(main, name="python -m sharding.fetch"))
