import threading

from ldarnet.data.prefetch import MAX_THREADS, Prefetcher


def test_a_queued_fetch_is_cancelled_when_its_block_is_waited_for():
    prefetcher, release, fetched = Prefetcher(), threading.Event(), []
    running = threading.Barrier(MAX_THREADS + 1)

    def slow():
        running.wait(timeout=10)
        release.wait(timeout=10)

    for block in range(MAX_THREADS):
        prefetcher.submit([block], 1, slow)
    prefetcher.submit([100, 101], 1, lambda: fetched.append(100))
    running.wait(timeout=10)
    waiting = threading.Thread(target=prefetcher.wait_for, args=(101,), daemon=True)
    waiting.start()
    waiting.join(timeout=5)
    assert not waiting.is_alive(), "wait_for() waited for fetches of other blocks"
    release.set()
    for block in (*range(MAX_THREADS), 100):
        prefetcher.wait_for(block)
    later = threading.Event()
    prefetcher.submit([102], 1, later.set)
    assert later.wait(timeout=10) and fetched == []
