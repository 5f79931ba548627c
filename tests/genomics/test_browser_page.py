"""The page of the genome browser in headless Chromium, and the command that serves it."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ldarnet.genomics.browser.annotation import GeneTrack
from ldarnet.genomics.browser.site import PAGE_FILES
from tests.support.chromium import find_chromium, visit
from tests.support.genomics import random_bases, save, write_genome

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "ldarnet/genomics/browser/static"
CONTIGS = {"chr1": random_bases(900), "chr2": random_bases(300, 1)}
GFF = (
    "##gff-version 3\n"
    "1\tx\tgene\t101\t400\t.\t+\t.\tID=g;Name=ABC1\n"
    "1\tx\tmRNA\t101\t400\t.\t+\t.\tID=t;Parent=g\n"
    "1\tx\tCDS\t101\t400\t.\t+\t0\tParent=t\n"
)
YEAST = "data/genome_yeast_S288C/Saccharomyces_cerevisiae.R64-1-1.99.gff3.gz"
HEIGHTS = """Object.fromEntries(browser.trackViews.filter(view => view.track.name).map(view => {
    const canvas = view.viewports[0].canvas;
    if (!canvas || !canvas.width) return [view.track.name, 0];
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return [view.track.name, pixels.filter((value, index) => index % 4 === 3 && value > 0).length];
}))"""
"""Track -> number of pixels that it has drawn."""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ldarnet", *map(str, arguments)]


@pytest.fixture(scope="module", params=["bedgraph,bed", "bigwig,bigbed"])
def address(request, tmp_path_factory):
    """Address of a page with the tracks, genes and model of a small genome."""
    if "big" in request.param and not find_spec("pybigtools"):
        pytest.skip("pybigtools is not installed")
    folder = tmp_path_factory.mktemp("browse")
    genome, model = write_genome(folder / "my<b>.fa", CONTIGS), save(folder / "model")
    (folder / "genes.gff3").write_text(GFF)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    wide = ["--window", 64, "--likelihood", "--device", "cpu", "--format", request.param]
    subprocess.run(command("tracks", model, genome, "--out", folder / "tracks", *wide), env=environment, check=True)
    options = ["--tracks", folder / "tracks", "--model", model, "--annotation", folder / "genes.gff3", "--port", 0]
    serving = command("browse", genome, *options, "--device", "cpu")
    process = subprocess.Popen(serving, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stdout.readline, "")
        yield next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\S+/", line)))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
def test_the_page_shows_tracks_and_answers(address):
    async def steps(tab):
        await tab.wait_for("document.body && document.body.dataset.ready === 'true'")
        assert await tab.evaluate("document.getElementById('problem').textContent") == ""
        assert await tab.evaluate("document.getElementById('genome').textContent") == "my<b>.fa"
        await tab.evaluate("browser.search('chr1:1-600')")
        await tab.wait_for(f"Object.values({HEIGHTS}).every(count => count > 0)")
        drawn = await tab.evaluate(HEIGHTS)
        middle = await tab.evaluate("""(() => {
            const view = browser.trackViews.find(view => (view.track.name || '').includes('boundary probability'));
            const box = view.viewports[0].viewportElement.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        })()""")
        await tab.click(*middle)
        await tab.wait_for("document.querySelectorAll('#base tbody tr').length === 4")
        clicked = await tab.evaluate("document.getElementById('base').innerText")
        await tab.evaluate("document.getElementById('sequence').value = '>x\\nacgtacgtta CCGGATTACA'")
        await tab.evaluate("document.querySelector('#form button').click()")
        await tab.wait_for("document.querySelector('#chunks .spans')")
        chunks = await tab.evaluate("[...document.querySelectorAll('#chunks .spans span')].map(s => s.textContent)")
        await tab.evaluate("document.getElementById('sequence').value = 'protein'")
        await tab.evaluate("document.querySelector('#form button').click()")
        await tab.wait_for("document.querySelector('#chunks .error')")
        refused = await tab.evaluate("document.querySelector('#chunks .error').textContent")
        await asyncio.sleep(0.5)
        return drawn, clicked, chunks, refused, tab.requests, tab.errors

    drawn, clicked, chunks, refused, requests, errors = visit(address, steps)
    signals = {"boundary probability, stage 0", "log-likelihood (nats)", "entropy (nats)", "chunks, stage 0"}
    assert {*drawn} >= {"genes", *(f"model: {signal}" for signal in signals)}

    place = re.match(r"chr1:([\d,]+)\s+([ACGT]+)\s", clicked)
    position = int(place[1].replace(",", ""))
    assert abs(position - 300) <= 3
    assert place[2] == CONTIGS["chr1"][position - 11 : position + 10]
    rows = [line for line in clicked.split("\n") if re.search(r"\d\.\d{3}", line)]
    assert len(rows) == 12
    np.testing.assert_allclose(sum(float(re.search(r"\d\.\d{3}", row)[0]) for row in rows), 3, atol=0.01)

    assert "".join(chunks) == "ACGTACGTTACCGGATTACA" and len(chunks) > 1
    assert refused == "'P' is not a nucleotide code; paste a DNA sequence"
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert [error for error in errors if "/api/tokenize" not in error] == []  # its status is 400


def test_the_files_of_the_page_load_nothing_from_elsewhere():
    own = [(STATIC / name).read_text() for name in sorted(PAGE_FILES) if not name.startswith("igv")]
    assert len(own) == 3
    assert not [text for text in own if re.search(r"https?://|//[a-z]+\.[a-z]", text)]


def test_the_bundled_library_is_the_documented_one():
    import hashlib

    digest = hashlib.sha256((STATIC / "igv.min.js").read_bytes()).hexdigest()
    source = (STATIC / "SOURCE.md").read_text()
    assert digest in source and "npm" in source
    assert "Permission is hereby granted" in (STATIC / "igv-LICENSE.txt").read_text()


def test_a_real_annotation_has_the_known_exons(shared):
    genes = GeneTrack(shared / YEAST, ["chrVI"])
    (act1,) = genes.query({"contig": "chrVI", "start": "54000", "end": "54001"})
    assert (act1["name"], act1["strand"]) == ("ACT1", "-")
    assert [(exon["start"], exon["end"]) for exon in act1["exons"]] == [(53259, 54377), (54686, 54696)]
