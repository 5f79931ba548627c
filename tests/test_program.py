"""Defaults that programs set before torch is imported."""

import os
import subprocess
import sys

import pytest

from ldarnet.program import exit_status

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
def test_gpu_memory_grows_in_segments_unless_the_user_configured_it(given, expected, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert exit_status(lambda: 0, name="program") == 0
    assert {name: os.environ[name] for name in NAMES if name in os.environ} == expected


def test_training_programs_start_without_torch():
    """Torch reads the configuration of its memory allocator when it is imported."""
    programs = "ldarnet.program, ldarnet.io.early_stop, ldarnet.cli, ldarnet.cli.pretrain, ldarnet.cli.finetune"
    code = f"import sys, {programs}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
