"""The tables of metrics keys in launch/README.md list exactly the keys that pretraining writes."""

import re

import pytest

from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import ROOT, WORKERS, write_config

ALWAYS = {"step", "split"}
TEXT = (ROOT / "launch/README.md").read_text()
SOURCES = "".join(
    path.read_text() for folder in ("pretraining", "runtime") for path in (ROOT / "ldarnet" / folder).rglob("*.py")
)


def documented(split: str) -> set[str]:
    """Keys in the first column of a table."""
    rows = TEXT.partition(f"| key of {split} lines | value |\n")[2].partition("\n\n")[0].splitlines()[1:]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.parametrize("split", ["training", "validation"])
def test_every_documented_key_exists(split):
    assert len(documented(split)) > 10
    assert {key for key in documented(split) if f'"{key}"' not in SOURCES} == set()


def test_keys_that_callbacks_add_are_documented():
    callbacks = "".join(path.read_text() for path in (ROOT / "ldarnet/pretraining/callbacks").glob("*.py"))
    added = set(re.findall(r'line\["(\w+)"\] = ', callbacks))
    assert {"warnings", "skipped"} <= added <= documented("training")


@pytest.fixture(scope="module")
def lines(tmp_path_factory, shards, run_ranks):
    """Lines of a model that reads bases and of one that reads k-mers."""
    folder = tmp_path_factory.mktemp("table")
    regions = folder / "regions.bed"
    regions.write_text("second\t0\t900\tgene\n")
    single = {"preset": "tiny", "arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    validation = {"every": 1, "windows": 10, "mask_spans": [3, 6]}
    arms = {
        "bases": {"validation": validation | {"regions": str(regions)}},
        "kmers": {
            "model": single | {"tokenizer": {"method": "kmers", "k": 3}},
            "data": {"mask_span": 3},
            "validation": validation,
        },
    }
    for name in arms:
        (folder / name).mkdir()
    configs = [
        f"{write_config(folder / name, shards, **arm)} run.dir={folder}/{name}/run training.stop_after=1"
        for name, arm in arms.items()
    ]
    run_ranks(1, *configs, script=WORKERS / "several_runs.py").succeed()
    return [line for name in arms for line in read_metrics(folder / name / "run/metrics.jsonl")]


def test_every_written_key_is_documented(lines):
    written: dict[str, set[str]] = {"train": set(), "valid": set()}
    for line in lines:
        written[line["split"]] |= line.keys() - ALWAYS
        for nested in (*line.get("masks", {}).values(), *line.get("regions", {}).values()):
            written["valid"] |= nested.keys()
    assert written["train"] - documented("training") == set()
    assert written["valid"] - documented("validation") == set()
    assert {"masks", "regions", "composition_loss", "scored", "copy_loss", "marginal_loss"} <= written["valid"]
