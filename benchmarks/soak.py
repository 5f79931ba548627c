"""Does a run that is killed again and again end as if it had been left alone?

    python -m benchmarks.soak --out FOLDER --config FILE [section.key=value ...]

trains once undisturbed, and once with a rank, drawn at random, killed (SIGKILL) every 10 to 40 seconds, at whatever it
is doing then. An outer loop starts all ranks again when the last one has ended. At the end weights and moments must be
equal, bit for bit. Writes `benchmarks/results/<date>-<NAME>.md` if `--name` is given.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from safetensors.torch import load_file

from benchmarks.record import provenance, write_result
from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import make_folder
from ldarnet.markdown import table
from ldarnet.runtime.checkpoint import CheckpointStore
from ldarnet.runtime.distributed import free_port
from ldarnet.runtime.metrics_file import read_metrics

ROOT = Path(__file__).resolve().parents[1]

PATIENCE_SECONDS = 20
"""How long the ranks have to end by themselves when one was killed; DeepSpeed's launcher gives them 30."""


@dataclass
class Life:
    """One start of all ranks, and how it ended.

    Attributes:
        seconds: until the kill, or the end.
        first: step it continued from.
        step: last one recorded.
        killed: rank that was killed, if any.
        ended: seconds from the kill to the end of the last rank.
        statuses: exit status of each rank.
    """

    seconds: float = 0.0
    first: int = 0
    step: int = 0
    killed: int | None = None
    ended: float = 0.0
    statuses: list[int] = field(default_factory=list)


def live(
    arguments: Sequence[str],
    run_dir: Path,
    ranks: int,
    kill_after: float | None,
    chance: random.Random,
    *,
    in_training: bool = False,
) -> Life:
    """Start all ranks, kill one of them after a while, and wait until all have ended.

    As a launcher does it, ranks are killed that do not end by themselves: those that wait for one that was killed while
    it was still importing, before it could join them.

    Args:
        arguments: of the program.
        run_dir: of the run.
        ranks: number of them.
        kill_after: seconds; None to kill none.
        chance: draws the rank.
        in_training: count the seconds from the first step on, not from the start of the processes.
    """
    latest = CheckpointStore(run_dir, 1).latest()
    first = int(latest.name.removeprefix("step-")) if latest else 0
    life, begin, before = Life(first=first, step=first), time.monotonic(), written(run_dir)
    lost, trains = 0.0, None
    command = ["launch/pretrain.py", *arguments, f"run.dir={run_dir}"]
    with run_dir.with_suffix(".log").open("a") as log:
        processes = _start_ranks(command, ranks, log)
    try:
        while any(process.poll() is None for process in processes):
            now = time.monotonic() - begin
            if trains is None and (not in_training or written(run_dir) != before):
                trains = now
            if kill_after is not None and life.killed is None and trains is not None and now - trains > kill_after:
                life.killed, life.seconds = chance.randrange(ranks), now
                processes[life.killed].send_signal(signal.SIGKILL)
            if any(process.poll() not in (None, 0) for process in processes):
                lost = lost or now
                if now - lost > PATIENCE_SECONDS:
                    break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
        life.statuses = [process.wait() for process in processes]
    life.ended = time.monotonic() - begin - life.seconds
    life.seconds = life.seconds or life.ended
    if written(run_dir) != before:
        life.step = max([first, *(line["step"] for line in read_metrics(run_dir / run_files.METRICS))])
    return life


def _start_ranks(command: Sequence[str], ranks: int, log: IO[str]) -> list[subprocess.Popen[str]]:
    """Run Python with the arguments `command` on every rank, on CPU with one thread each; all output goes to `log`."""
    common = os.environ | {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            text=True,
        )
        for rank in range(ranks)
    ]


def written(run_dir: Path) -> int:
    """When the metrics of a run were last written, in nanoseconds."""
    file = run_dir / run_files.METRICS
    return file.stat().st_mtime_ns if file.exists() else 0


