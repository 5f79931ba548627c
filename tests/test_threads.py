"""Number of CPU threads: share of the cores, quotas, load, environment variables; kept when a run is resumed."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldarnet import threads
from ldarnet.program import exit_status


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Fake /proc and /sys of a machine with 8 logical CPUs on 4 physical cores, and no variables that set threads."""
    monkeypatch.setattr(threads, "PROC", tmp_path / "proc")
    monkeypatch.setattr(threads, "SYS", tmp_path / "sys")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for cpu in range(8):
        write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    return write


@pytest.fixture
def load(machine, monkeypatch):
    """Play back the numbers of busy logical CPUs in successive samples; returns the samples that are left."""
    left, ticks = [], [[0, 0] for _ in range(8)]

    def sleep(seconds):
        busy = left.pop(0)
        for cpu, spent in enumerate(ticks):
            spent[cpu >= busy] += 20
        write()

    def write():
        lines = [f"cpu{cpu} {busy} 0 0 {idle} 0 0 0 0 0 0\n" for cpu, (busy, idle) in enumerate(ticks)]
        machine("proc/stat", "cpu  1 2 3 4 5 6 7 8 0 0\n" + "".join(lines) + "intr 12\n")

    write()
    monkeypatch.setattr(threads.time, "sleep", sleep)
    return left


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@given(cores=st.integers(1, 256), processes=st.integers(1, 300), idle=st.floats(0, 256))
def test_processes_never_take_more_than_the_cores_or_than_is_idle(cores, processes, idle):
    count = threads.thread_count(cores, processes, idle)
    assert count >= 1
    if count > 1:
        assert count * processes <= cores
        assert count <= idle / processes + 0.5


@pytest.mark.parametrize(
    ("cores", "processes", "idle", "expected"),
    [
        (2, 1, 2.0, 2),
        (2, 1, 1.4, 1),
        (2, 2, 2.0, 1),
        (2, 4, 2.0, 1),
        (16, 2, 15.6, 8),
        (16, 2, 7.0, 4),
        (16, 1, 0.0, 1),
    ],
)
def test_thread_counts(cores, processes, idle, expected):
    assert threads.thread_count(cores, processes, idle) == expected


def test_hyperthreads_of_a_core_count_once(machine, monkeypatch):
    assert (threads.usable_cores(), threads.usable_cpus()) == (4, 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4}, raising=False)
    assert (threads.usable_cores(), threads.usable_cpus()) == (2, 3)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/pod/container\n", {"pod/cpu.max": "300000 100000\n", "pod/container/cpu.max": "max 100000\n"}, 3),
        ("0::/not/visible/here\n", {"cpu.max": "50000 100000\n"}, 1),
        ("3:cpuset:/\n2:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "9000", "cpu/a/cpu.cfs_period_us": "4000"}, 2),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ("", {}, 4),
    ],
)  # fmt: skip
def test_quotas_of_the_cgroup_and_its_parents_limit_the_cores(groups, files, expected, machine):
    machine("proc/self/cgroup", groups)
    for name, text in files.items():
        machine(f"sys/fs/cgroup/{name}", text)
    assert threads.usable_cores() == expected


def test_a_busy_machine_gives_fewer_threads_and_says_how_to_use_all(load, restored_threads):
    load += [4, 4, 6, 4, 4]
    chosen = threads.set_threads()
    assert chosen.busy and torch.get_num_threads() == chosen.count == 2
    assert str(chosen) == "2 threads (4 cores, 2.0 idle; set OMP_NUM_THREADS=4 to use all)"
    assert load == []


def test_a_short_burst_of_another_program_does_not_count(load, restored_threads):
    load += [8, 0, 8]
    assert threads.set_threads() == (4, "4 cores", False)
    assert load == [8]


def test_processes_share_the_idle_cores(load, restored_threads):
    load += [0, 4, 4, 4, 4, 4]
    assert threads.set_threads(2) == (2, "4 cores for 2 processes", False)
    chosen = threads.set_threads(2)
    assert (chosen.count, chosen.busy) == (1, True)


def test_a_resumed_run_keeps_its_number_of_threads_whatever_the_load(load, restored_threads):
    assert threads.set_threads(earlier=3).count == 3
    load += [8, 8, 8, 8, 8]
    assert threads.set_threads(earlier=5).count == 1  # more than there are cores: chosen again
    assert load == []


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_the_users_setting_is_respected(name, load, monkeypatch, restored_threads):
    torch.set_num_threads(1)
    monkeypatch.setenv(name, "7")
    assert str(threads.set_threads()) == f"1 thread (set by {name}=7)"
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("active", "active")])
def test_idle_threads_sleep_unless_the_user_wants_otherwise(given, expected, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert exit_status(lambda: 0, name="program") == 0
    assert os.environ["OMP_WAIT_POLICY"] == expected


def test_ranks_agree_on_their_threads_and_keep_them_at_resume(config_file, run_ranks, tmp_path):
    run = tmp_path / "run"
    unset = dict.fromkeys(threads.VARIABLES, "")
    arguments = ("--config", config_file, "validation.windows=0")
    output = run_ranks(2, *arguments, "training.stop_after=4", **unset).succeed()
    saved = json.loads((run / "threads.json").read_text())
    assert saved["ranks"] == 2 and saved["threads"] <= max(threads.usable_cores() // 2, 1)
    assert f"2 x CPU ({saved['threads']} thread" in output
    logs = [path.read_text() for path in sorted((run / "logs").iterdir())]
    assert len(logs) == 2 and all(f"of all ranks: {saved['threads']}" in log for log in logs)

    (run / "threads.json").write_text(json.dumps({"ranks": 2, "threads": 1}))
    run_ranks(2, *arguments, "training.stop_after=6", **unset).succeed()
    assert "as in the previous launch" in (run / "logs/rank-00000.log").read_text()
    run_ranks(2, *arguments, "training.stop_after=8", OMP_NUM_THREADS="1").succeed()
    assert "1 thread (set by OMP_NUM_THREADS=1)" in (run / "logs/rank-00000.log").read_text()
    (run / "threads.json").write_text('{"ranks": 2, "threads": 0}')
    status, _, errors = run_ranks(2, *arguments, **unset).wait()[0]
    assert status == 1 and "threads.json" in errors and "delete it" in errors
