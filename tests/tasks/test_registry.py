import gzip
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ldarnet.cli import app
from ldarnet.errors import UserError
from ldarnet.io.files import sha256_file
from ldarnet.tasks import all_tasks, find_task, registry
from ldarnet.tasks.formats import read_records

NT = [
    "H3",
    "H3K4me1",
    "H3K4me2",
    "H3K4me3",
    "H3K9ac",
    "H3K14ac",
    "H3K36me3",
    "H3K79me3",
    "H4",
    "H4ac",
    "promoter_all",
    "promoter_no_tata",
    "promoter_tata",
    "enhancers",
    "enhancers_types",
    "splice_sites_all",
    "splice_sites_acceptors",
    "splice_sites_donors",
]
GB = [
    "demo_coding_vs_intergenomic_seqs",
    "demo_human_or_worm",
    "drosophila_enhancers_stark",
    "dummy_mouse_enhancers_ensembl",
    "human_enhancers_cohn",
    "human_enhancers_ensembl",
    "human_ensembl_regulatory",
    "human_nontata_promoters",
    "human_ocr_ensembl",
]


def test_registry_has_the_27_tasks_and_gue():
    names = {
        short: [task.name for task in all_tasks().values() if task.short == short] for short in ("nt", "gb", "gue")
    }
    assert sorted(names["nt"]) == sorted(NT)
    assert sorted(names["gb"]) == sorted(GB)
    assert len(names["gue"]) == 28


def test_settings_equal_the_published_ones():
    assert {find_task(f"nt/{name}").batch for name in NT} == {64}
    assert find_task("H3").lr == 1e-4
    assert find_task("H4").lr == 5e-5
    assert find_task("enhancers").lr == 2e-5
    assert find_task("splice_sites_donors").lr == 2e-4
    assert find_task("human_enhancers_cohn").lr is None


@pytest.mark.parametrize("task", all_tasks().values(), ids=lambda task: task.key)
def test_entries_state_source_license_and_revision(task):
    assert task.source.startswith("https://")
    assert task.license
    assert task.settings
    assert len(task.classes) >= 2
    assert 1 < task.length[0] <= task.length[1]
    assert all(count > 0 for count in task.rows.values())
    for file in task.files:
        assert task.revision
        assert task.revision in file.url
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_tasks_are_found_by_name_with_or_without_suite():
    assert find_task("H3").key == "nt/H3"
    assert find_task("nucleotide_transformer/H3") is find_task("nt/H3")
    assert find_task("gue/H3").key == "gue/H3"
    assert find_task("prom_core_all").key == "gue/prom_core_all"
    with pytest.raises(UserError, match=r"task=h3k9AC: no published task .*did you mean H3K9ac"):
        find_task("h3k9AC")
    with pytest.raises(UserError, match=r"task=H3K9: no published task .*did you mean H3K9ac"):
        find_task("H3K9")
    with pytest.raises(UserError, match=r"gb/H3: no published task"):
        find_task("gb/H3")


def test_the_command_lists_every_task():
    ended = CliRunner().invoke(app, ["tasks"])
    assert ended.exit_code == 0
    for task in all_tasks().values():
        assert re.search(rf"^  {task.name} .* {task.metric} ", ended.stdout, re.MULTILINE)
        assert task.leakage is None or task.leakage in ended.stdout
    of_one = CliRunner().invoke(app, ["tasks", "gb"]).stdout
    assert all((f"  {task.name} " in of_one) == (task.short == "gb") for task in all_tasks().values())
    with pytest.raises(UserError, match="gbb: no such suite"):
        CliRunner().invoke(app, ["tasks", "gbb"], catch_exceptions=False)


