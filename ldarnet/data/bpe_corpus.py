"""Byte-pair encodings learned from training windows."""

import numpy as np

from ldarnet.alphabet import decode
from ldarnet.data.windows import Windows
from ldarnet.tokenization.bpe import BPE


def train_bpe(windows: Windows, vocab: int, bases: int) -> tuple[BPE, int, int]:
    """Learn a byte-pair encoding from the first windows of a stream, in the orientation in which training reads them.

    The result depends only on the data set, the stream and the arguments.

    Args:
        windows: stream of training windows.
        vocab: size of the vocabulary.
        bases: maximum number of bases to read; at least one window is read, and no window twice.

    Returns:
        The encoding, the number of bases read, and the number of tokens that they consist of.

    Raises:
        UserError: a shard is missing or damaged.
    """
    count = max(1, min(len(windows), bases // windows.length))
    ids, _ = windows.read(windows.locations(np.arange(count)))
    tokenizer = BPE.train(map(decode, ids), vocab)
    return tokenizer, ids.size, sum(len(tokenizer.encode(row)) for row in ids)
