"""Fixture: a pretrained model."""

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model import write_model


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Exported masked language model in the folder of a run with windows of 40 bases."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("pretrained")
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), folder / "export")
    (folder / "config.yaml").write_text("data: {length: 40}\n")
    return folder
