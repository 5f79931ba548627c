"""`ldarnet train-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_tokenizer(
    shards: Annotated[str, typer.Argument(metavar="SHARDS", help="Folder or URL of a shard set.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="tokenizer.json to write.")] = Path("tokenizer.json"),
    vocab: Annotated[int, typer.Option(min=12, max=2**16, metavar="N", help="Vocabulary size.")] = 4096,
    bases: Annotated[
        int, typer.Option(min=2, metavar="N", help="Bases to learn from, in windows sampled from the split `train`.")
    ] = 4_000_000,
    length: Annotated[int, typer.Option(min=8, metavar="BASES", help="Window length.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the sample.")] = 0,
) -> None:
    """Learn a byte-pair encoding from the training windows of a shard set, for use as model.tokenizer.file."""
    from ldarnet.cli.arguments import with_parent
    from ldarnet.data import ShardSet, Windows
    from ldarnet.data.bpe_corpus import train_bpe
    from ldarnet.errors import UserError
    from ldarnet.io.files import atomic_path

    if out.exists():
        raise UserError(f"{out}: already exists; remove it or choose another file")
    windows = Windows(ShardSet.open(shards), "train", length, seed=seed)
    tokenizer, read, tokens = train_bpe(windows, vocab, bases)
    with atomic_path(with_parent(out)) as partial:
        tokenizer.backend().save(str(partial))
    print(
        f"wrote {out}: vocabulary of {len(tokenizer.tokens):,}, {read / tokens:.2f} bases per token of {read:,} bases"
    )
