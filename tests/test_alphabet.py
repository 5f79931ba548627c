"""Ids, letters and strands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet import alphabet


@given(st.text("ACGTN"))
def test_letters_round_trip(text):
    assert alphabet.decode(alphabet.encode(text)) == text


@given(st.text("ACGTN"))
def test_reverse_complement_is_its_own_inverse_and_pairs_letters(text):
    ids = alphabet.encode(text)
    other = alphabet.reverse_complement(ids)
    assert alphabet.decode(other) == text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    np.testing.assert_array_equal(alphabet.reverse_complement(other), ids)


def test_lower_case_is_read_and_other_letters_become_n():
    assert alphabet.decode(alphabet.encode(b"acgtnRYu-")) == "ACGTNNNNN"


def test_a_letter_outside_ascii_is_named():
    with pytest.raises(ValueError, match="position 2"):
        alphabet.encode("ACÅ")
