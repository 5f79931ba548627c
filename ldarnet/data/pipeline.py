"""Windows as a webdataset pipeline: read shards sequentially, cut windows, and shuffle them in a buffer."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ldarnet.alphabet import reverse_complement
from ldarnet.data.counter_rng import counter_hash, stream_key
from ldarnet.data.format import BLOCK_SUFFIX, unpack_block
from ldarnet.data.masking import Masking
from ldarnet.data.reader import ShardSet
from ldarnet.data.windows import Windows, window_name
from ldarnet.errors import UserError
from ldarnet.io.storage import DamagedError

if TYPE_CHECKING:
    from webdataset import DataPipeline

_EXTENSION = BLOCK_SUFFIX[1:]
_SHARD_NUMBER = "0000.tar"


def shard_pattern(shards: ShardSet) -> str:
    """All shards of a set as one brace pattern, for use as ``webdataset.WebDataset(shard_pattern(shards))``."""
    parts = []
    for part, names in groupby((shard.name for shard in shards.index.shards), lambda name: name[: -len(_SHARD_NUMBER)]):
        last = list(names)[-1][-len(_SHARD_NUMBER) : -len(".tar")]
        parts.append(f"{part}{{0000..{last}}}" if int(last) else f"{part}0000")
    every = parts[0] if len(parts) == 1 else f"{{{','.join(parts)}}}"
    return f"{shards.location}/{every}.tar"


def decode_sample(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode a block read by webdataset, as in ``webdataset.WebDataset(urls).map(decode_sample)``.

    Returns:
        A sample with ``__key__`` and ``text``: the sequence of the block as in the input, with case and IUPAC codes.
    """
    block = unpack_block(sample[_EXTENSION])
    return {"__key__": sample["__key__"], "text": block.text(0, block.length).decode("ascii")}


def window_pipeline(
    windows: Windows,
    masking: Masking | None = None,
    *,
    batch_size: int,
    epoch: int = 0,
    shuffle: int = 10_000,
    seed: int = 0,
) -> "DataPipeline":
    """Create a webdataset pipeline of one epoch of windows, read sequentially and approximately shuffled.

    The pipeline yields every window of the epoch once, except windows that straddle two shards. There is at most one
    such window for each shard that ends within a contig. Strands and masks depend on ``seed`` and ``epoch``; the order
    also depends on the numbers of ranks and workers.

    Shards are distributed over ranks (``RANK`` and ``WORLD_SIZE``, or ``torch.distributed``) and DataLoader workers, so
    workers may get different numbers of batches. Append ``.with_epoch(n)`` to get n batches from every worker. Load the
    pipeline with ``DataLoader(pipeline, batch_size=None, num_workers=workers)``.

    Args:
        windows: the windows, without mixture weights or temperature.
        masking: masking probabilities and seed; by default ``Masking()``.
        batch_size: windows in a batch; the last batch may have fewer.
        epoch: epoch of the windows, which determines their offsets.
        shuffle: number of windows in the shuffle buffer of each worker; a window takes ``windows.length`` bytes.
        seed: seed of order, strands and masks.

    Returns:
        A pipeline of batches, with methods that append further stages. A batch is a dict with ``__key__``, a list of
        window names such as ``chr1:4097-8192``, and ``input_ids`` and ``labels``, (b, length) int64 each.

    Raises:
        UserError: ``windows`` is a mixture.
        DamagedError: during iteration, a block does not match the index.
    """
    import webdataset

    if len(windows.sources) > 1:
        raise UserError(
            "a webdataset pipeline cannot weight species; create Windows without weights or temperature, or mix one "
            "pipeline per species with webdataset.RandomMix"
        )
    key = stream_key(windows.shards.fingerprint, seed, epoch, "webdataset")
    urls = _urls(windows)
    random.Random(int(key)).shuffle(urls)
    stream = f"webdataset {seed} {epoch}"
    collate = partial(_collate, masking=masking or Masking(), fingerprint=windows.shards.fingerprint, stream=stream)
    blocks = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=webdataset.split_by_node, empty_check=False)
    return blocks.compose(
        _WindowCutter(windows, epoch, key),
        webdataset.shuffle(shuffle, initial=shuffle, seed=int(key)),
        webdataset.batched(batch_size, collation_fn=collate),
    )


