"""Credentials in URLs are refused or removed: nothing that a command prints or leaves behind contains them."""

import base64
from pathlib import Path

import pytest
import requests
import yaml

from ldarnet.cli.finetune import finetune
from ldarnet.cli.pretrain import pretrain
from ldarnet.cli.report import report
from ldarnet.cli.sweep import sweep
from ldarnet.cli.tokenize import tokenize
from ldarnet.config import load_config
from ldarnet.config.resources import TrialResources
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.genome.sources import SequenceSource
from ldarnet.io.download import download
from ldarnet.io.retry import Retry, call_remote
from ldarnet.jobs.environment import trial_environment
from ldarnet.program import exit_status, run
from ldarnet.redaction import has_credentials, redact
from sharding.build import build
from sharding.build import main as shard
from sharding.fetch import main as fetch
from sharding.published import Registry
from sharding.stats import main as stats
from sharding.verify import main as verify
from tests.support.range_server import RangeServer
from tests.support.ranks import PROGRAM, TINY, Ranks, write_config

SECRET = "S3cr3tValue"
URLS = (
    f"https://ada:{SECRET}@127.0.0.1:9/set",
    f"https://{SECRET}@127.0.0.1:9/set",
    f"s3://ada:{SECRET}@bucket/set",
    f"sftp://ada:{SECRET}/x@127.0.0.1/set",
    f"simplecache::https://ada:{SECRET}@127.0.0.1:9/set",
    f"https://127.0.0.1:9/set?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}",
    f"https://127.0.0.1:9/set?sv=1&sig={SECRET}%3D",
    f"https://127.0.0.1:9/set?access_token={SECRET}",
    f"https://127.0.0.1:9/set#token={SECRET}",
    f"https://127.0.0.1:9/set?%74oken={SECRET}",
)


def left_behind(*folders: Path) -> list[str]:
    """Files below the folders whose name or content contains the secret, also encoded as base64."""
    forms = {form for shift in range(3) for form in [base64.b64encode(b"x" * shift + SECRET.encode())[4:-4]]}
    wanted = {SECRET.encode(), SECRET.lower().encode(), *forms}
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(form in str(path).encode() + path.read_bytes() for form in wanted)]


@pytest.mark.parametrize("url", URLS)
def test_credentials_are_found_and_removed(url):
    assert has_credentials(url)
    for text in (url, f"key={url}", f"ClientError('{url}', 404)", f"a {url} b {url}", url.replace("://", ":/")):
        assert SECRET not in redact(text)
        assert redact(redact(text)) == redact(text)
    assert SECRET not in str(UserError(f"{url}: no such file"))


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/a@b.fa?c=d@e",
        "https://host/a.fa?accession=1&tokenizer=x&author=ada&list-type=2",
        "https://[::1]:8080/a@b",
        "sftp://ada@host/x",
        "hdfs://ada@host:9000/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "github://org:repo@main/x.fa",
        "hf://datasets/a/b@main/x",
        "sqlite:///runs/ada:x@y/mlflow.db",
        "s3://bucket/key=token/x",
        "/data/ada:x@y/set",
        "nas:/data@2024/x",
        "species=/data/a.fa",
        "run.dir=runs/a",
    ],
)
def test_addresses_without_credentials_are_unchanged(text):
    assert not has_credentials(text)
    assert redact(text) == text


def test_relative_address_of_a_failed_request_is_redacted():
    assert redact(f"Max retries exceeded with url: /a?b=1&token={SECRET} (Caused") == (
        "Max retries exceeded with url: /a?b=1&token=*** (Caused"
    )


COMMANDS = {
    "shard": (shard, ["--out", "out", "{url}"]),
    "shard-species": (shard, ["--out", "out", "yeast={url}"]),
    "shard-table": (shard, ["--out", "out", "--genomes", "genomes.tsv"]),
    "verify": (verify, ["{url}"]),
    "stats": (stats, ["{url}"]),
    "fetch": (fetch, ["sacCer3", "--out", "out", "--mirror", "ucsc={url}"]),
    "fetch-equals": (fetch, ["sacCer3", "--out", "out", "--mirror=ucsc={url}"]),
    "pretrain-override": (pretrain, ["--config", "quickstart", "run.dir=out", "data.shards={url}"]),
    "pretrain-remote": (pretrain, ["--config", "quickstart", "run.dir=out", "checkpoint.remote={url}"]),
    "pretrain-typo": (pretrain, ["--config", "quickstart", "run.dir=out", "data.shard={url}"]),
    "pretrain-file": (pretrain, ["--config", "pretrain.yaml"]),
    "pretrain-ranks": (pretrain, ["--config", "pretrain.yaml", "--ranks", "2"]),
    "finetune": (finetune, ["--config", "nt", "run.dir=out", "checkpoint={url}"]),
    "sweep": (sweep, ["--config", "sweep.yaml"]),
    "sweep-base": (sweep, ["--config", "sweep-base.yaml"]),
    "tokenize": (tokenize, ["{url}", "{url}"]),
    "report": (report, ["{url}"]),
}


