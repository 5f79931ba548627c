import multiprocessing
import os
import time

from ldarnet.io.process import exit_with_parent


def child(pipe, parent):
    exit_with_parent(parent)
    pipe.send(os.getpid())
    time.sleep(60)


def parent(pipe):
    multiprocessing.get_context("fork").Process(target=child, args=(pipe, os.getpid())).start()
    time.sleep(60)


def test_a_child_is_killed_with_its_parent():
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=parent, args=(theirs,))
    process.start()
    assert ours.poll(30)
    orphan = ours.recv()
    process.kill()
    process.join()
    deadline = time.monotonic() + 10
    while is_running(orphan):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"  # its new parent may be slow to reap it
    except (ProcessLookupError, FileNotFoundError):
        return False
