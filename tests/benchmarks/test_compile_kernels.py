"""Machine code of compiled kernels: its section in the binary, and its instructions by kernel."""

import struct
from collections import Counter

import pytest

from benchmarks.compile_kernels import CompiledKernel, instructions, machine_code, set_accesses

DISASSEMBLY = """
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, [R2.64] ;
        /*0020*/                   STG.E.U16 [R2.64], R4 ;
        /*0030*/                   LDG.E R4, [R2.64] ;
        /*0040*/                   LDL R4, [R1] ;
        /*0050*/             @!UP1 BAR.SYNC 0x0 ;
"""


def test_instructions_belong_to_the_kernel_at_their_address():
    first, second = instructions(DISASSEMBLY, [0x30, 0x30])
    assert first == Counter({"LDC": 1, "LDG.E.128": 1, "STG.E.U16": 1})
    assert second == Counter({"LDG.E": 1, "LDL": 1, "BAR.SYNC": 1})


def test_instructions_outside_all_kernels_are_an_error():
    with pytest.raises(IndexError):
        instructions(DISASSEMBLY, [0x30])


def test_accesses_are_counted_by_width():
    kernels = [CompiledKernel("kernel", 90), CompiledKernel("kernel", 90)]
    for kernel, counted in zip(kernels, instructions(DISASSEMBLY, [0x30, 0x30]), strict=True):
        set_accesses(kernel, counted)
    first, second = kernels
    assert (first.loads, first.stores, first.local_accesses, first.barriers) == ({16: 1}, {2: 1}, 0, 0)
    assert (second.loads, second.stores, second.local_accesses, second.barriers) == ({4: 1}, {}, 1, 1)


def binary_file(*sections):
    """ELF file whose last section holds the names of the sections."""
    header, body, entries, names = 64, b"", [], b"\0"
    for name, content in [*sections, (".shstrtab", None)]:
        offset, start = len(names), header + len(body)
        names += name.encode() + b"\0"
        content = names if content is None else content
        entries.append(struct.pack("<2I4Q2I2Q", offset, 1, 0, 0, start, len(content), 0, 0, 1, 0))
        body += content
    start = struct.pack("<40sQ", b"\x7fELF", header + len(body)).ljust(58, b"\0")
    return start + struct.pack("<3H", 64, len(entries), len(entries) - 1) + body + b"".join(entries)


def test_machine_code_is_the_section_of_the_kernel():
    sections = [(".nv.info", b"info"), (".text._forward", b"instructions"), (".debug_line", b"lines")]
    assert machine_code(binary_file(*sections)) == b"instructions"
