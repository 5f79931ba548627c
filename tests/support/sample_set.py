"""Contigs of a small shard set, ways to read all of it, and ways to damage it."""

import os
import random

import numpy as np


def letters(length, seed=0):
    """Random nucleotide codes in upper and lower case, which barely compress."""
    return "".join(random.Random(seed).choices("ACGTacgtNR", (9, 9, 9, 9, 1, 1, 1, 1, 0.1, 0.1), k=length))


CONTIGS = {"one": letters(2000, 1), "two": letters(7, 2), "three": letters(999, 3)}


def everything(shards):
    return {name: shards.text(name, 0, length) for name, length in shards.contigs.items()}


def change_block(shards, block, folder=None):
    """Flip a bit of a block and return the path of its shard."""
    blocks = shards.index.blocks
    shard = (folder or shards.folder) / shards.index.shards[blocks.shard[block]].name
    content = bytearray(shard.read_bytes())
    content[blocks.offset[block] + 9] ^= 4
    shard.write_bytes(content)
    return shard


def every_window(shards, length=50):
    contig = np.repeat([0, 1, 2], [39, 0, 19])
    start = np.concatenate([np.arange(39), np.arange(19)]) * 50
    order = np.random.default_rng(length).permutation(len(contig))
    return contig[order], start[order]


def damage(local):
    """Change one block, truncate the last shard within a block and delete the second shard.

    Returns:
        Whether each block is unreadable, bool.
    """
    shards, blocks = local.index.shards, local.index.blocks
    change_block(local, 2)
    last = len(blocks.contig) - 2
    os.truncate(local.folder / shards[blocks.shard[last]].name, int(blocks.offset[last]) + 5)
    (local.folder / shards[1].name).unlink()
    lost = (np.arange(len(blocks.contig)) == 2) | (np.arange(len(blocks.contig)) >= last) | (blocks.shard == 1)
    assert 0 < lost.sum() < len(lost)
    return lost
