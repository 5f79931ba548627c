"""Report of an ablation, from synthetic folders: tables, links, figures, partial results and damaged files."""

import csv
import json
import math
import re

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from ldarnet import LDARNetConfig
from ldarnet.ablation.links import RunLinks
from ldarnet.ablation.report import write_report
from ldarnet.comparison.statistics import corrected_t
from ldarnet.errors import UserError
from ldarnet.model.cost import cost
from tests.support.damaged import damaged_bytes
from tests.support.made_ablation import STEPS, change_record, make_ablation, write_lines

LOSSES = {"learned": [1.330, 1.333, 1.331], "grid": [1.341, 1.3445, 1.346], "6-mers": [1.38, 1.37, 1.375]}
SCORES = {"learned": [0.70, 0.72, 0.71], "grid": [0.66, 0.69, 0.665], "6-mers": [0.60, 0.58, 0.61]}
BASES = STEPS * 4096


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Do not wait for the disk, and draw figures only where a test asks for them."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, out, **_: out.write_bytes(b"PNG"))


@pytest.fixture
def ablation(tmp_path):
    return make_ablation(tmp_path / "a", LOSSES, scores=SCORES, tasks=("H3", "H4"))


def written(folder):
    write_report(folder)
    return (folder / "report" / "report.md").read_text()


def table_rows(folder, name):
    with open(folder / "report" / name, newline="") as file:
        return list(csv.DictReader(file))


def section(text, title):
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def difference(folder, **chosen):
    (row,) = [
        row for row in table_rows(folder, "differences.csv") if all(row[key] == value for key, value in chosen.items())
    ]
    return {key: float(row[key]) for key in ("difference", "low", "high", "p", "holm", "detectable", "pairs")}


def test_losses_in_bits_and_paired_differences(ablation):
    text = written(ablation)
    found = difference(ablation, table="equal bases", quantity="span1", arm="grid")
    bits = (np.array(LOSSES["grid"]) - LOSSES["learned"]) / math.log(2)
    expected = stats.ttest_1samp(bits, 0)
    assert found["difference"] == pytest.approx(bits.mean())
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert f"{np.mean(LOSSES['grid']) / math.log(2):.4f}" in section(text, "Pretraining")


def test_holm_is_over_the_arms_of_a_table(ablation):
    written(ablation)
    ps = sorted(difference(ablation, table="equal bases", quantity="span6", arm=arm)["p"] for arm in ("grid", "6-mers"))
    holm = sorted(
        difference(ablation, table="equal bases", quantity="span6", arm=arm)["holm"] for arm in ("grid", "6-mers")
    )
    assert holm == pytest.approx([2 * ps[0], max(2 * ps[0], ps[1])])
    alone = difference(ablation, table="equal bases", quantity="span1", arm="grid")
    assert alone["p"] == alone["holm"]


def test_token_arms_are_scored_on_spans_only(ablation):
    text = written(ablation)
    losses = {(row["arm"], row["loss"]) for row in table_rows(ablation, "pretraining.csv")}
    assert losses == {(arm, loss) for arm in LOSSES for loss in ("span1", "span6")} - {("6-mers", "span1")}
    single, spans = text.split("### Loss, ")[1:3]
    assert "| 6-mers |" not in single
    assert "| 6-mers |" in spans


def test_marginalized_losses_of_kmers(ablation):
    path = ablation / "arms/6-mers/seed0/pretrain/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["masks"]["span6"]["marginal_loss"] = 2.0
    write_lines(path, lines)
    written(ablation)
    (row,) = [row for row in table_rows(ablation, "pretraining.csv") if (row["arm"], row["seed"]) == ("6-mers", "0")]
    assert float(row["bits_at_equal_bases"]) == pytest.approx(2 / math.log(2))


