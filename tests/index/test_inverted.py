"""The inverted file of a large dense view: what it finds, filters, deletions, drift, and files that commits write."""

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import index.collection as collection_module
import index.dense as dense_module
from data.errors import CollectionError
from data.records import Document
from index.adding import Writing
from index.collection import Collection
from index.inverted import NAME, InvertedFile, write_inverted
from index.ragged import Ragged
from index.snapshot import Snapshot
from tests.index.toy import ToyEncoder, build, documents, hits, identify, same_hits, state, take_steps, unit_rows

WRITING = Writing(ToyEncoder(), identify)
DIMS = 32


@pytest.fixture
def small_views(monkeypatch):
    """Write inverted files from 100 vectors on, and use them however few rows are allowed."""
    monkeypatch.setitem(collection_module.WHOLE, "dense", 100)
    monkeypatch.setattr(dense_module, "FEW", 0)


def dense_hits(snapshot, **given):
    return {asked: found for asked, found in hits(snapshot, **given).items() if asked[0].startswith("dense")}


def inverted(snapshot):
    return [len(segment) for segment in snapshot.segments if segment.inverted is not None]


def clustered(count, seed=0):
    """Make unit vectors near one of many points, as texts lie near their subjects."""
    rng = np.random.default_rng(seed)
    values = unit_rows(rng, count // 10, DIMS)[rng.integers(0, count // 10, count)]
    values = values + rng.standard_normal(values.shape) * 0.06
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Ragged(values.astype(np.float16), np.arange(count + 1, dtype=np.int64))


def write(folder, vectors):
    write_inverted(folder, vectors, np.zeros(len(vectors), np.uint16), ["en"], {"en": np.zeros(DIMS, np.float32)})
    return InvertedFile(folder, ["en"], len(vectors))


def recall(found, wanted):
    return np.mean([len(np.intersect1d(a, b)) / len(b) if len(b) else 1 for a, b in zip(found, wanted, strict=True)])


_kept = {}


def _shared(factory):
    if not _kept:
        vectors = clustered(20_000)
        folder = factory.mktemp("inverted")
        queries = vectors.values[:50] + np.random.default_rng(1).standard_normal((50, DIMS)).astype(np.float32) * 0.06
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        _kept["all"] = write(folder, vectors), vectors, queries, queries @ vectors.values.astype(np.float32).T
    return _kept["all"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([1, 10, 300]))
def test_candidates_hold_the_best_of_what_is_allowed_and_are_never_too_few(tmp_path_factory, seed, share, k):
    file, vectors, queries, scores = _shared(tmp_path_factory)
    allowed = np.random.default_rng(seed).random(len(vectors)) < share
    possible = np.flatnonzero(allowed)
    found = file.search(queries, k + max(dense_module.MORE, k // dense_module.PART), allowed)
    for rows in found:
        assert len(rows) >= min(k, len(possible))
        assert allowed[rows].all()
        assert len(set(rows.tolist())) == len(rows)
    order = np.argsort(-scores[:, possible], axis=1)[:, :k]
    if len(possible) > dense_module.FEW:  # fewer are all compared
        assert recall(found, possible[order]) >= 0.98


def test_texts_without_a_vector_are_nowhere(tmp_path):
    vectors = clustered(500)
    vectors.values[::2] = 0
    file = write(tmp_path, vectors)
    assert len(file) == 250
    (rows,) = file.search(unit_rows(np.random.default_rng(0), 1, DIMS), 500, None)
    assert sorted(rows.tolist()) == list(range(1, 500, 2))


def test_the_same_vectors_give_the_same_file(tmp_path, on_threads):
    vectors = clustered(3000)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a", vectors)
    on_threads(1)
    write(tmp_path / "b", vectors)
    assert state(tmp_path / "a") == state(tmp_path / "b")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_full_disk_is_an_oserror(tmp_path):
    (tmp_path / NAME).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path, clustered(200))
    assert caught.value.errno == errno.ENOSPC


# Collections


def test_a_large_view_finds_what_comparing_all_finds(tmp_path, small_views, monkeypatch):
    made = [*documents(300), Document("empty", "")]
    fast = build(tmp_path / "fast", made)
    assert inverted(fast) == [301]
    monkeypatch.setitem(collection_module.WHOLE, "dense", 1 << 30)
    whole = build(tmp_path / "whole", made)
    assert inverted(whole) == []
    same_hits(dense_hits(fast), dense_hits(whole))
    same_hits(dense_hits(fast, k=400), dense_hits(whole, k=400))
    some = np.arange(0, 300, 3)
    same_hits(dense_hits(fast, within=some), dense_hits(whole, within=some))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "delete", "compact"]), st.integers(0, 50)), max_size=8))
