"""Variants of .2bit files: byte orders, versions, names, truncated and damaged files."""

import struct
from pathlib import Path

import pytest

from ldarnet.errors import TransientError, UserError
from ldarnet.genome.fasta import read_contigs
from tests.support.twobit_writer import write_2bit

CONTIGS = {"a": "ACGTNNacgtn", "HLA:01": "G", "größe": "nnNNTTAA" * 9}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.2bit"


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_orders_and_versions_give_the_same_contigs(path, order, version):
    write_2bit(path, CONTIGS, order=order, version=version)
    assert dict(read_contigs(path)) == CONTIGS


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_cut_anywhere_is_one_error(path, version):
    write_2bit(path, CONTIGS, version=version)
    whole = path.read_bytes()
    for size in range(4, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"x\.2bit: .*(truncated|damaged)") as caught:
            list(read_contigs(path))
        assert not isinstance(caught.value, TransientError)


def test_damaged_numbers_are_one_error_or_other_contigs(path):
    write_2bit(path, CONTIGS)
    whole = path.read_bytes()
    messages = []
    for at in range(4, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            list(read_contigs(path))
        except UserError as error:
            messages.append(str(error))
    assert messages and all("x.2bit" in message and "\n" not in message for message in messages)


NAME = "is empty or contains whitespace; rename the contig"


@pytest.mark.parametrize(
    ("contigs", "message"),
    [
        ({"": "ACGT"}, NAME),
        ({"a b": "ACGT"}, NAME),
        ({"a\n": "ACGT"}, NAME),
        ({"a": "ACGT", "b": ""}, "contig 'b' has no bases; remove it"),
    ],
)
def test_contigs_without_a_usable_name_or_bases_are_rejected(path, contigs, message):
    write_2bit(path, contigs)
    with pytest.raises(UserError, match=message):
        list(read_contigs(path))


def test_a_file_without_contigs_is_rejected(path):
    path.write_bytes(struct.pack("<4I", 0x1A412743, 0, 0, 0))
    with pytest.raises(UserError, match=r"empty; choose a \.2bit file with at least one contig"):
        list(read_contigs(path))
