import errno
import hashlib
import json
import os

import pytest
from safetensors import SafetensorError

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import (
    NotWritableError,
    atomic_path,
    file_size,
    read_errors,
    sha256_file,
    space_errors,
    staged_folder,
    write_json_atomic,
)


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    final = tmp_path / "out.bin"
    with atomic_path(final) as partial:
        partial.write_bytes(b"new")
        assert not final.exists()
        assert partial.parent == tmp_path
    assert final.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]


def fail_half_way(final):
    with atomic_path(final) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError


def test_a_failure_keeps_the_old_file(tmp_path):
    final = tmp_path / "out.bin"
    final.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        fail_half_way(final)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    with pytest.raises(UserError, match="a folder, not a file; choose a file"), atomic_path(tmp_path):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"no space left on device while writing .*out\.bin; free some space"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, r"cannot write .*out\.bin \(Read-only file system\); choose a folder"),
    ],
)
def test_fixable_write_errors_are_one_line(tmp_path, number, message):
    with pytest.raises(UserError, match=message), atomic_path(tmp_path / "out.bin"):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [SafetensorError, Exception])
def test_write_errors_of_rust_libraries_are_converted(tmp_path, kind):
    with (
        pytest.raises(NotWritableError, match=r"file size limit exceeded while writing .*x"),
        space_errors(tmp_path / "x"),
    ):
        raise kind(f"Error while serializing: I/O error: File too large (os error {errno.EFBIG})")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), UserError("(os error 28)"), KeyError(28)])
def test_other_errors_are_not_converted(tmp_path, error):
    with pytest.raises(type(error)) as raised, space_errors(tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOENT, UserError, r"in\.fa: no such file; check the path"),
        (errno.EISDIR, UserError, r"in\.fa: a folder, not a file; choose a file"),
        (errno.EACCES, UserError, r"in\.fa: no permission to read it; change its mode or owner"),
        (errno.EIO, TransientError, r"in\.fa: cannot be read \(Input/output error\); check the path and the disk"),
    ],
)
def test_read_errors_are_one_line(tmp_path, number, kind, message):
    with pytest.raises(kind, match=message) as raised, read_errors(tmp_path / "in.fa"):
        raise OSError(number, os.strerror(number))
    assert type(raised.value) is kind


def test_file_size_accepts_only_regular_files(tmp_path):
    (tmp_path / "x").write_bytes(b"123")
    os.mkfifo(tmp_path / "pipe")
    assert file_size(tmp_path / "x") == 3
    for name, message in (
        ("absent", "no such file"),
        ("x/y", "no such file"),
        (".", "a folder"),
        ("pipe", "not a regular"),
    ):
        with pytest.raises(UserError, match=message):
            file_size(tmp_path / name)


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    final = tmp_path / "parent" / "folder"
    with staged_folder(final) as staged:
        (staged / "inner").mkdir()
        (staged / "inner" / "x").write_bytes(b"new")
        assert not final.exists()
        assert staged.parent == final.parent
    assert (final / "inner" / "x").read_bytes() == b"new"
    assert [path.name for path in final.parent.iterdir()] == ["folder"]


def write_half_a_folder(final):
    with staged_folder(final, replace=True) as staged:
        (staged / "x").write_bytes(b"half")
        raise RuntimeError


def test_a_failure_keeps_the_old_folder(tmp_path):
    final = tmp_path / "folder"
    with staged_folder(final) as staged:
        (staged / "x").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_half_a_folder(final)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (final / "x").read_bytes() == b"old"


def test_an_existing_folder_is_replaced_only_on_request(tmp_path):
    final = tmp_path / "folder"
    (tmp_path / ".folder.partial").mkdir()
    (tmp_path / ".folder.partial" / "leftover").touch()
    for name in ("a", "b"):
        with staged_folder(final, replace=True) as staged:
            (staged / name).touch()
    assert [path.name for path in final.iterdir()] == ["b"]
    with pytest.raises(OSError, match="not empty"), staged_folder(final):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(UserError, match="no space left"), staged_folder(final):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_json_and_hash(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomic(path, {"b": [1, 2]}, indent=1)
    assert json.loads(path.read_text()) == {"b": [1, 2]}
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
