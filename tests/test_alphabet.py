"""Token ids, nucleotide codes and reverse complements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet import alphabet


@given(st.text("ACGTN"))
def test_text_round_trips(text):
    assert alphabet.decode(alphabet.encode(text)) == text


@given(st.text("ACGTN"))
def test_reverse_complement_is_its_own_inverse_and_pairs_bases(text):
    ids = alphabet.encode(text)
    complement = alphabet.reverse_complement(ids)
    assert alphabet.decode(complement) == text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    np.testing.assert_array_equal(alphabet.reverse_complement(complement), ids)


def test_lower_case_is_accepted_and_other_codes_become_n():
    assert alphabet.decode(alphabet.encode(b"acgtnRYu-")) == "ACGTNNNNN"


def test_a_non_ascii_character_is_reported():
    with pytest.raises(ValueError, match="position 2"):
        alphabet.encode("ACÅ")
