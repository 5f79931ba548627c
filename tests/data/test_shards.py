import errno
import hashlib
import json
import os
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import encode
from ldarnet.data import ShardSet
from ldarnet.data.format import unpack_block
from ldarnet.data.index import Index
from ldarnet.data.index_file import INDEX_NAME, TABLES, read_index
from ldarnet.errors import UserError
from ldarnet.io.files import sha256_file
from sharding.build import build

OUTSIDE = ["../shard.tar", "/etc/passwd", "a/b.tar", "..", "", ".", "a\0b", "a\nb", "C:x", "a\\b", "x" * 300]
CONTIGS = {"one": "ACGTNNNNacgtRYKM" * 20 + "ACG", "two": "ttNNnnA", "three": "G" * 999}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "in.fa").write_text("".join(f">{name}\n{text}\n" for name, text in CONTIGS.items()))
    build(folder / "set", [folder / "in.fa"], contig_splits={"valid": ["two"]}, block=100)
    return folder / "set"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("ACGTNRYKMSWBDHVUacgtnrykmswbdhvu", min_size=1, max_size=90), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 200),
    st.data(),
)
def test_sequences_round_trip(make_set, texts, block, shard_size, data):
    texts[0] += "A"
    shards = make_set({f"c{number}": text for number, text in enumerate(texts)}, block=block, shard_size=shard_size)
    for number, text in enumerate(texts):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, len(text)))
        assert shards.text(f"c{number}", 0, len(text)) == text
        assert shards.text(number, start, stop) == text[start:stop]
        np.testing.assert_array_equal(shards.read(f"c{number}", start, stop), encode(text[start:stop]))


def test_runs_of_n_are_joined_across_blocks(make_set):
    shards = make_set({"a": "ACGTNNNNNNNNRRRACGTN"}, block=5)
    assert shards.index.runs.tolist() == [[4, 15], [19, 20]]


def test_lengths_and_splits(make_set):
    shards = make_set(CONTIGS, {"valid": ["two"]})
    assert shards.contigs == {"one": 323, "two": 7, "three": 999}
    assert shards.splits == {"train": 1322, "valid": 7}


def test_webdataset_reads_the_shards(make_set):
    shards = make_set(CONTIGS, block=100, shard_size=150)
    assert len(shards.index.shards) > 2
    urls = [str(shards.folder / shard.name) for shard in shards.index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    keys = [sample["__key__"] for sample in samples]
    blocks = [unpack_block(sample["2bit.zst"]) for sample in samples]
    assert keys == sorted(keys)
    assert "".join(block.text(0, block.length).decode() for block in blocks) == "".join(CONTIGS.values())


def test_reads_are_correct_with_a_bounded_cache(make_set):
    folder = make_set({"a": "ACGT" * 1000}, block=100).folder
    shards = ShardSet.open(folder, cache_bytes=100)
    for start in (0, 3900, 17, 2000):
        assert shards.text("a", start, start + 90) == ("ACGT" * 40)[start % 4 :][:90]
    assert sum(block.nbytes for block in shards._cache.values()) <= 100


def test_a_set_is_pickled_without_its_cache(make_set):
    shards = make_set({"a": "ACGT" * 100_000})
    before = shards.read("a", 5, 50)
    copy = pickle.dumps(shards)
    assert len(copy) < 10_000
    np.testing.assert_array_equal(pickle.loads(copy).read("a", 5, 50), before)


def test_a_forked_process_can_read(make_set):
    shards = make_set(CONTIGS, block=50)
    shards.read("one", 0, 10)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, shards.text("three", 0, 200).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1000) == b"G" * 200
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("contig", "start", "stop", "message"),
    [("four", 0, 1, "no contig 'four'"), ("two", 0, 8, "two has 7 bases"), ("two", -1, 3, "out of range")],
)
def test_reads_out_of_range_are_rejected(make_set, contig, start, stop, message):
    with pytest.raises(UserError, match=message):
        make_set(CONTIGS).read(contig, start, stop)


def test_a_changed_block_is_detected_when_read_and_others_are_readable(make_set):
    shards = make_set(CONTIGS, block=100)
    shard = shards.folder / "shard-00000-0000-0000.tar"
    content = bytearray(shard.read_bytes())
    content[shards.index.blocks.offset[2] + 20] ^= 1
    shard.write_bytes(content)
    assert shards.text("one", 0, 200) == CONTIGS["one"][:200]
    with pytest.raises(UserError, match=r"shard-00000-0000-0000\.tar: block 2 \(one:201-300\) does not match"):
        shards.read("one", 199, 201)


def test_a_truncated_or_missing_shard_is_reported(make_set):
    shards = make_set({"a": "ACGT" * 100})
    shard = shards.folder / "shard-00000-0000-0000.tar"
    os.truncate(shard, 520)
    with pytest.raises(UserError, match=r"shard-00000-0000-0000\.tar: block 0 \(a:1-400\) does not match"):
        shards.read("a", 0, 1)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00000-0000-0000\.tar: missing"):
        shards.read("a", 0, 1)
    shard.mkdir()
    with pytest.raises(UserError, match=r"shard-00000-0000-0000\.tar: a folder, not a file"):
        shards.read("a", 0, 1)


