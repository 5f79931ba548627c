"""Fetch published genomes: ``python -m sharding.fetch NAME --out DIR``."""

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from ldarnet.console import Printer, make_console, progress_bar
from ldarnet.errors import UserError
from ldarnet.io.download import GoneError, Patience, Report
from ldarnet.io.files import atomic_path
from sharding.fetched import Store
from sharding.program import run
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
            TextColumn("{task.description}", markup=False),
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sharding.fetch",
        description="Fetch published genomes. Files are checked against the checksums that their publishers serve. "
        "Stopped for any reason, the same command goes on where it stopped.",
    )
    parser.add_argument("name", nargs="?", help="of the set; --list shows them")
    parser.add_argument("--list", action="store_true", help="show what there is: size, licence and publisher")
    parser.add_argument("--out", type=Path, help="folder for the files (default: the name of the set)")
    parser.add_argument("--jobs", type=int, default=4, help="files to fetch at a time (%(default)s)")
    parser.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="PUBLISHER=URL",
        help="another host for a publisher (repeatable)",
    )
    parser.add_argument("--unchecked", action="store_true", help="take files that no list of checksums names")
    parser.add_argument("--skip-missing", action="store_true", help="do without assemblies that are nowhere any more")
    options = parser.parse_args(arguments)
    registry, console = Registry(options.mirror), make_console()
    if options.list:
        list_sets(registry, console)
        return 0
    if options.name is None:
        parser.error("name a set, or ask for the --list of them")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: it must be at least 1")
    name, out = options.name, options.out or Path(options.name)
    switches = {"unchecked": options.unchecked, "skip_missing": options.skip_missing}
    build = fetch(registry, name, out, jobs=options.jobs, console=console, **switches)
    console.print(f"{name} is in {out}. Licence: {registry[name].licence}.")
    console.print("Turn it into shards with")
    shards = shlex.quote(f"{out}-shards")
    console.print(f"  python -m sharding.build --out {shards} {build}")
    return 0


if __name__ == "__main__":
    run(main)
