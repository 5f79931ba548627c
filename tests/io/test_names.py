from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.errors import UserError
from ldarnet.io.names import check_file_name, check_relative_path, inside

ESCAPES = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "a/../b",
    "../a",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "C:\\a",
    "c:a",
    "a\0b",
    "a\nb",
    "\x1b[2J",
]


@pytest.mark.parametrize("name", [*ESCAPES, "x" * 256])
def test_names_that_may_leave_the_folder_are_refused(name):
    with pytest.raises(ValueError, match="plain relative path"):
        check_relative_path(name)
    with pytest.raises(ValueError, match="plain file name"):
        check_file_name(name)


@pytest.mark.parametrize("name", ["model.safetensors", "shard 1.tar", "gène.fa", "...", ".hidden", "x" * 255])
def test_plain_file_names_are_accepted(name):
    assert check_file_name(name) == check_relative_path(name) == name


def test_subfolders_are_relative_paths_but_not_file_names():
    assert check_relative_path("train/0/a.txt") == "train/0/a.txt"
    with pytest.raises(ValueError, match="plain file name"):
        check_file_name("train/0/a.txt")


@given(st.text(max_size=30))
def test_an_accepted_path_stays_inside_its_folder(name):
    folder = Path("/data/set")
    try:
        path = inside(folder, name, "index.json", "fix it")
    except UserError:
        return
    assert path.resolve() == path and path.is_relative_to(folder) and path != folder


def test_the_error_names_the_file_that_contains_the_name():
    with pytest.raises(
        UserError, match=r"^index.json: '\.\./x' is not a plain relative path inside the folder; fix it$"
    ):
        inside(Path("/data"), "../x", "index.json", "fix it")