@pytest.mark.parametrize("url", [URLS[0], URLS[5]])
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_credentials_and_leave_nothing(name, url, tmp_path, monkeypatch, capfd):
    given, work = tmp_path / "given", tmp_path / "work"
    given.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    (given / "genomes.tsv").write_text(f"yeast\t{url}\n")
    tree = TINY | {"run": {"dir": "out"}, "data": TINY["data"] | {"shards": url}}
    (given / "pretrain.yaml").write_text(yaml.safe_dump(tree))
    fine = {"run": {"dir": "unused"}, "task": "H3", "checkpoint": url}
    (given / "finetune.yaml").write_text(yaml.safe_dump(fine))
    whole = {"sweep": {"dir": "out", "tasks": ["H3"]}, "finetune": "nt", "tracking": {"mlflow": False}}
    (given / "sweep.yaml").write_text(yaml.safe_dump(whole | {"space": {"checkpoint": [url]}}))
    base = {"space": {"optimizer.lr": [1e-4]}, "finetune": str(given / "finetune.yaml")}
    (given / "sweep-base.yaml").write_text(yaml.safe_dump(whole | base))
    command, template = COMMANDS[name]
    arguments = [argument.replace("{url}", url) for argument in template]
    arguments = [str(given / argument) if (given / argument).is_file() else argument for argument in arguments]
    status = run(command, arguments, name=name)
    output, errors = capfd.readouterr()
    assert status == 1
    assert output == ""
    assert SECRET.lower() not in errors.lower()
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "contains a password, token or signature" in line and "~/.netrc" in line
    assert not left_behind(work)


def test_functions_refuse_credentials(tmp_path):
    url = URLS[0]
    for call in (
        lambda: ShardSet.open(url),
        lambda: build(tmp_path / "set", [SequenceSource(url)]),
        lambda: build(tmp_path / "set", [Path(f"{url}.fa")]),
        lambda: Registry([f"ucsc={url}"]),
        lambda: load_config("quickstart", [f"data.shards={url}", "run.dir=x"]).save(tmp_path / "config.yaml"),
    ):
        with pytest.raises(UserError, match="contains a password, token or signature") as refused:
            call()
        assert SECRET not in str(refused.value)
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    "uri",
    [
        f"http://ada:{SECRET}@127.0.0.1:9",
        pytest.param(f"http://127.0.0.1:9/a?token={SECRET}", marks=pytest.mark.slow),
        pytest.param(f"postgresql://ada:{SECRET}@host/x", marks=pytest.mark.slow),
    ],
)
def test_pretraining_stores_and_prints_no_credentials_of_the_environment(uri, tmp_path, shards, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NCCL_NET_PLUGIN", f"https://ada:{SECRET}@127.0.0.1/x")
    config = write_config(tmp_path, shards, training={"steps": 2}, tracking={"mlflow": True})
    ((status, output, errors),) = Ranks(1, PROGRAM, ["--config", str(config)], cwd=tmp_path).wait()
    assert status == 0
    assert "MLflow" in output
    assert "NCCL_NET_PLUGIN=https://127.0.0.1/x" in (tmp_path / "run/logs/rank-00000.log").read_text()
    assert SECRET not in output + errors
    assert not left_behind(tmp_path)


def test_traceback_of_an_unexpected_error_is_redacted(capfd):
    def fail() -> int:
        raise RuntimeError(f"cannot open {URLS[0]}")

    assert exit_status(fail, name="ldarnet") == 70
    errors = capfd.readouterr().err
    assert "RuntimeError: cannot open https://127.0.0.1:9/set" in errors and SECRET not in errors


def redirect_to_a_signed_url(handler) -> bool:
    """Redirect to a signed URL, as Zenodo and Hugging Face do, and hang up there."""
    if "X-Amz-Signature" in handler.path:
        handler.connection.close()
        handler.close_connection = True
        return True
    handler.send_response(302)
    handler.send_header("Location", f"{handler.path}?X-Amz-Signature={SECRET}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return True


def test_errors_of_libraries_are_redacted(tmp_path, caplog):
    server = RangeServer(tmp_path)
    server.faults.append(redirect_to_a_signed_url)
    retry = Retry(first_wait=0.01, max_attempts=2)
    try:
        with pytest.raises(UserError) as failed:
            download(f"{server.url}/a.fa", tmp_path / "a.fa.part", retry, lambda have, total: None)
        with pytest.raises(UserError) as unread:
            ShardSet.open(f"{server.url}/set", retry=retry)
    finally:
        server.close()
    assert server.requests
    assert SECRET not in f"{failed.value} {unread.value} {caplog.text}"
    for error in (ValueError(URLS[0]), PermissionError(URLS[1]), requests.ConnectionError(URLS[5])):

        def fail(timeout: float, error: Exception = error) -> None:
            raise error

        with pytest.raises(UserError) as raised:
            call_remote(retry, "https://127.0.0.1/x", fail)
        assert SECRET not in f"{raised.value} {caplog.text}"


@pytest.mark.parametrize("known", [True, False])
def test_http_credentials_come_from_netrc(known, tmp_path, make_set, monkeypatch):
    local = make_set({"one": "ACGT" * 500}, block=500)
    server = RangeServer(local.folder)
    expected = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()

    def refuse_strangers(handler) -> bool:
        if handler.headers.get("Authorization") == expected:
            return False
        handler.send_error(401)
        return True

    server.faults.append(refuse_strangers)
    (local.folder / "one.fa").write_text(">one\nACGTACGT\n")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login ada password {SECRET}\n" if known else "")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    out = tmp_path / "out"
    out.mkdir()
    try:
        if not known:
            with pytest.raises(UserError, match=r"401.*check your credentials"):
                ShardSet.open(f"{server.url}", disk_cache=out / "cache")
            return
        remote = ShardSet.open(server.url, disk_cache=out / "cache")
        assert remote.text("one", 0, 2000) == "ACGT" * 500
        build(out / "set", [SequenceSource(f"{server.url}/one.fa")])
    finally:
        server.close()
    assert not left_behind(out)


def test_jobs_of_a_sweep_hold_no_credentials(monkeypatch):
    """Ray writes the environment variables of jobs to files."""
    uri = f"http://ada:{SECRET}@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", URLS[0])
    variables, defaults = trial_environment(TrialResources(), 0, uri)
    assert SECRET not in f"{variables} {defaults}"
    assert defaults == {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
