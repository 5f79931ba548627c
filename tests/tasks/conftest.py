"""Tasks built from the folder of real data."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_tasks(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``nt_histone/<task>/{train_subset,test}.tsv`` and ``gb_chr20X/<task>/{train,test}.tsv``."""
    data, out = shared / "data", tmp_path_factory.mktemp("real_tasks")
    subprocess.run([sys.executable, data / "make_real_tasks.py", data, out], check=True, capture_output=True)
    return out