def _urls(windows: Windows) -> list[str]:
    """URLs of the shards that hold at least part of a contig with windows."""
    shards, blocks = windows.shards, windows.shards.index.blocks
    numbers = np.unique(blocks.shard[np.isin(blocks.contig, windows.segments.contig)])
    return [f"{shards.location}/{shards.index.shards[number].name}" for number in numbers]


class _WindowCutter:
    """Cuts windows from blocks that are read in shard order."""

    def __init__(self, windows: Windows, epoch: int, key: np.uint64) -> None:
        self._windows = windows
        self._epoch = epoch
        self._key = key
        index = windows.shards.index
        first_blocks = np.searchsorted(index.blocks.shard, np.arange(len(index.shards)))
        self._first_contig = {
            shard.name[len("shard-") : -len(_SHARD_NUMBER) - 1]: int(index.blocks.contig[block])
            for shard, block in zip(index.shards, first_blocks, strict=True)
            if shard.name.endswith(_SHARD_NUMBER)
        }

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Convert block samples to window samples."""
        index, length = self._windows.shards.index, self._windows.length
        tail, expected = np.zeros(0, dtype=np.uint8), None
        for sample in samples:
            number = self._block_number(sample["__key__"])
            if hashlib.sha256(sample[_EXTENSION]).digest() != index.blocks.sha256[number].tobytes():
                raise DamagedError(
                    f"{sample['__url__']}: {index.describe_block(number)} does not match the index; copy the set again"
                )
            block = unpack_block(sample[_EXTENSION], int(index.blocks.length[number]))
            contig, start = int(index.blocks.contig[number]), int(index.blocks.start[number])
            if expected != (sample["__url__"], contig, start):
                tail = tail[:0]
            ids, origin = np.concatenate([tail, block.ids(0, block.length)]), start - len(tail)
            for window, first in self._windows.ending_in(self._epoch, contig, start, start + block.length):
                if first >= origin:
                    cut = ids[first - origin : first - origin + length]
                    yield self._sample(window, contig, first, cut)
            tail, expected = ids[max(len(ids) - length + 1, 0) :], (sample["__url__"], contig, start + block.length)

    def _sample(self, window: int, contig: int, start: int, ids: np.ndarray) -> dict[str, Any]:
        reverse = self._windows.reverse_complement and counter_hash(self._key, np.array([window]))[0] & np.uint64(1)
        name = window_name(self._windows.shards, contig, start, len(ids))
        return {"__key__": name, "window": window, "ids": reverse_complement(ids) if reverse else ids.copy()}

    def _block_number(self, key: str) -> int:
        """Index of the block with the key ``<part>-<index of the contig within the part>-<first base>``."""
        part, contig_in_part, start = key.rsplit("-", 2)
        index, contig = self._windows.shards.index, self._first_contig[part] + int(contig_in_part)
        first, last = index.first_block[contig : contig + 2]
        return int(first + np.searchsorted(index.blocks.start[first:last], int(start)))


def _collate(samples: list[dict[str, Any]], masking: Masking, fingerprint: str, stream: str) -> dict[str, Any]:
    ids, window = np.stack([sample["ids"] for sample in samples]), np.array([sample["window"] for sample in samples])
    masked = masking.windows(ids, fingerprint, window, stream)
    return {
        "__key__": [sample["__key__"] for sample in samples],
        "input_ids": torch.from_numpy(masked.input_ids).long(),
        "labels": torch.from_numpy(masked.labels).long(),
    }
