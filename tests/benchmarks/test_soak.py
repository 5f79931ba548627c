"""Invalid arguments of the soak test; tests/pretraining/test_soak.py runs a short soak test."""

from tests.support.ranks import ROOT, Ranks


def soak(out, config):
    """Exit status and stderr of the program."""
    arguments = ["--out", str(out), "--config", config]
    ((status, _, errors),) = Ranks(1, ROOT / "benchmarks/soak.py", arguments, launched=False).wait()
    return status, errors


def test_existing_folder_is_rejected(tmp_path):
    (tmp_path / "precious").write_text("mine")
    status, errors = soak(tmp_path, "configs/pretrain/quickstart.yaml")
    assert status == 1
    assert errors == f"error: {tmp_path}: already exists; remove it or choose another folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_invalid_configuration_creates_no_folder(tmp_path):
    status, errors = soak(tmp_path / "out", "not-there.yaml")
    assert status == 1 and errors.startswith("error: cannot read the configuration")
    assert not (tmp_path / "out").exists()