def test_causal_arms_have_tables_of_their_own(ablation):
    for path in (ablation / "arms/grid").glob("seed*/pretrain/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line.pop("masks", None):
                line["bits_per_base"] = 1.9
        write_lines(path, lines)
    text = written(ablation)
    *masked, causal = text.partition("## Downstream")[0].split("### Loss, ")[1:]
    assert causal.startswith("next base (causal models)")
    assert "| grid | 3 | 1.9000 ± 0.0000 (" in causal
    assert "| learned |" not in causal and "**learned**" not in causal
    assert len(masked) == 2
    assert not any("| grid |" in one for one in masked)
    assert {row["arm"] for row in table_rows(ablation, "differences.csv") if row["unit"] == "bits"} == {"6-mers"}


def test_flops_follow_the_logged_chunk_lengths(tmp_path):
    """A grid with chunks of 2 bases costs more, so at equal FLOPs it is read before its end."""
    folder = make_ablation(tmp_path / "a", {"learned": [1.33], "grid": [1.34]}, ratios={"learned": 8.0, "grid": 2.0})
    text = written(folder)
    rows = {row["arm"]: row for row in table_rows(folder, "pretraining.csv") if row["loss"] == "span1"}
    config = LDARNetConfig.from_dict(json.loads((folder / "ablation.json").read_text())["arms"]["grid"]["config"])
    per_base = cost(config, 1024, (2.0,)).training_flops
    assert float(rows["grid"]["flops"]) == pytest.approx(per_base * BASES)
    share = float(rows["learned"]["flops"]) / float(rows["grid"]["flops"])
    assert 0.5 < share < 1
    loss = 1.34 + (1 - share) * STEPS / 100  # the made curve falls by 0.1 over the second half of training
    assert float(rows["grid"]["bits_at_equal_flops"]) == pytest.approx(loss / math.log(2))
    assert rows["learned"]["bits_at_equal_flops"] == rows["learned"]["bits_at_equal_bases"]
    assert f"{share:.0%}" in text


@pytest.mark.parametrize(("extra", "cell"), [(1.01, "1.9332"), (1.05, "later")])
def test_runs_with_one_validation_have_a_value_at_equal_flops(tmp_path, extra, cell):
    """Chunks of slightly different lengths give slightly different totals of FLOPs."""
    folder = make_ablation(tmp_path / "a", {"grid": [1.33], "random": [1.34]})
    change_record(folder, {"reference": "grid"})
    for arm, factor in (("grid", 1.0), ("random", extra)):
        path = folder / "arms" / arm / "seed0" / "pretrain" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [line | {"bases": round(line["bases"] * factor)} if "bases" in line else line for line in lines]
        write_lines(path, [line for line in lines if line["split"] == "train" or line["step"] == STEPS])
    _, equal_flops = written(folder).partition("### Loss, masks of 6")[0].split("**Equal FLOPs**")
    assert f"| random | {int(cell != 'later')} | {cell} " in equal_flops
    (row,) = [row for row in table_rows(folder, "pretraining.csv") if (row["arm"], row["loss"]) == ("random", "span1")]
    expected = math.nan if cell == "later" else 1.34 / math.log(2)
    assert float(row["bits_at_equal_flops"]) == pytest.approx(expected, nan_ok=True)


def test_downstream_differences_use_the_corrected_test(ablation):
    text = written(ablation)
    found = difference(ablation, table="probe", quantity="H3", arm="grid")
    pairs = [100 * (ours - theirs) for ours, theirs in zip(SCORES["grid"], SCORES["learned"], strict=True)] * 3
    rows = json.loads((ablation / "arms/grid/seed0/nt/H3/probe/fold0/result.json").read_text())["rows"]
    assert found["pairs"] == 9
    assert found["difference"] == pytest.approx(np.mean(pairs))
    assert found["p"] == pytest.approx(corrected_t(pairs, rows["train"], rows["test"]))
    mean = difference(ablation, table="probe", quantity="mean of 2 tasks", arm="grid")
    assert mean["pairs"] == 3
    assert mean["p"] == pytest.approx(stats.ttest_1samp(pairs[:3], 0).pvalue)
    assert "points in 2 of 2 comparisons" in section(text, "What this experiment could detect")


def test_other_rows_are_not_paired(ablation):
    for file in (ablation / "arms/grid").glob("seed1/nt/*/*/fold*/result.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"data_fingerprint": "e" * 64}))
    written(ablation)
    assert difference(ablation, table="probe", quantity="H3", arm="grid")["pairs"] == 6


def test_every_run_is_linked(ablation):
    text = written(ablation)
    links = set(re.findall(r"\]\((\.\./[^)]+)\)", text))
    assert {(ablation / "report" / link).resolve().is_dir() for link in links} == {True}
    seeds = {f"../arms/{arm}/seed{seed}" for arm in LOSSES for seed in range(3)}
    assert {f"{seed}/pretrain" for seed in seeds} < links
    assert {f"{seed}/nt/{task}/probe/fold2" for seed in seeds for task in ("H3", "H4")} < links


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("https://name:secret@mlflow.lab:5000/base/", "https://mlflow.lab:5000/base/#/runs/r1"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/#/runs/r1"),
        ("sqlite:///mlflow.db", "../run%20%281%29"),
        ("javascript:alert(1)//x", "../run%20%281%29"),
        ("http://[", "../run%20%281%29"),
        (None, "../run%20%281%29"),
    ],
)
def test_links_lead_to_the_tracking_server(tmp_path, uri, url):
    run = tmp_path / "run (1)"
    run.mkdir()
    (run / "mlflow.json").write_text(json.dumps({"tracking_uri": uri, "run_id": "r1"}))
    assert RunLinks(tmp_path / "report").url(run) == url


def test_partial_ablations_say_what_is_missing(ablation):
    change_record(ablation, {"arms": {"random": {"config": {}, "seeds": {"0": {"state": "waiting"}}}}})
    (ablation / "arms/grid/seed1/pretrain/summary.txt").unlink()
    record = json.loads((ablation / "ablation.json").read_text())
    record["arms"]["grid"]["seeds"]["1"] = {"state": "failed", "reason": "out of | memory"}
    (ablation / "ablation.json").write_text(json.dumps(record))
    (ablation / "arms/learned/seed0/nt/H4/probe/summary.json").unlink()
    (ablation / "arms/6-mers/statistics.json").unlink()
    missing = section(written(ablation), "Missing")
    assert r"- arm grid, seed 1: failed: out of \| memory" in missing
    assert "- arm random, seed 0: waiting" in missing
    assert "- arm 6-mers: statistics of boundaries" in missing
    assert "- arm learned, seed 0: nt/H4, probe" in missing
    assert difference(ablation, table="equal bases", quantity="span1", arm="grid")["pairs"] == 2


def test_one_seed_has_no_interval(tmp_path):
    losses, scores = {"learned": [1.33], "grid": [1.34]}, {"learned": [0.7], "grid": [0.6]}
    folder = make_ablation(tmp_path / "a", losses, scores=scores)
    text = written(folder)
    row = table_rows(folder, "differences.csv")[0]
    assert (row["low"], row["p"], row["detectable"], row["pairs"]) == ("", "", "", "1")
    assert "unknown; at least two seeds" in section(text, "What this experiment could detect")


def test_unfinished_ablation_without_results(ablation):
    for file in ablation.rglob("summary.txt"):
        file.unlink()
    change_record(ablation, {"tasks": []})
    text = written(ablation)
    assert "No run has finished." in text
    assert "No fine-tuning run has finished." in text
    assert table_rows(ablation, "pretraining.csv") == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", "1e300"])
def test_a_diverged_seed_is_missing(ablation, value):
    path = ablation / "arms/grid/seed2/pretrain/metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[-1] = re.sub(r'"mask_loss": [\d.]+', f'"mask_loss": {value}', lines[-1])
    path.write_text("\n".join(lines) + "\n")
    text = written(ablation)
    assert "arm grid, seed 2: the span1 loss at the end of training is not finite" in section(text, "Missing")
    assert difference(ablation, table="equal bases", quantity="span1", arm="grid")["pairs"] == 2
    assert "nan" not in text.lower()


def test_names_are_escaped(ablation):
    record = json.loads((ablation / "ablation.json").read_text())
    record["arms"]["<b>|$x$"] = record["arms"].pop("grid")
    (ablation / "ablation.json").write_text(json.dumps(record))
    (ablation / "arms/grid").rename(ablation / "arms/<b>|$x$")
    text = written(ablation)
    assert "<b>" not in text.replace(r"\<b\>", "")
    assert r"\<b\>\|\$x\$" in text


FILES = (
    "ablation.json",
    "arms/grid/statistics.json",
    "arms/grid/seed0/nt/H3/probe/fold0/result.json",
    "arms/grid/seed0/pretrain/mlflow.json",
)


@pytest.mark.parametrize("name", FILES)
def test_malformed_files_are_one_error(ablation, name):
    path = ablation / name
    if not path.exists():
        path.write_text(json.dumps({"tracking_uri": "http://host", "run_id": "r"}))
    for kind, content in damaged_bytes(path.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            write_report(ablation)
        message = str(error.value)
        assert message.startswith(f"{path}: "), (kind, message)
        assert "\n" not in message
    assert not (ablation / "report" / "report.md").exists()


def test_malformed_lines_and_configurations_are_one_error(ablation):
    change_record(ablation, {"arms": {"grid": {"config": {"arch_layout": 3}}}})
    with pytest.raises(UserError, match=r"ablation.json: arms.grid.config: .*; run the same ablation again"):
        write_report(ablation)


def test_a_malformed_line_is_named(ablation):
    path = ablation / "arms/grid/seed0/pretrain/metrics.jsonl"
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match=r"metrics.jsonl: line 1: "):
        write_report(ablation)


def test_writing_again_replaces_figures_without_data(ablation):
    written(ablation)
    assert (ablation / "report" / "chunk_lengths.png").is_file()
    for file in ablation.rglob("statistics.json"):
        file.unlink()
    text = written(ablation)
    assert not (ablation / "report" / "chunk_lengths.png").exists()
    assert "chunk_lengths.png" not in text


def test_figures_show_all_arms(ablation, monkeypatch):
    monkeypatch.undo()
    text = written(ablation)
    names = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert names == ["differences.png", "loss.png", "chunk_lengths.png"]
    for name in names:
        assert imread(ablation / "report" / name).shape[0] > 200
