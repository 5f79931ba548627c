"""`ldarnet variant-sets`."""

from __future__ import annotations


def variant_sets() -> None:
    """List the published sets of labeled variants: publication, assembly, counts, source, license."""
    from ldarnet.genomics.variants.sets import all_sets

    for chosen in all_sets().values():
        counts = "counts change with the file"
        if chosen.counts:
            counts = f"{chosen.counts[0]:,} positives, {chosen.counts[1]:,} negatives"
        print(f"{chosen.name}\n  {chosen.title}")
        print(f"  {chosen.assembly}; {counts}; {f'groups: {chosen.group}' if chosen.group else 'no groups'}")
        print(f"  source: {chosen.source}\n  file: {chosen.file.url}\n  license: {chosen.license}")