def test_adds_deletes_and_compacts_find_what_a_fresh_build_finds(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(collection_module.WHOLE, "dense", 100)
        patch.setattr(dense_module, "FEW", 0)
        folder = tmp_path_factory.mktemp("steps")
        live = take_steps(folder / "c", steps, 260, first=120, added=40, deleted=15)
        snapshot = Snapshot.open(folder / "c")
        patch.setitem(collection_module.WHOLE, "dense", 1 << 30)
        fresh = build(folder / "fresh", live)
        same_hits(dense_hits(snapshot), dense_hits(fresh))
        same_hits(dense_hits(snapshot, k=len(live)), dense_hits(fresh, k=len(live)))


def test_what_lies_elsewhere_now_is_compared_whole_until_it_is_compacted(tmp_path, small_views):
    # One language: nothing is taken off. Then as many texts of another: the file is of no use for neutral ranking.
    snapshot = build(tmp_path / "c", documents(150, languages=("en",)))
    assert snapshot.dense._serves(0, True).all()
    Collection(tmp_path / "c").add(documents(90, languages=("de",), prefix="x"), WRITING)
    snapshot = Snapshot.open(tmp_path / "c")
    assert inverted(snapshot) == [150]
    assert not snapshot.dense._serves(0, True).any()
    before = dense_hits(snapshot, k=240)
    assert snapshot.drifted
    Collection(tmp_path / "c").compact()
    snapshot = Snapshot.open(tmp_path / "c")
    assert inverted(snapshot) == [240]
    assert snapshot.dense._serves(0, True).all()
    assert not snapshot.drifted
    same_hits(dense_hits(snapshot, k=240), before)


def test_only_the_language_that_lies_elsewhere_is_compared_whole(tmp_path, small_views, monkeypatch):
    made = [*documents(200, languages=("en",)), *documents(2, languages=("th",), prefix="t", seed=1)]
    more = documents(9, languages=("th",), prefix="u", seed=2)
    build(tmp_path / "c", made)
    Collection(tmp_path / "c").add(more, WRITING)
    snapshot = Snapshot.open(tmp_path / "c")
    served = snapshot.dense._serves(0, True)
    assert inverted(snapshot) == [202]
    assert (served[:200].all(), served[200:].any()) == (True, False)
    monkeypatch.setitem(collection_module.WHOLE, "dense", 1 << 30)
    same_hits(dense_hits(snapshot, k=211), dense_hits(build(tmp_path / "whole", [*made, *more]), k=211))


def test_of_many_equal_texts_the_greatest_ids_are_found(tmp_path, small_views):
    made = [Document(f"d{i:03d}", "a cat", lang="en") for i in range(200)]
    snapshot = build(tmp_path / "c", made)
    assert inverted(snapshot) == [200]
    for (view, _), found in dense_hits(snapshot, k=5).items():
        assert [x for x, _ in found] == [f"d{i}" for i in range(199, 194, -1)], view


@pytest.mark.parametrize("left", [0, 1, 5, 13])
def test_what_few_are_left_can_be_compacted(tmp_path, small_views, left):
    build(tmp_path / "c", made := documents(120))
    collection = Collection(tmp_path / "c")
    collection.delete([d.id for d in made[left:]])
    collection.compact()
    assert collection.verify() == []
    answers = dense_hits(Snapshot.open(tmp_path / "c"), k=200)
    assert {len(found) for found in answers.values()} == {left}


def test_empty_texts_are_not_written_again_and_again(tmp_path, small_views):
    build(tmp_path / "c", made := [Document(f"d{i:03d}", "") for i in range(150)])
    before = Snapshot.open(tmp_path / "c").manifest.generation
    Collection(tmp_path / "c").add(made, WRITING)
    snapshot = Snapshot.open(tmp_path / "c")
    assert snapshot.manifest.generation == before
    assert not any(dense_hits(snapshot).values())


def test_a_collection_without_late_view_gets_one_too(tmp_path, small_views):
    snapshot = build(tmp_path / "c", documents(130), views=("dense",))
    assert inverted(snapshot) == [130]


@pytest.mark.parametrize("at", [0, 4, 40, 90, 200, -1])
def test_a_damaged_file_is_told(tmp_path, small_views, at):
    folder = tmp_path / "c"
    build(folder, documents(120))
    (path,) = folder.rglob(NAME)
    held = bytearray(path.read_bytes())
    held[at] ^= 0xFF
    path.write_bytes(held)
    assert any(NAME in problem for problem in Collection(folder).verify())
    path.write_bytes(held[: len(held) // 2])
    with pytest.raises(CollectionError, match=NAME):
        Snapshot.open(folder)
