"""Configurations: files, overrides, errors, deprecated keys, shipped files."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ldarnet.config import FinetuneConfig, RunConfig, differences, flatten, load_config
from ldarnet.config.fields import field_of, known_keys, section_of
from ldarnet.config.loading import RENAMED_KEYS
from ldarnet.config.sweep import SweepConfig
from ldarnet.errors import UserError
from ldarnet.runtime import engine

ROOT = Path(__file__).parents[2]
MINIMAL = {"run": {"dir": "runs/x"}, "data": {"shards": "shards"}, "training": {"steps": 10}}


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "minimal.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_overrides_take_precedence_over_the_file(minimal):
    config = load_config(minimal, ["training.steps=7", "optimizer.lr=5e-4", "model.ssm_cfg.d_state=8", "ops.ssd=torch"])
    assert config.training.steps == 7
    assert config.optimizer.lr == 5e-4
    assert config.model.ssm_cfg == {"d_state": 8}
    assert config.ops == {"ssd": "torch"}


def test_config_is_frozen(minimal):
    with pytest.raises(ValueError, match="frozen"):
        load_config(minimal).training.steps = 3  # type: ignore[misc]


def test_a_saved_config_reproduces_the_run(minimal, tmp_path):
    config = load_config(minimal, ["optimizer.betas=[0.8, 0.9]", "validation.windows=0", "training.stop_after=3"])
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert set(flatten(config)) == set(flatten(load_config(tmp_path / "saved.yaml")))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.weight_deacy=1", "unknown key optimizer.weight_deacy; did you mean optimizer.weight_decay?"),
        ("training.lr=1e-3", "unknown key training.lr; did you mean optimizer.lr?"),
        ("trainin.steps=1", "unknown key trainin; did you mean training?"),
        ("data.length=20000000", "data.length=20000000 is out of range: at least 8, at most 16777216"),
        ("optimizer.lr=2", "optimizer.lr=2 is out of range: more than 0, at most 1"),
        ("data.mask_rate=0", "data.mask_rate=0 is out of range: more than 0, less than 1"),
        ("data.weights.yeast=-1", "data.weights.yeast=-1 is out of range: more than 0"),
        ("training.zero_stage=4", "training.zero_stage=4 is out of range: at least 0, at most 3"),
        (
            "training.epochs=2",
            "training.steps=10 and training.epochs=2 are mutually exclusive; set training.steps=null or ",
        ),
        ("schedule.decay=0.95", "schedule.warmup=0.1 + schedule.decay=0.95 is more than 1; reduce one of them"),
        ("optimizer.betas=[0.9,1.5]", "optimizer.betas.1=1.5 is out of range: less than 1"),
        ("schedule.decay_shape=cosine", "'published' or 'sqrt'"),
        ("training.accumulation=3", "cannot be divided into training.accumulation=3"),
        ("training.steps=ten", "training.steps='ten'"),
        ("optimizer.clip=.inf", "optimizer.clip=inf: expected a finite number"),
        ("optimizer.betas=[0.9, .nan]", "optimizer.betas.1=nan: expected a finite number"),
        ("model.ratio_weight=.nan", "finite number"),
        ("run.dir=null", "run.dir"),
        ("steps=3", "section.key=value"),
        ("run.dir.x=3", "is a value, not a section"),
        ("data=3", "write it as section.key=value; did you mean data.shards?"),
        ("model.chunking={method: waves}", ": model.chunking: no method waves; use one of "),
        ("model.d_model=[1]", ": model.d_model: [1] must have one entry for each of the 2 stages"),
        ("model.preset=huge", ": model.preset: 'huge' is unknown; choose one of ldarnet-110m, "),
        ("model.chunking=3", ": model.chunking=3: expected a mapping"),
        ("model.chunking={phase: [1]}", ": model.chunking.phase=[1]: expected text or an integer"),
        ("model.tokenizer={method: kmers}", ": model.tokenizer.method=kmers takes the key 'k' and no other key"),
        ("data.mask_span=9999", ": data.mask_span=9999 is longer than a window of 4096 bases; reduce it"),
        ("data.curriculum=[3]", ": data.curriculum.0=3: expected a mapping"),
        ("data.curriculum=[{length: 64}]", ": data.curriculum.0.share is missing; add it"),
        ("data.curriculum=[{length: 64, size: 1}]", "unknown key data.curriculum.0.size; use length or share"),
        ("data.reverse_complement=maybe", ": data.reverse_complement='maybe': expected true or false"),
        ("tracking.profile=[5, 3]", ": tracking.profile=[5, 3]: write [first, last]"),
        ("tracking.profile=[5]", ": tracking.profile=[5]: expected more items"),
        ("tracking.experiment=''", ": tracking.experiment='': expected at least 1 character"),
        ("validation.regions_contigs=3", ": validation.regions_contigs=3: expected a mapping or a path"),
        ("validation.regions_contigs={chr1: 3}", ": validation.regions_contigs.chr1=3: expected text"),
        ("validation.mask_spans=[1, 6, 1]", ": validation.mask_spans: 1 is listed twice; remove one"),
        ("run.dir=null", ": run.dir=null: expected a path"),
    ],
)
def test_invalid_overrides_are_one_line_errors(minimal, override, message):
    with pytest.raises(UserError) as error:
        load_config(minimal, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [", "line"),
        ("just words", "expected sections"),
        ("run: {dir: x}", "data.shards is missing; set it in the file or with data.shards=..."),
        (None, "cannot read"),
    ],
)
def test_invalid_files_are_errors(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quickstrt", "did you mean quickstart?"),
        ("pretrain/quickstrt", "did you mean pretrain/quickstart?"),
        ("configs/sweep/nt81.yaml", "did you mean sweep/nt18?"),
        ("/no/such.yml", "check the path"),
    ],
)
def test_a_mistyped_configuration_name_gets_a_suggestion_and_the_packaged_names(name, hint):
    with pytest.raises(UserError) as error:
        load_config(name)
    assert str(error.value).startswith(f"cannot read the configuration {name}: no such file; {hint} (packaged config")
    assert all(f" {path.stem}" in str(error.value) for path in (ROOT / "configs").glob("*/*.yaml"))


def test_differences_ignore_keys_that_may_change_on_resume(minimal):
    old = load_config(minimal)
    new = load_config(
        minimal,
        ["run.dir=elsewhere", "training.stop_after=2", "checkpoint.every=3", "tracking.mlflow=false", "data.workers=2"],
    )
    assert differences(old, new) == []
    new = load_config(minimal, ["optimizer.lr=0.1", "ops.ssd=torch", "training.accumulation=2"])
    assert differences(old, new) == ["optimizer.lr: 0.0005 -> 0.1", "training.accumulation: 1 -> 2"]


@pytest.mark.parametrize("where", ["file", "override"])
def test_a_deprecated_key_is_accepted_and_the_warning_shows_the_new_key(minimal, where):
    old, new = "training.recompute", "training.activation_checkpointing"
    overrides = [f"{old}=[0, 1]"] if where == "override" else []
    if where == "file":
        minimal.write_text(yaml.safe_dump(MINIMAL | {"training": {"steps": 10, "recompute": [0, 1]}}))
    with pytest.warns(FutureWarning, match=f"config key {old} is deprecated; use {new}"):
        config = load_config(minimal, overrides)
    assert config.training.activation_checkpointing == [0, 1]
    minimal.write_text(yaml.safe_dump(MINIMAL))
    assert differences(config, load_config(minimal, [f"{new}=[0, 1]"])) == []
    assert set(flatten(config)) == set(flatten(load_config(minimal)))


@pytest.mark.filterwarnings("ignore:config key")
def test_a_deprecated_key_conflicts_with_its_new_name_in_one_file_but_can_be_overridden(minimal):
    minimal.write_text(
        yaml.safe_dump(MINIMAL | {"training": {"steps": 10, "recompute": [0], "activation_checkpointing": [1]}})
    )
    with pytest.raises(UserError, match=r"training.recompute is the deprecated name of .*; remove training.recompute"):
        load_config(minimal)
    minimal.write_text(yaml.safe_dump(MINIMAL | {"training": {"steps": 10, "recompute": [0]}}))
    override = "training.activation_checkpointing=[1]"
    assert load_config(minimal, [override]).training.activation_checkpointing == [1]


def test_every_deprecated_key_has_a_current_name():
    schemas = (RunConfig, FinetuneConfig, SweepConfig)
    known = {key for schema in schemas for key in known_keys(schema)}
    assert set(RENAMED_KEYS.values()) <= known and not known & RENAMED_KEYS.keys()


@pytest.mark.parametrize("key", ["data.valid", "data.train", "optimizer.dropout", "x", "data.x.y"])
def test_only_near_spellings_are_suggested(minimal, key):
    with pytest.raises(UserError) as error:
        load_config(minimal, [f"{key}=1"])
    assert "did you mean" not in str(error.value) and "`ldarnet settings` lists all keys" in str(error.value)


def usable_keys(schema):
    """All keys that an override may set."""
    return [key for key in known_keys(schema) if section_of(field_of(schema, key)) is None]


EXAMPLES = {
    RunConfig: ROOT / "configs/pretrain/quickstart.yaml",
    FinetuneConfig: ROOT / "configs/finetune/classify.yaml",
    SweepConfig: ROOT / "configs/sweep/nt18.yaml",
}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # slow on a busy machine
@given(st.data())
def test_suggestions_for_unknown_keys_are_usable(data):
    schema = data.draw(st.sampled_from(sorted(EXAMPLES, key=str)))
    section = data.draw(st.sampled_from(sorted({key.rpartition(".")[0] for key in usable_keys(schema)})))
    name = data.draw(st.sampled_from(sorted({key.rpartition(".")[2] for key in known_keys(schema)})))
    at = data.draw(st.integers(0, len(name)))
    inserted = data.draw(st.sampled_from(["", "x", "_"]))
    key = f"{section}.{name[:at]}{inserted}{name[at:]}".removeprefix(".")
    assume(key not in known_keys(schema) and section not in ("ops", "set", "space"))
    with pytest.raises(UserError) as error:
        load_config(EXAMPLES[schema], [f"{key}=1"], schema=schema)
    _, found, suggested = str(error.value).rpartition("did you mean ")
    assert not found or suggested.removesuffix("?") in usable_keys(schema)
    assert found or inserted  # the name of a key or section in another section


@pytest.mark.parametrize("path", sorted((ROOT / "configs/pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    config = load_config(path)
    config.model.build(config.ops, files=False)  # a byte-pair encoding must be learned first


def test_the_published_run_has_the_published_settings():
    config = load_config(ROOT / "configs/pretrain/ldarnet-110m.yaml")
    assert config.model.preset == "ldarnet-110m"
    assert config.data.length == 4096
    assert config.training.batch == 1536
    assert [engine.micro_batch(config, ranks) for ranks in (8, 64)] == [8, 1]
    assert config.training.epochs == 15
    assert (config.optimizer.lr, config.optimizer.betas, config.optimizer.eps) == (5e-4, (0.9, 0.95), 1e-8)
    assert (config.optimizer.weight_decay, config.optimizer.clip) == (0.01, 1.0)
    assert config.optimizer.stage_multiplier == "published"
    assert (config.schedule.decay_shape, config.schedule.warmup, config.schedule.decay) == ("published", 0.1, 0.2)
    assert (config.data.mask_rate, config.data.mask_share, config.data.random_share) == (0.15, 0.8, 0.1)
