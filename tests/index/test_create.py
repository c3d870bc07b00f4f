"""What a collection is made of and in: views, folders, encoders."""

import json
from pathlib import Path

import pytest

from data.errors import CollectionError, NotFoundError, UsageError
from index.adding import Writing
from index.collection import Collection
from index.segment import VIEWS
from index.snapshot import Snapshot
from tests.index.toy import DIMS, ToyEncoder, build, documents, identify, named, state

WRITING = Writing(ToyEncoder(), identify)


@pytest.mark.parametrize(
    ("views", "message"),
    [([], r"unknown view \(none\)"), (["bm25", "dens"], "unknown view dens: choose from bm25, dense, late")],
)
def test_unknown_views_are_refused(tmp_path, views, message):
    with pytest.raises(UsageError, match=message):
        Collection.create(tmp_path / "c", views, ToyEncoder())
    assert not (tmp_path / "c").exists()


def test_vectors_need_an_encoder_that_makes_them(tmp_path):
    with pytest.raises(UsageError, match="no encoder makes no dense and no late vectors"):
        Collection.create(tmp_path / "c", VIEWS, None)
    encoder = ToyEncoder()
    encoder.dims = {"dense": DIMS}
    with pytest.raises(UsageError, match="toy makes no late vectors: leave them out of --views"):
        Collection.create(tmp_path / "c", VIEWS, encoder)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("all my work")
    with pytest.raises(UsageError, match="exists and holds no collection: name a new or empty folder"):
        Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is no folder to write to"):
        Collection.create(tmp_path / "c" / "thesis.tex", VIEWS, ToyEncoder())


def test_a_collection_is_not_made_over_another(tmp_path):
    build(tmp_path / "c", documents(3))
    before = state(tmp_path / "c")
    with pytest.raises(UsageError, match="holds a collection already"):
        Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(UsageError, match="exists and holds no collection"):  # documents somebody may want back
        Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    del before[Path("manifest.json")]
    assert state(tmp_path / "c") == before


def test_the_rest_of_a_killed_create_does_not_stand_in_the_way(tmp_path):
    folder = tmp_path / "c"
    (folder / "segments").mkdir(parents=True)
    for name in ("lock", "manifest.json.partial", "prior.dense.npy"):
        (folder / name).write_bytes(b"rest")
    snapshot = build(folder, documents(3))
    assert len(snapshot) == 3
    assert set(state(folder)) == named(folder)
    assert Collection(folder).verify() == []


@pytest.mark.parametrize("work", ["open", "add", "delete", "compact", "verify"])
def test_where_no_collection_is_that_is_said_and_nothing_is_made(tmp_path, work):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "none", tmp_path / "empty", tmp_path / "file"):
        collection = Collection(folder)
        works = {
            "open": lambda folder=folder: Snapshot.open(folder),
            "add": lambda collection=collection: collection.add(documents(1), WRITING),
            "delete": lambda collection=collection: collection.delete(["a"]),
            "compact": collection.compact,
            "verify": collection.verify,
        }
        with pytest.raises(NotFoundError, match=r"holds no collection: build one with `polyseek index INPUT --to"):
            works[work]()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty", "file"]


def test_another_encoder_is_refused_with_both_fingerprints(tmp_path):
    build(tmp_path / "c", documents(3))
    before = state(tmp_path / "c")
    other = ToyEncoder(revision="2")
    with pytest.raises(CollectionError) as caught:
        Collection(tmp_path / "c").add(documents(1, prefix="x"), Writing(other, identify))
    for encoder in (ToyEncoder(), other):
        assert json.dumps(encoder.fingerprint, sort_keys=True) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state(tmp_path / "c") == before


def test_the_same_encoder_under_another_name_will_do(tmp_path):
    build(tmp_path / "c", documents(3))
    moved = ToyEncoder()
    moved.fingerprint = {**moved.fingerprint, "model": "/elsewhere/toy"}
    assert Collection(tmp_path / "c").add(documents(1, prefix="x"), Writing(moved, identify)).added == 1


@pytest.mark.parametrize(
    ("probe", "near"), [([2.0, 0.1], True), ([1.0, 0.2], False), ([1.0], False), ([0.0, 0.0], False)]
)
def test_another_arithmetic_will_do_where_it_makes_nearly_the_same(tmp_path, probe, near):
    build(tmp_path / "c", documents(3))
    other = ToyEncoder()
    other.fingerprint = {**other.fingerprint, "arithmetic": "int16", "probe": probe}
    writing = Writing(other, identify)
    if near:
        assert Collection(tmp_path / "c").add(documents(1, prefix="x"), writing).added == 1
    else:
        with pytest.raises(CollectionError, match="was built with the encoder"):
            Collection(tmp_path / "c").add(documents(1, prefix="x"), writing)


def test_a_collection_with_vectors_does_not_grow_without_its_encoder(tmp_path):
    build(tmp_path / "c", documents(3))
    with pytest.raises(CollectionError, match="has vectors: give the encoder that it was built with"):
        Collection(tmp_path / "c").add(documents(1, prefix="x"), Writing(None, identify))
    assert len(Snapshot.open(tmp_path / "c")) == 3
