"""Cluster templates: arguments they pass on, signals, exit statuses, and consistent numbers.

A stub replaces the `deepspeed` command and records its calls; the real command runs in tests/multinode.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ldarnet.config import load_config
from ldarnet.program import STOPPED

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "launch/cluster"
HERE = "project/launch/cluster"

LAUNCHER = """#!{python}
import json, os, signal, subprocess, sys, time
from pathlib import Path
here = Path({folder!r})
call = {{"arguments": sys.argv[1:], "hosts": Path(sys.argv[2]).read_text(), "pid": os.getpid()}}
starts = len(list(here.glob("call-*")))
(here / f"call-{{starts}}-{{os.getpid()}}").write_text(json.dumps(call))
behavior = (here / "behavior").read_text().split()
if behavior[0] == "train":  # one rank that handles signals once it has started; startup takes behavior[1] seconds
    rank = "import sys, time; from signal import *; time.sleep(float(sys.argv[1])); "
    rank += "signal(SIGUSR1, lambda *_: sys.exit(75)); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", rank, behavior[1]], stdout=subprocess.PIPE)
    if behavior[1] == "0":
        child.stdout.readline()
    (here / "up").touch()
    sys.exit(child.wait())
sys.exit(int(behavior[min(starts // int(os.environ.get("NODES", "1")), len(behavior) - 1)]))
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with a stub of `deepspeed` first on PATH; its file `behavior` selects what the stub does.

    The templates are copied to the folder `project`, which has no .venv that would take precedence.
    """
    shutil.copytree(CLUSTER, tmp_path / HERE)
    programs = tmp_path / "bin"
    programs.mkdir()
    launcher = programs / "deepspeed"
    launcher.write_text(LAUNCHER.format(python=sys.executable, folder=str(tmp_path)))
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def calls(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("call-*"))]


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_node_starts_its_ranks(cluster):
    (cluster / "behavior").write_text("3")
    node = subprocess.run([cluster / HERE / "node.sh", "3", "1", "first", "8", "--config", "a file", "run.dir=b c"])
    assert node.returncode == 3
    (call,) = calls(cluster)
    assert call["hosts"] == "node0 slots=8\nnode1 slots=8\nnode2 slots=8\n"
    assert call["arguments"][2:] == [
        *("--no_ssh", "--node_rank", "1", "--master_addr", "first", "--master_port", "29500"),
        *("launch/pretrain.py", "--config", "a file", "run.dir=b c"),
    ]
    assert not Path(call["arguments"][1]).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("to", ["the node", "everything on it"])
@pytest.mark.parametrize("ready_after", [0, 1])
def test_a_signal_lets_ranks_save(cluster, number, to, ready_after):
    """Kubernetes and Ray signal the first process, Slurm all of them; launchers must wait for their ranks.

    A rank that is still starting receives the signal as soon as it can save.
    """
    (cluster / "behavior").write_text(f"train {ready_after}")
    command = [cluster / HERE / "node.sh", "1", "0", "first", "1", "--config", "x"]
    # Reset SIGINT: background jobs start with it ignored, and the shell script would inherit that.
    node = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    wait_for(cluster / "up")
    node.send_signal(number)
    if to == "everything on it":
        os.kill(calls(cluster)[0]["pid"], number)
    assert node.wait(30) == STOPPED


@pytest.fixture
def slurm(cluster, monkeypatch):
    """Run the Slurm template; stubs of `srun` and `scontrol` run one task and record the arguments, respectively."""
    (cluster / "bin/srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nSLURM_PROCID=1 exec "$@"\n')
    (cluster / "bin/scontrol").write_text(
        f'#!/bin/bash\nif [ "$1" = show ]; then printf "alpha\\nbeta\\n"; else echo "$@" >>{cluster}/scontrol; fi\n'
    )
    for name in ("srun", "scontrol"):
        (cluster / "bin" / name).chmod(0o755)
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "x[1-2]", "NNODES": "2", "GPUS_ON_NODE": "4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    def start(status):
        (cluster / "behavior").write_text(str(status))
        job = subprocess.run(["bash", cluster / HERE / "slurm.sbatch", "--config", "a file"], cwd=cluster / "project")
        asked = cluster / "scontrol"
        return job.returncode, asked.read_text().split() if asked.exists() else []

    return start


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (STOPPED, True), (70, True), (137, True)])
def test_slurm_requeues_a_job_that_can_resume(slurm, cluster, status, requeued):
    assert slurm(status) == (status, ["requeue", "7"] if requeued else [])
    (call,) = calls(cluster)
    assert call["hosts"] == "node0 slots=4\nnode1 slots=4\n"
    assert call["arguments"][2:7] == ["--no_ssh", "--node_rank", "1", "--master_addr", "alpha"]
    assert call["arguments"][-2:] == ["--config", "a file"]


def test_slurm_requeues_a_limited_number_of_times(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "100")
    assert slurm(70) == (70, [])


def test_a_ray_job_can_be_stopped_while_it_waits_for_nodes(monkeypatch):
    ray_job = pytest.importorskip("launch.cluster.ray_job")
    job, removed = ray_job.RayJob(2, 0, ["--config", "x"]), []
    nodes = SimpleNamespace(wait=lambda _: job.stop())
    monkeypatch.setattr(ray_job, "placement_group", lambda *_, **__: nodes)
    monkeypatch.setattr(ray_job, "remove_placement_group", removed.append)
    assert job.run(restarts=3) == STOPPED
    assert removed == [nodes]


def test_a_node_stopped_before_it_starts_launches_nothing(monkeypatch):
    ray_job = pytest.importorskip("launch.cluster.ray_job")
    monkeypatch.setattr(ray_job.subprocess, "Popen", pytest.fail)
    node = ray_job.Node.__ray_metadata__.modified_class()
    node.stop()
    assert node.run(2, 0, "127.0.0.1", 1, []) == STOPPED


@pytest.mark.slow
def test_ray_restarts_after_a_failure_and_lets_ranks_save(cluster, monkeypatch):
    """On two nodes, the first attempt of a job fails and the second succeeds; another job is stopped by a signal."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("NODES", "2")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    (cluster / "behavior").write_text("70 0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        command = [sys.executable, cluster / HERE / "ray_job.py", "--nodes", "2", "--gpus", "0", "--config", "a file"]
        job = subprocess.run(
            command, env=os.environ | {"RAY_ADDRESS": nodes.address}, capture_output=True, text=True, timeout=300
        )
        started = calls(cluster)
        (cluster / "behavior").write_text("train 0")
        stopped = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": nodes.address})
        wait_for(cluster / "up")
        stopped.send_signal(signal.SIGTERM)
        assert stopped.wait(60) == STOPPED
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert job.returncode == 0, job.stderr
    assert "exited with status 70; restarts remaining: 20" in job.stderr
    ranks = [call["arguments"][call["arguments"].index("--node_rank") + 1] for call in started]
    assert sorted(ranks[:2]) == sorted(ranks[2:]) == ["0", "1"]


def kubernetes():
    jobset = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())["spec"]
    (node,) = jobset["replicatedJobs"]
    job = node["template"]["spec"]
    torch = yaml.safe_load((CLUSTER / "pytorchjob.yaml").read_text())["spec"]["pytorchReplicaSpecs"]
    return [
        (job["completions"], job["template"]["spec"]),
        (sum(replica["replicas"] for replica in torch.values()), torch["Worker"]["template"]["spec"]),
    ]


@pytest.mark.parametrize(("nodes", "pod"), kubernetes(), ids=["jobset", "pytorchjob"])
def test_numbers_in_kubernetes_templates_agree(nodes, pod):
    (container,) = pod["containers"]
    count, _, _, slots, option, config, *overrides = container["args"]
    assert container["command"] == ["launch/cluster/node.sh"]
    assert int(count) == nodes
    assert int(slots) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert option == "--config"
    run = load_config(ROOT / config, overrides)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert any(run.run.dir.is_relative_to(mount["mountPath"]) for mount in container["volumeMounts"])


def test_kubernetes_restarts_a_saved_run():
    jobset = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())["spec"]
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"]
    saved, evicted = job["podFailurePolicy"]["rules"]
    assert saved["onExitCodes"]["values"] == [STOPPED]
    assert saved["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert evicted["onPodConditions"][0]["type"] == "DisruptionTarget"
    torch = yaml.safe_load((CLUSTER / "pytorchjob.yaml").read_text())["spec"]["pytorchReplicaSpecs"]
    assert {replica["restartPolicy"] for replica in torch.values()} == {"OnFailure"}
