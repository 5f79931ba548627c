import struct
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.alphabet import encode
from ldarnet.data.format import max_payload_bytes, pack_block, unpack_block
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


def frame_of(payload: bytes, *, declared: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=declared).compress(payload)


def declaring(size: int) -> bytes:
    """A frame header that declares a content size (RFC 8878, section 3.1.1), and an empty last block."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\0\0"


def payload(bases=8, *, runs=(), codes=b"", lower=(), packed=None) -> bytes:
    head = struct.pack("<4s3I", b"2BL1", bases, len(runs) // 2, len(lower) // 2)
    edges = [np.array(numbers, dtype="<u4").tobytes() for numbers in (runs, lower)]
    return head + (bytes((bases + 3) // 4) if packed is None else packed) + edges[0] + codes + edges[1]


UNTRUSTED = {
    "declares 32 GB": declaring(2**35),
    "declares 2^63 bytes": declaring(2**63),
    "declares nothing": frame_of(payload(), declared=False),
    "holds 64 MB of zeros": frame_of(bytes(2**26)),
    "holds more bases than allowed": frame_of(payload(9)),
    "header of another length": frame_of(payload(2**32 - 1, packed=b"\0")),
    "run beyond the block": frame_of(payload(runs=[2, 7], codes=b"N")),
    "lower case beyond the block": frame_of(payload(lower=[0, 2**32 - 1])),
    "code that is no nucleotide code": frame_of(payload(runs=[2, 1], codes=b"\x1b")),
    "data after the frame": frame_of(payload()) + b"x",
    "a skippable frame": b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd",
    "a huge window": b"\x28\xb5\x2f\xfd\xc0\xff" + (2**40).to_bytes(8, "little") + b"\x01\0\0",
}


def test_the_made_frame_is_valid():
    assert unpack_block(frame_of(payload(runs=[2, 6], codes=b"N", lower=[0, 8])), 8).text(0, 8) == b"aannnnnn"


@pytest.mark.parametrize("case", UNTRUSTED)
def test_untrusted_frames_are_rejected_with_little_memory(case):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a packed block"):
            unpack_block(UNTRUSTED[case], 8)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(texts)
def test_the_bound_holds_for_every_sequence(text):
    assert unpack_block(pack_block(text.encode())[0], len(text)).length == len(text)


def test_the_bound_is_reached():
    worst = pack_block(b"NRnr" * 25 + b"nRnR")[0]
    assert zstandard.get_frame_parameters(worst).content_size <= max_payload_bytes(104)
    assert unpack_block(worst, 104).length == 104


@given(st.binary(max_size=60))
def test_any_payload_is_a_block_or_rejected(content):
    with suppress(ValueError):
        block = unpack_block(frame_of(b"2BL1" + content))
        assert len(block.text(0, block.length)) == block.length
