import errno
import fcntl
import os
import threading

import pytest

from ldarnet.io.lock import FolderInUseError, acquire


@pytest.mark.parametrize("name", [".", "lock"])
def test_a_second_holder_fails_at_once(tmp_path, name):
    with acquire(tmp_path / name, "in use"), pytest.raises(FolderInUseError, match="in use"):
        acquire(tmp_path / name, "in use")
    acquire(tmp_path / name, "in use").close()


def test_a_second_holder_waits(tmp_path):
    held, taken = acquire(tmp_path / "lock"), threading.Event()
    waiting = threading.Thread(target=lambda: (acquire(tmp_path / "lock"), taken.set()))
    waiting.start()
    assert not taken.wait(0.1)
    held.close()
    assert taken.wait(10)
    waiting.join()


def test_closing_twice_closes_no_other_file(tmp_path):
    held = acquire(tmp_path / "lock")
    descriptor = held.descriptor
    held.close()
    other = os.dup(0)
    held.close()
    assert other == descriptor
    os.close(other)


def test_a_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    acquire(tmp_path / "lock", "in use").close()
