"""Test that a run ends with the same weights, bit for bit, whether or not its ranks are killed on the way.

    python -m benchmarks.soak --out FOLDER --config FILE [section.key=value ...]

Trains once without interruption. Then trains again, and kills (SIGKILL) a random rank 10 to 40 seconds after each
launch. After each kill, the program waits for all ranks to exit and relaunches them. The final weights and optimizer
moments of both runs must be equal bit for bit. If `--name` is given, writes benchmarks/results/YYYY-MM-DD-NAME.md.
"""

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

from benchmarks.record import ROOT, ProgramParser, provenance, result_file, run_program, write_result
from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import make_folder
from ldarnet.markdown import table
from ldarnet.runtime.checkpoint import CheckpointStore
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.runtime.ports import free_port

EXIT_SECONDS = 20
"""Seconds within which the other ranks must exit after one rank is killed; DeepSpeed's launcher allows 30."""


@dataclass
class Launch:
    """One launch of all ranks.

    Attributes:
        seconds: seconds from the launch to the kill; if no rank was killed, to the exit of the last rank.
        first: step from which the run resumed.
        step: last logged step.
        killed: rank that was killed; None if no rank was killed.
        ended: seconds from the kill to the exit of the last rank; if no rank was killed, equal to `seconds`.
        statuses: exit status of each rank.
    """

    seconds: float = 0.0
    first: int = 0
    step: int = 0
    killed: int | None = None
    ended: float = 0.0
    statuses: list[int] = field(default_factory=list)


def launch(
    arguments: Sequence[str],
    run_dir: Path,
    ranks: int,
    kill_after: float | None,
    rng: random.Random,
    *,
    in_training: bool = False,
) -> Launch:
    """Launch all ranks, kill one of them after `kill_after` seconds, and wait until all have exited.

    Ranks that still run `EXIT_SECONDS` after the first failure are also killed, as a launcher would do. They hang, for
    example, if the killed rank had not yet joined the process group.

    Args:
        arguments: command-line arguments of the training program, without ``run.dir``.
        run_dir: run folder.
        ranks: number of ranks.
        kill_after: seconds until a rank is killed; None to kill no rank.
        rng: selects the rank to kill.
        in_training: count `kill_after` from the first logged step instead of the launch.
    """
    latest = CheckpointStore(run_dir, 1).latest()
    first = int(latest.name.removeprefix("step-")) if latest else 0
    attempt, begin, before = Launch(first=first, step=first), time.monotonic(), modified(run_dir)
    failed_at, trains_at = 0.0, None
    command = ["launch/pretrain.py", *arguments, f"run.dir={run_dir}"]
    with run_dir.with_suffix(".log").open("a") as log:
        processes = _start_ranks(command, ranks, log)
    try:
        while any(process.poll() is None for process in processes):
            now = time.monotonic() - begin
            if trains_at is None and (not in_training or modified(run_dir) != before):
                trains_at = now
            if (
                kill_after is not None
                and attempt.killed is None
                and trains_at is not None
                and now - trains_at > kill_after
            ):
                attempt.killed, attempt.seconds = rng.randrange(ranks), now
                processes[attempt.killed].send_signal(signal.SIGKILL)
            if any(process.poll() not in (None, 0) for process in processes):
                failed_at = failed_at or now
                if now - failed_at > EXIT_SECONDS:
                    break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
        attempt.statuses = [process.wait() for process in processes]
    attempt.ended = time.monotonic() - begin - attempt.seconds
    attempt.seconds = attempt.seconds or attempt.ended
    if modified(run_dir) != before:
        attempt.step = max([first, *(line["step"] for line in read_metrics(run_dir / run_files.METRICS))])
    return attempt


def _start_ranks(command: Sequence[str], ranks: int, log: IO[str]) -> list[subprocess.Popen[str]]:
    """Start Python with the arguments `command` for every rank, on CPU with one thread; all output goes to `log`."""
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


