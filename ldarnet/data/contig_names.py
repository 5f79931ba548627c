"""Names of contigs in files that come with a shard set, such as BED files."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from ldarnet.data.reader import ShardSet
from ldarnet.genome.contig_names import read_contig_names

_COLUMNS = "a contig name, a tab, and the name of this contig in the shard set"


def contig_numbers(shards: ShardSet, preferred: Collection[int] = ()) -> dict[str, int]:
    """Map contig names to contig indices.

    Both full and bare names are mapped. A bare name that several contigs share maps to the one that is ``preferred``.
    If none or several of these contigs are preferred, the bare name is not mapped.
    """
    contigs = shards.index.contigs
    full, bare = contigs.all_names(), contigs.bare_names()
    owners, preferred_owners = Counter(bare), Counter(bare[number] for number in preferred)
    unique = {name: number for number, name in enumerate(bare) if owners[name] == 1}
    unique |= {bare[number]: number for number in preferred if preferred_owners[bare[number]] == 1}
    return unique | {name: number for number, name in enumerate(full)}


def translation(contigs: Path | Mapping[str, str] | None) -> Mapping[str, str]:
    """Names in a file -> names in the shard set; a file is a table with lines ``name<TAB>name in the shard set``.

    Raises:
        UserError: the file cannot be read or has no names, a line does not have two columns, or two lines map the same
            name to different names.
    """
    return read_contig_names(contigs, _COLUMNS) if isinstance(contigs, Path) else contigs or {}
