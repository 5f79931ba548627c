import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.data.counter_rng import counter_hash, permute, stream_key


def permutation(n: int, name: str = "a") -> np.ndarray:
    return permute(np.arange(n), n, np.full(n, stream_key(name)))


@given(st.integers(1, 500), st.text(max_size=3))
def test_a_permutation_is_a_bijection(n, name):
    np.testing.assert_array_equal(np.sort(permutation(n, name)), np.arange(n))


@pytest.mark.parametrize("n", [2**40 + 7, 3 * 10**12])
def test_a_huge_range_needs_no_memory_and_has_no_collision(n):
    values = np.arange(n - 10_000, n)
    sent = permute(values, n, np.full(len(values), stream_key("huge")))
    assert len(np.unique(sent)) == len(values)
    assert sent.min() >= 0
    assert sent.max() < n


def test_a_permutation_does_not_depend_on_the_batch():
    together = permutation(100)
    alone = [permute(np.array([value]), 100, np.array([stream_key("a")]))[0] for value in range(100)]
    assert together.tolist() == alone


def test_neighbors_are_uncorrelated_and_keys_give_different_orders():
    n = 10_000
    first, second = permutation(n, "a"), permutation(n, "b")
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 0.05


def test_permutations_of_a_small_range_are_uniform():
    n, keys = 6, counter_hash(stream_key("keys"), np.arange(12_000))
    for value in range(n):
        counts = np.bincount(permute(np.full(len(keys), value), n, keys), minlength=n)
        assert abs(counts - len(keys) / n).max() < 5 * np.sqrt(len(keys) / n)


def test_bits_are_unbiased_and_streams_independent():
    bits = counter_hash(np.array([stream_key("x"), stream_key("y")])[:, None], np.arange(20_000))
    ones = ((bits[..., None] >> np.arange(64).astype(np.uint64)) & np.uint64(1)).mean(1)
    assert abs(ones - 0.5).max() < 0.02
    agree = (((bits[0] ^ bits[1])[:, None] >> np.arange(64).astype(np.uint64)) & np.uint64(1)).mean(0)
    assert abs(agree - 0.5).max() < 0.02


def test_random_numbers_never_change():
    """If the numbers changed, older runs could not resume exactly."""
    assert stream_key("fingerprint", 0, "order") == 10081889879970229642
    assert permutation(10).tolist() == [0, 5, 9, 4, 2, 1, 7, 8, 6, 3]


def test_the_hash_is_splitmix64():
    first_outputs_for_seed_0 = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert counter_hash(np.uint64(0), np.arange(3)).tolist() == first_outputs_for_seed_0
