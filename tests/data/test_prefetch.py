import threading

from ldarnet.data.prefetch import THREADS, Ahead


def test_what_has_not_begun_is_given_up_when_it_is_wanted():
    ahead, release, fetched = Ahead(), threading.Event(), []
    running = threading.Barrier(THREADS + 1)

    def slow():
        running.wait(timeout=10)
        release.wait(timeout=10)

    for block in range(THREADS):
        ahead.begin([block], 1, slow)
    ahead.begin([100, 101], 1, lambda: fetched.append(100))
    running.wait(timeout=10)
    waiting = threading.Thread(target=ahead.wait_for, args=(101,), daemon=True)
    waiting.start()
    waiting.join(timeout=5)
    assert not waiting.is_alive(), "it waited for blocks that others want"
    release.set()
    for block in (*range(THREADS), 100):
        ahead.wait_for(block)
    later = threading.Event()
    ahead.begin([102], 1, later.set)
    assert later.wait(timeout=10) and fetched == []