@pytest.mark.parametrize("call", ["open", "pread"])
def test_an_unreadable_shard_is_reported(make_set, monkeypatch, call):
    shards = make_set({"a": "ACGT" * 100})

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError, match=r"shard-00000-0000-0000\.tar: cannot be read \(Input/output error\)"):
        shards.read("a", 0, 1)


def test_folders_without_a_shard_set_are_rejected(make_set, tmp_path):
    with pytest.raises(UserError, match="not a shard set"):
        ShardSet.open(tmp_path)
    with pytest.raises(UserError, match="not a shard set"):
        ShardSet.open(tmp_path / "absent")
    (tmp_path / "partial/unfinished").mkdir(parents=True)
    with pytest.raises(UserError, match="run the same build command again"):
        ShardSet.open(tmp_path / "partial")
    (tmp_path / "index.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="not the index of a shard set"):
        ShardSet.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": ')
    with pytest.raises(UserError, match=r"index\.json: damaged"):
        ShardSet.open(tmp_path)
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").mkdir()
    with pytest.raises(UserError, match=r"index\.json: a folder, not a file"):
        ShardSet.open(tmp_path)


def test_an_index_without_read_permission_is_reported(make_set, monkeypatch):
    folder = make_set(CONTIGS).folder

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"index\.json: no permission to read it"):
        ShardSet.open(folder)


def edit(folder: Path, change, *, sign: bool = True) -> None:
    """Change index.json; with ``sign``, update its checksum."""
    path = folder / "index.json"
    content = json.loads(path.read_text())
    change(content)
    if sign:
        del content["checksum"]
        content["checksum"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))


def edit_table(folder: Path, name: str, change) -> None:
    """Change a table of the index and update all its hashes."""
    table = np.load(folder / name)
    changed = change(table)
    np.save(folder / name, table if changed is None else changed)
    size, digest = (folder / name).stat().st_size, sha256_file(folder / name)
    edit(folder, lambda content: content["tables"].update({name: {"size": size, "sha256": digest}}))


@pytest.mark.parametrize(("version", "hint"), [(1, "build it again"), (3, "upgrade ldarnet")])
def test_an_index_of_another_format_is_rejected(make_set, version, hint):
    folder = make_set(CONTIGS).folder
    edit(folder, lambda content: content.update(version=version))
    with pytest.raises(UserError, match=f"format version {version}, but this program reads version 2; {hint}"):
        ShardSet.open(folder)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_anywhere_in_a_signed_index_is_accepted_or_one_clear_line(small_set, data):
    path = small_set / INDEX_NAME
    before = path.read_text()

    def change(content):
        while True:
            key = data.draw(st.sampled_from(range(len(content)) if isinstance(content, list) else sorted(content)))
            if not (isinstance(content[key], (dict, list)) and content[key] and data.draw(st.booleans())):
                content[key] = data.draw(JSON)
                return
            content = content[key]

    try:
        edit(small_set, change)
        with suppress(UserError):
            everything = ShardSet.open(small_set).contigs
            assert list(everything.values()) == [len(text) for text in CONTIGS.values()]
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 99,
        b"\xff\xfe{}",
        b"[" * 10**6,
        b'{"format": "ldarnet-shards", "version": ' + b"9" * 9999 + b"}",
        b"7",
    ],
)
def test_an_index_that_is_not_json_of_this_format_is_one_clear_line(make_set, text):
    folder = make_set(CONTIGS).folder
    (folder / INDEX_NAME).write_bytes(text)
    with pytest.raises(UserError, match=r"^[^\n]*index\.json: [^\n]{1,200}$"):
        ShardSet.open(folder)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_the_index_is_detected_and_its_file_reported(small_set, data):
    path = small_set / data.draw(st.sampled_from([INDEX_NAME, *TABLES]))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(changed)
        with pytest.raises(UserError) as error:
            ShardSet.open(small_set)
    finally:
        path.write_bytes(content)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_or_truncated_table_is_reported(small_set, name):
    path = small_set / name
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1])
        with pytest.raises(UserError, match=f"{name}: damaged"):
            ShardSet.open(small_set)
        path.unlink()
        with pytest.raises(UserError, match=f"{name}: no such file"):
            ShardSet.open(small_set)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("contigs.npy", lambda rows: rows["length"].__setitem__(0, 322)),
        ("contigs.npy", lambda rows: rows["sha256"].__setitem__((0, 0), 77)),
        ("contigs.npy", lambda rows: rows["runs"].__setitem__(0, 900)),
        ("contigs.npy", lambda rows: rows[:-1]),
        ("splits.npy", lambda rows: rows.__setitem__((0, 2), 300)),
        ("splits.npy", lambda rows: rows[:-1]),
        ("splits.npy", lambda rows: rows[:, :2]),
        ("letter_runs.npy", lambda rows: rows.astype("<f8")),
        ("blocks.npy", lambda rows: rows["start"].__setitem__(1, 101)),
        ("blocks.npy", lambda rows: rows["contig"].__setitem__(0, -5)),
        ("blocks.npy", lambda rows: rows["shard"].__setitem__(1, 9)),
        ("contigs.npy", lambda rows: rows["species"].__setitem__(0, 1)),
    ],
)
def test_an_inconsistent_index_is_rejected(make_set, table, change):
    folder = make_set(CONTIGS, block=100).folder
    edit_table(folder, table, change)
    with pytest.raises(UserError, match=r"index\.json: damaged"):
        ShardSet.open(folder)