@pytest.mark.parametrize("name", GB)
def test_rows_lengths_and_hashes_match_the_published_coordinates(shared: Path, name):
    task, rows, lengths = find_task(name), {"train": 0, "test": 0}, set()
    for file, digest in task.coordinates_sha256.items():
        path = shared / "data" / "gb_coordinates" / name / file
        assert sha256_file(path) == digest
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]:
            _, _, start, end, _ = line.split(",")
            lengths.add(int(end) - int(start))
            rows[file.partition("/")[0]] += 1
    assert rows == task.rows
    assert (min(lengths), max(lengths)) == task.length
    assert sorted({Path(file).name for file in task.coordinates_sha256}) == [f"{kind}.csv.gz" for kind in task.classes]


@pytest.mark.parametrize("name", [name for name in NT if name.startswith("H")])
def test_rows_of_histone_test_splits_match_the_published_files(shared: Path, name):
    records = read_records(shared / "data" / "nt_histone_test" / name / "test.fna.gz")
    assert len(records) == find_task(name).rows["test"] == find_task(f"gue/{name}").rows["test"]
    assert sum(find_task(name).rows.values()) == sum(find_task(f"gue/{name}").rows.values())


def test_rows_of_gue_match_the_published_files(shared: Path):
    found = 0
    for task in all_tasks().values():
        for split, stem in (("train", "train"), ("valid", "dev"), ("test", "test")):
            path = shared / "data" / "gue_deepgene" / "GUE" / task.folder / f"{stem}.csv.gz"
            if task.short == "gue" and path.exists():
                assert len(read_records(path)) == task.rows[split], (task.key, split)
                found += 1
    assert found > 20


ENTRY = """
assemblies: {}
suites:
  mine:
    short: my
    license: none
    source: https://example.org
    revision: null
    files: ["{folder}/train.fna"]
    metric: mcc
    batch: null
    settings: none
    tasks:
      one: {rows: [10, 5], length: 100, classes: 2, leakage: null}
"""
MALFORMED = {
    "empty": ("", "", "damaged"),
    "not a mapping": (ENTRY, "[1, 2]", "damaged"),
    "not YAML": ("{rows:", "{rows: [", r"line \d+: not valid YAML"),
    "a missing key": ("    metric: mcc\n", "", r"suites\.mine\.metric: missing"),
    "a number as text": ("rows: [10, 5]", "rows: ['10', 5]", r"suites\.mine\.tasks\.one\.rows"),
    "negative rows": ("rows: [10, 5]", "rows: [-10, 5]", r"rows\.0: expected at least 0"),
    "four splits": ("rows: [10, 5]", "rows: [1, 2, 3, 4]", "rows: .* at most 3 items"),
    "too many classes": ("classes: 2", "classes: 10000000000", "classes"),
    "an unknown assembly": (
        "classes: 2",
        "classes: {a: hg0, b: hg0}",
        "mine: one: unknown assembly or placeholder 'hg0'",
    ),
    "an unknown placeholder": ("{folder}/train", "{foler}/train", "mine: one: unknown assembly or placeholder 'foler'"),
    "a path as task": ("      one:", "      ../one:", "not a plain file name"),
    "a path as folder": ("leakage: null", "leakage: null, folder: ../x", "not a plain relative path"),
    "an absolute folder": ("leakage: null", "leakage: null, folder: /etc", "not a plain relative path"),
    "a path as suite": ("  mine:", "  ../mine:", "not a plain file name"),
    "a folder as file": ("{folder}/train.fna", "{folder}/..", "'..' is not a plain relative path"),
    "a path with a hash": (
        "leakage: null",
        "leakage: null, coordinates_sha256: {../x: " + "0" * 64 + "}",
        "not a plain",
    ),
    "a short hash": ("leakage: null", "leakage: null, sha256: {x: abc}", "sha256"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_registries_are_one_error(tmp_path, case):
    old, new, message = MALFORMED[case]
    path = tmp_path / "registry.yaml"
    path.write_text(ENTRY)
    assert [task.key for task in registry.read_registry(path).values()] == ["my/one"]
    assert not old or old in ENTRY
    path.write_text(ENTRY.replace(old, new) if old else new)
    with pytest.raises(UserError, match=message) as caught:
        registry.read_registry(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