def modified(run_dir: Path) -> int:
    """Modification time of a run's metrics file in nanoseconds; 0 if the file does not exist."""
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
) -> list[Launch]:
    """Relaunch a run until it finishes; in each launch that is still running after a random time, kill a rank.

    Args:
        arguments: command-line arguments of the training program, without ``run.dir``.
        out: parent of the run folder ``soaked``.
        ranks: number of ranks.
        between: minimum and maximum seconds until a rank is killed.
        seed: random seed of the kill times and the killed ranks.
        in_training: see `launch`.
        kills: maximum number of kills; None for no limit.

    Raises:
        UserError: a launch failed although no rank was killed.
    """
    rng, launches = random.Random(seed), list[Launch]()
    while not launches or any(launches[-1].statuses):
        after = rng.uniform(*between) if kills is None or len(launches) < kills else None
        launches.append(launch(arguments, out / "soaked", ranks, after, rng, in_training=in_training))
        attempt = launches[-1]
        end = (
            f"all ranks exited after {attempt.ended:.1f} s"
            if attempt.killed is None
            else f"rank {attempt.killed} killed after {attempt.seconds:.1f} s, all exited {attempt.ended:.1f} s later"
        )
        print(
            f"launch {len(launches)}: steps {attempt.first} to {attempt.step}, {end}, exit statuses {attempt.statuses}",
            flush=True,
        )
        if attempt.killed is None and any(attempt.statuses):
            raise UserError(
                f"a launch failed although no rank was killed: exit statuses {attempt.statuses}; see {out}/soaked.log"
            )
    return launches


def differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors that differ between the last checkpoints of two runs.

    If the checkpoints are from different steps, returns a single entry that names both checkpoints.
    """
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


def report(launches: Sequence[Launch], wrong: Sequence[str], undisturbed: Launch, config: str, command: str) -> str:
    """Render the results file."""
    killed = [attempt for attempt in launches if attempt.killed is not None]
    taken = sum(attempt.step - attempt.first for attempt in launches)
    rows = [
        (f"{number}", one.first, one.step, "-" if one.killed is None else one.killed, round(one.seconds, 1),
         round(one.ended, 1), "/".join(map(str, one.statuses)))
        for number, one in enumerate(launches, 1)
    ]  # fmt: skip
    longest = max((attempt.ended for attempt in killed), default=0)
    alone = sum(attempt.ended < EXIT_SECONDS for attempt in killed)
    verdict = "equal bit for bit" if not wrong else f"DIFFERENT in {len(wrong)} tensors: {', '.join(wrong[:8])}"
    return "\n\n".join(
        (
            "# Soak test: ranks killed at random",
            provenance(command),
            f"{len(killed)} kills in {sum(attempt.seconds + attempt.ended for attempt in launches) / 60:.1f} minutes, "
            f"{len(launches)} launches, {launches[-1].step:,} steps; repeated steps: {taken - launches[-1].step:,}. "
            f"After a kill, the last rank exited within {longest:.1f} s. In {alone} cases, the other ranks exited on "
            f"their own; otherwise they were killed after {EXIT_SECONDS} s, before training had started. "
            f"The uninterrupted run took {undisturbed.seconds / 60:.1f} minutes.",
            f"**Weights and moments after the last step are {verdict}** in both runs.",
            table(["launch", "from step", "to step", "killed rank", "after s", "others exited in s", "statuses"], rows),
            f"```yaml\n{config}```",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test and return the exit status."""
    parser = ProgramParser("soak", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two runs; must not exist")
    parser.add_argument("--config", required=True, help="configuration of a pretraining run (YAML)")
    parser.add_argument("--ranks", type=int, default=2, help="number of ranks")
    parser.add_argument(
        "--between",
        type=float,
        nargs=2,
        default=(10.0, 40.0),
        metavar=("MIN", "MAX"),
        help="minimum and maximum seconds from a launch until one of its ranks is killed (default: 10 40)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kill times and the killed ranks")
    parser.add_argument("--name", help="write the results to YYYY-MM-DD-NAME.md (default: no file)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides of the configuration")
    options = parser.parse_args(arguments)
    if options.out.exists():
        raise UserError(f"{options.out}: already exists; remove it or choose another folder")
    file = result_file(options.name) if options.name else None
    passed = ["--config", options.config, *options.overrides]
    config = load_config(options.config, [*options.overrides, f"run.dir={options.out}/soaked"])
    make_folder(options.out)
    undisturbed = launch(passed, options.out / "undisturbed", options.ranks, None, random.Random(0))
    if any(undisturbed.statuses):
        raise UserError(
            f"the uninterrupted run failed: exit statuses {undisturbed.statuses}; see {options.out}/undisturbed.log"
        )
    launches = soak(passed, options.out, ranks=options.ranks, between=options.between, seed=options.seed)
    wrong = differences(options.out / "undisturbed", options.out / "soaked")
    config.save(options.out / run_files.CONFIG)
    text = report(launches, wrong, undisturbed, (options.out / run_files.CONFIG).read_text(), options.command)
    print(text)
    (options.out / "lives.json").write_text(json.dumps([vars(attempt) for attempt in launches], indent=1))
    if file:
        write_result(file, text)
    return bool(wrong)


if __name__ == "__main__":
    run_program(main)
