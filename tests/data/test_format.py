import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.alphabet import encode
from ldarnet.data.format import pack_block, unpack_block
from ldarnet.genome.iupac import IUPAC_CODES

ANY_CASE = IUPAC_CODES.decode() + IUPAC_CODES.decode().lower()
runs = st.lists(st.tuples(st.sampled_from(ANY_CASE), st.integers(1, 40)), max_size=30).map(
    lambda parts: "".join(letter * count for letter, count in parts)
)
texts = st.one_of(st.text(ANY_CASE, max_size=300), runs).filter(bool)


@given(texts, st.data())
def test_every_code_and_case_round_trips(text, data):
    frame, _ = pack_block(text.encode())
    block = unpack_block(frame)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    assert block.length == len(text)
    assert block.text(0, len(text)).decode() == text
    assert block.text(start, stop).decode() == text[start:stop]
    np.testing.assert_array_equal(block.ids(start, stop), encode(text[start:stop]))


def test_a_frame_is_reproducible_and_near_two_bits_per_base():
    text = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 100_000).tobytes()
    frame, _ = pack_block(text)
    assert pack_block(text)[0] == frame
    assert 8 * len(frame) / len(text) < 2.01


def test_a_long_run_of_n_takes_almost_no_space():
    assert len(pack_block(b"N" * 10**6)[0]) < 200


@pytest.mark.parametrize("damage", [b"", b"not zstandard", pack_block(b"ACGT")[0][:-3]])
def test_data_that_is_not_a_block_is_rejected(damage):
    with pytest.raises(ValueError, match="not a packed block"):
        unpack_block(damage)