def soak(
    arguments: Sequence[str],
    out: Path,
    *,
    ranks: int,
    between: tuple[float, float],
    seed: int,
    in_training: bool = False,
    kills: int | None = None,
) -> list[Life]:
    """The lives of a run that is killed until it is finished, or `kills` times; `in_training` is that of `live`.

    Raises:
        UserError: a start ends in a way that no kill explains.
    """
    chance, lives = random.Random(seed), list[Life]()
    while not lives or any(lives[-1].statuses):
        after = chance.uniform(*between) if kills is None or len(lives) < kills else None
        lives.append(live(arguments, out / "soaked", ranks, after, chance, in_training=in_training))
        life = lives[-1]
        print(
            f"life {len(lives)}: {life.first} -> {life.step}, "
            + (f"rank {life.killed} killed after {life.seconds:.1f} s, " if life.killed is not None else "")
            + f"all ended {life.ended:.1f} s later with {life.statuses}",
            flush=True,
        )
        if life.killed is None and any(life.statuses):
            raise UserError(f"a start ended with {life.statuses} though no rank was killed; see {out}/soaked.log")
    return lives


def differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors in the last checkpoints of two runs that are not equal bit for bit."""
    folders = [CheckpointStore(run, 1).latest() for run in (first, second)]
    assert folders[0] is not None and folders[1] is not None
    if folders[0].name != folders[1].name:
        return [f"{folders[0].name} and {folders[1].name}"]
    wrong = []
    for name in ("model", "optimizer"):
        expected, found = (load_file(folder / f"{name}.safetensors") for folder in folders if folder)
        wrong += [
            key for key in expected.keys() | found.keys() if key not in found or not expected[key].equal(found[key])
        ]
    return wrong


def report(lives: Sequence[Life], wrong: Sequence[str], undisturbed: Life, config: str, command: str) -> str:
    """The result in Markdown."""
    killed = [life for life in lives if life.killed is not None]
    taken = sum(life.step - life.first for life in lives)
    rows = [
        (f"{number}", life.first, life.step, "-" if life.killed is None else life.killed, round(life.seconds, 1),
         round(life.ended, 1), "/".join(map(str, life.statuses)))
        for number, life in enumerate(lives, 1)
    ]  # fmt: skip
    longest = max((life.ended for life in killed), default=0)
    alone = sum(life.ended < PATIENCE_SECONDS for life in killed)
    verdict = "equal bit for bit" if not wrong else f"DIFFERENT in {len(wrong)} tensors: {', '.join(wrong[:8])}"
    return "\n\n".join(
        (
            "# Soak: ranks killed at random, the run goes on",
            provenance(command),
            f"{len(killed)} kills in {sum(life.seconds + life.ended for life in lives) / 60:.1f} minutes, "
            f"{len(lives)} starts, {lives[-1].step:,} steps; steps taken more than once: {taken - lives[-1].step:,}. "
            f"From a kill to the end of the last rank: {longest:.1f} s at most; {alone} times the others ended by "
            f"themselves, else they were killed after {PATIENCE_SECONDS} s, before training had begun. "
            f"The undisturbed run took {undisturbed.seconds / 60:.1f} minutes.",
            f"**Weights and moments after the last step are {verdict}** in the two runs.",
            table(["start", "from step", "to step", "rank killed", "after s", "others ended in s", "statuses"], rows),
            f"```yaml\n{config}```",
        )
    )


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the two runs that does not exist yet")
    parser.add_argument("--config", required=True, help="YAML file of the run")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--between", type=float, nargs=2, default=(10.0, 40.0), metavar=("LEAST", "MOST"))
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--name", help="write a result of this name")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the configuration")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise UserError(f"{arguments.out} exists already; remove it or name another folder")
    passed = ["--config", arguments.config, *arguments.overrides]
    config = load_config(arguments.config, [*arguments.overrides, f"run.dir={arguments.out}/soaked"])
    make_folder(arguments.out)
    undisturbed = live(passed, arguments.out / "undisturbed", arguments.ranks, None, random.Random(0))
    if any(undisturbed.statuses):
        raise UserError(f"the undisturbed run ended with {undisturbed.statuses}; see {arguments.out}/undisturbed.log")
    lives = soak(passed, arguments.out, ranks=arguments.ranks, between=arguments.between, seed=arguments.seed)
    wrong = differences(arguments.out / "undisturbed", arguments.out / "soaked")
    command = f"python -m benchmarks.soak {' '.join(sys.argv[1:])}"
    config.save(arguments.out / run_files.CONFIG)
    text = report(lives, wrong, undisturbed, (arguments.out / run_files.CONFIG).read_text(), command)
    print(text)
    (arguments.out / "lives.json").write_text(json.dumps([vars(life) for life in lives], indent=1))
    if arguments.name:
        write_result(arguments.name, text)
    return bool(wrong)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