@pytest.mark.parametrize(
    ("table", "change", "fault"),
    [
        ("splits.npy", lambda rows: rows.__setitem__((0, 2), 324), "split intervals"),
        ("splits.npy", lambda rows: rows.__setitem__((0, 1), -1), "split intervals"),
        ("splits.npy", lambda rows: rows.__setitem__((0, 0), 2**40), "split intervals"),
        ("splits.npy", lambda rows: rows[[1, 0, 2]], "split intervals"),
        ("letter_runs.npy", lambda rows: rows.__setitem__((0, 1), 2**40), "runs outside"),
        ("letter_runs.npy", lambda rows: rows.__setitem__((1, 0), 2), "runs outside"),
        ("contigs.npy", lambda rows: rows["species"].__setitem__(0, -1), "unknown species"),
        ("contigs.npy", lambda rows: rows["runs"].__setitem__(0, -1), "number of runs"),
        ("contigs.npy", lambda rows: rows["length"].__setitem__(0, 2**62), "impossible length"),
        ("contigs.npy", lambda rows: rows["length"].__setitem__(0, 322), "do not cover"),
        ("blocks.npy", lambda rows: rows["length"].__setitem__(0, 2**40), "do not cover"),
        ("blocks.npy", lambda rows: rows["start"].__setitem__(1, 101), "do not cover"),
        ("blocks.npy", lambda rows: rows["contig"].__setitem__(0, 2**40), "do not cover"),
        ("blocks.npy", lambda rows: rows["size"].__setitem__(0, 2**40), "outside their shards"),
        ("blocks.npy", lambda rows: rows["size"].__setitem__(0, 5000), "outside their shards"),
        ("blocks.npy", lambda rows: rows["size"].__setitem__(0, -1), "outside their shards"),
        ("blocks.npy", lambda rows: rows["offset"].__setitem__(0, 2**40), "outside their shards"),
        ("blocks.npy", lambda rows: rows["offset"].__setitem__(0, -1), "outside their shards"),
        ("blocks.npy", lambda rows: rows["shard"].__setitem__(0, -1), "outside their shards"),
    ],
)
def test_a_forged_index_with_valid_hashes_is_rejected(make_set, table, change, fault):
    folder = make_set(CONTIGS, block=100).folder
    edit_table(folder, table, change)
    forge_fingerprint(folder)
    with pytest.raises(UserError, match=rf"index\.json: damaged \(.*{fault}"):
        ShardSet.open(folder)


def forge_fingerprint(folder):
    index = Index._map(folder, read_index(folder))
    edit(folder, lambda content: content.update(fingerprint=index.fingerprint))


def test_names_that_are_not_utf8_are_rejected(make_set):
    folder = make_set(CONTIGS, block=100).folder
    (folder / "names.txt").write_bytes(b"\xff\na\nb\n")
    digest = {"size": 6, "sha256": sha256_file(folder / "names.txt")}
    edit(folder, lambda content: content["tables"].update({"names.txt": digest}))
    forge_fingerprint(folder)
    with pytest.raises(UserError, match="names that are not UTF-8"):
        ShardSet.open(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x05\x00((((("])
@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_no_tables_are_rejected_although_their_hashes_match(make_set, name, content):
    folder = make_set(CONTIGS, block=100).folder
    (folder / name).write_bytes(content)
    digest = {"size": len(content), "sha256": sha256_file(folder / name)}
    edit(folder, lambda content: content["tables"].update({name: digest}))
    with pytest.raises(UserError, match=r"index\.json: damaged"):
        ShardSet.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda content, name=name: content["shards"][0].update(name=name) for name in OUTSIDE),
        lambda content: content["tables"].update({"../x.npy": content["tables"]["blocks.npy"]}),
        lambda content: content["tables"].pop("blocks.npy"),
        lambda content: content["recipe"]["sources"][0].update(size="7"),
        lambda content: content["recipe"].update(excluded={"train": -1}),
        lambda content: content["shards"][0].update(size=1e9),
        lambda content: content["shards"][0].update(size=2**70),
        lambda content: content.update(recipe=None),
        lambda content: content.update(splits={}),
        lambda content: content.update(splits={"train": True, "valid": 1}),
        lambda content: content.update(species="x"),
        lambda content: content.update(tool=float("nan")),
        lambda content: content.pop("shards"),
        lambda content: content.update(splits={"train": 900}),
        lambda content: content.update(splits=[]),
        lambda content: content.update(species=["other"]),
    ],
)
def test_an_edited_index_is_rejected(make_set, change):
    folder = make_set(CONTIGS, block=100).folder
    edit(folder, change)
    with pytest.raises(UserError, match=r"index\.json: damaged"):
        ShardSet.open(folder)
