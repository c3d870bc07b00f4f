import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from data.errors import CollectionError, InputError, NotFoundError, PolyseekError, UsageError
from data.records import Document
from index import collection as module
from index.collection import Collection, Writing
from index.manifest import Manifest
from index.segment import VIEWS
from index.snapshot import Snapshot, files
from tests.index.test_segment import HARD
from tests.index.toy import (
    DIMS,
    WORDS,
    ToyEncoder,
    build,
    documents,
    hits,
    identify,
    prior,
    same_answers,
    same_hits,
    word_vector,
)

WRITING = Writing(ToyEncoder(), identify)
ATOMIC = Writing(ToyEncoder(), identify, atomic=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 4)


def state(folder):
    """All bytes of a collection, but not the lock."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def named(folder):
    """The files that there should be."""
    manifest = Manifest.read(folder)
    return {p.relative_to(folder) for p, _ in files(folder, manifest)} | {Path("manifest.json")}


# --- adding, changing, deleting


def test_documents_of_every_script_come_back(tmp_path):
    folder = tmp_path / "ชุดข้อมูล 集合 🦊"
    snapshot = build(folder, HARD)
    for document in HARD:
        row = snapshot.row(document.id)
        assert snapshot.document(row) == document
        assert snapshot.ids(np.array([row])) == [document.id]
    assert snapshot.info()["name"] == folder.name
    assert Collection(folder).verify() == []


def test_a_language_is_identified_where_none_is_given_and_the_document_stays_what_was_sent(tmp_path):
    sent = [Document("a", "สุนัข แมว"), Document("b", "just words"), Document("c", "der Hund", lang="deu")]
    snapshot = build(tmp_path / "c", sent)
    assert [snapshot.language(row) for row in range(3)] == ["th", "", "de"]
    assert snapshot.document(0).lang == "th"
    assert Collection(tmp_path / "c").add(sent, WRITING).unchanged == 3


def test_add_tells_new_changed_and_unchanged_apart(tmp_path):
    given = documents(10)
    build(tmp_path / "c", given)
    changed = [Document(d.id, d.text + " anders", lang=d.lang) for d in given[:3]]
    report = Collection(tmp_path / "c").add([*changed, *given[3:], *documents(2, prefix="new")], WRITING)
    assert (report.added, report.updated, report.unchanged, report.total) == (2, 3, 7, 12)
    snapshot = Snapshot.open(tmp_path / "c")
    assert len(snapshot) == 12
    assert snapshot.rows == 15
    assert [snapshot.document(snapshot.row(d.id)) for d in changed] == changed


def test_adding_the_same_again_commits_nothing(tmp_path):
    given = documents(10)
    build(tmp_path / "c", given)
    before = state(tmp_path / "c")
    assert Collection(tmp_path / "c").add(given, WRITING).unchanged == 10
    assert state(tmp_path / "c") == before


def test_documents_are_encoded_only_where_they_are_new(tmp_path):
    class Counting(ToyEncoder):
        encoded = 0

        def encode_documents(self, texts):
            self.encoded += len(texts)
            return super().encode_documents(texts)

    given, encoder = documents(10), Counting()
    build(tmp_path / "c", given, encoder=encoder)
    Collection(tmp_path / "c").add([*given, *documents(2, prefix="new")], Writing(encoder, identify))
    Collection(tmp_path / "c").compact()
    assert encoder.encoded == 12


def test_delete_counts_what_was_there_and_keeps_the_rest(tmp_path):
    given = documents(10)
    build(tmp_path / "c", given)
    collection = Collection(tmp_path / "c")
    assert collection.delete([given[0].id, "nobody", given[4].id, given[4].id]) == 2
    assert collection.delete([given[0].id]) == 0
    snapshot = Snapshot.open(tmp_path / "c")
    assert snapshot.row(given[0].id) is None
    left = [d for d in given if d not in (given[0], given[4])]
    same_answers(snapshot, build(tmp_path / "fresh", left))
    assert collection.verify() == []


def test_a_commit_of_deletions_alone_writes_no_segment(tmp_path):
    given = documents(6)
    build(tmp_path / "c", given)
    before = Manifest.read(tmp_path / "c")
    Collection(tmp_path / "c").delete([given[0].id])
    after = Manifest.read(tmp_path / "c")
    assert after.generation == before.generation + 1
    assert after.segments == before.segments
    Collection(tmp_path / "c").delete([given[0].id])
    assert Manifest.read(tmp_path / "c") == after


def test_a_deleted_document_can_be_added_again(tmp_path):
    given = documents(4)
    build(tmp_path / "c", given)
    collection = Collection(tmp_path / "c")
    collection.delete([d.id for d in given])
    assert len(Snapshot.open(tmp_path / "c")) == 0
    assert collection.add(given, WRITING).added == 4
    same_answers(Snapshot.open(tmp_path / "c"), build(tmp_path / "fresh", given))


def test_compact_keeps_the_answers_and_drops_the_rest(tmp_path, small_batches):
    given = documents(22)
    build(tmp_path / "c", given)
    collection = Collection(tmp_path / "c")
    collection.delete([d.id for d in given[::3]])
    before = hits(Snapshot.open(tmp_path / "c"))
    collection.compact()
    snapshot = Snapshot.open(tmp_path / "c")
    assert len(snapshot.segments) == 1
    assert snapshot.rows == len(snapshot) == 14
    same_hits(hits(snapshot), before)
    assert collection.verify() == []
    assert set(state(tmp_path / "c")) == named(tmp_path / "c")
    done = state(tmp_path / "c")
    collection.compact()
    assert state(tmp_path / "c") == done


def test_compact_of_what_is_all_deleted_leaves_an_empty_collection(tmp_path):
    given = documents(5)
    build(tmp_path / "c", given)
    collection = Collection(tmp_path / "c")
    collection.delete([d.id for d in given])
    collection.compact()
    assert list((tmp_path / "c" / "segments").iterdir()) == []
    assert collection.verify() == []
    assert collection.add(given, WRITING).added == 5


def test_an_empty_collection_answers_nothing(tmp_path):
    snapshot = build(tmp_path / "c", [])
    assert len(snapshot) == 0
    assert set(map(len, hits(snapshot).values())) == {0}
    assert snapshot.info()["languages"] == {}
    assert snapshot.select(["a"], ["de"]).tolist() == []
    collection = Collection(tmp_path / "c")
    assert collection.verify() == []
    assert collection.delete(["a"]) == 0
    collection.compact()


@pytest.mark.parametrize("seed", range(6))
def test_any_history_ends_like_a_fresh_build_of_what_is_left(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 5)
    monkeypatch.setattr(module, "SEGMENTS", 3)
    encoder = ToyEncoder(priors={"dense": prior(1), "late": prior(2)})
    draw, left = random.Random(seed), {}
    collection = Collection.create(tmp_path / "c", VIEWS, encoder)
    for step in range(14):
        match draw.choice(["add", "add", "update", "delete", "compact"]):
            case "add":
                given = documents(draw.randint(1, 12), seed=100 * seed + step, prefix=f"s{step}-")
            case "update":
                given = [
                    Document(x, " ".join(draw.choices(WORDS["en"], k=4)), lang=draw.choice(["en", left[x].lang]))
                    for x in draw.sample(sorted(left), len(left) // 3)
                ]
            case "delete":
                gone = draw.sample(sorted(left), len(left) // draw.randint(2, 5))
                assert collection.delete(gone) == len(gone)
                left = {x: d for x, d in left.items() if x not in gone}
                continue
            case "compact":
                collection.compact()
                continue
        collection.add(given, Writing(encoder, identify, atomic=draw.random() < 0.5))
        left |= {d.id: d for d in given}
    snapshot = Snapshot.open(tmp_path / "c")
    assert collection.verify() == []
    assert {snapshot.document(snapshot.row(x)) for x in ()} == set()
    assert all(snapshot.document(snapshot.row(x)).text == d.text for x, d in left.items())
    fresh = build(tmp_path / "fresh", draw.sample(sorted(left.values(), key=lambda d: d.id), len(left)), encoder=encoder)
    same_answers(snapshot, fresh)
    for view in ("dense", "late"):  # exact sums: the centroids are the same to the last bit
        for language in [*WORDS, "", "fr", "yo"]:
            wanted = fresh.centroids(view).offset(language)
            np.testing.assert_array_equal(snapshot.centroids(view).offset(language), wanted)
    few = [x for x in sorted(left) if draw.random() < 0.3]
    found, wanted = snapshot.select(few, ["de", "en"]), fresh.select(few, ["de", "en"])
    same_hits(hits(snapshot, within=found), hits(fresh, within=wanted))


def test_saved_and_opened_again_answers_alike(tmp_path):
    snapshot = build(tmp_path / "c", documents(30))
    before = hits(snapshot)
    shutil.copytree(tmp_path / "c", tmp_path / "moved")
    shutil.rmtree(tmp_path / "c")
    assert hits(Snapshot.open(tmp_path / "moved")) == before


def test_the_centroids_that_ship_come_with_the_collection(tmp_path):
    encoder = ToyEncoder(priors={"dense": prior(1), "late": prior(2)})
    snapshot = build(tmp_path / "c", documents(6, languages=["de", "en"]), encoder=encoder)
    plain = build(tmp_path / "plain", documents(6, languages=["de", "en"]))
    assert snapshot.centroids("dense").offset("fr").tolist() != plain.centroids("dense").offset("fr").tolist()
    assert plain.centroids("dense").offset("fr").tolist() == plain.centroids("dense").offset("").tolist()


@pytest.mark.parametrize("views", [("bm25",), ("dense",), ("late",), ("late", "bm25")])
def test_a_view_that_is_not_there_says_how_to_get_it(tmp_path, views):
    snapshot = build(tmp_path / "c", documents(3), views=views)
    assert set(snapshot.manifest.views) == set(views)
    for view in set(VIEWS) - set(views):
        with pytest.raises(CollectionError, match=f"has no {view} view, only .*--views .*{view}"):
            getattr(snapshot, view)
    for view in views:
        getattr(snapshot, view)
    assert Collection(tmp_path / "c").verify() == []


def test_a_collection_of_words_alone_needs_no_encoder(tmp_path):
    collection = Collection.create(tmp_path / "c", ["bm25"], None)
    assert collection.add(documents(3), Writing(None, identify)).added == 3
    assert Manifest.read(tmp_path / "c").encoder is None


def test_select_takes_ids_and_languages_together(tmp_path):
    given = [Document(str(i), "word", lang=["de", "en", ""][i % 3]) for i in range(9)]
    build(tmp_path / "c", given)
    Collection(tmp_path / "c").delete(["3"])
    snapshot = Snapshot.open(tmp_path / "c")
    assert snapshot.select() is None
    assert snapshot.select(["8", "1", "1", "nobody", "3"]).tolist() == [1, 8]
    assert snapshot.select(languages=["de"]).tolist() == [0, 6]
    assert snapshot.select(["0", "1", "2"], ["en", "de", "xx"]).tolist() == [0, 1]
    assert snapshot.select(["nobody"]).tolist() == []
    assert snapshot.select(languages=["xx"]).tolist() == []
    assert snapshot.select(languages=["de"]).dtype == np.int64


def test_info_tells_what_there_is(tmp_path):
    build(tmp_path / "c", [Document("a", "x", lang="de"), Document("b", "y"), Document("c", "z", lang="de")])
    Collection(tmp_path / "c").delete(["c"])
    info = Snapshot.open(tmp_path / "c").info()
    assert info["documents"] == 2
    assert info["deleted_rows"] == 1
    assert info["languages"] == {"de": 1, "und": 1}
    assert info["segments"] == 1
    assert info["views"] == ["bm25", "dense", "late"]
    assert info["encoder"]["model"] == "toy"
    assert info["bytes"] == sum(map(len, state(tmp_path / "c").values()))
    json.dumps(info)


# --- commits


def test_one_batch_is_one_commit_and_atomic_is_one_for_all(tmp_path, small_batches):
    given, seen = documents(22), []
    collection = Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    collection.add(given, Writing(ToyEncoder(), identify, on_progress=seen.append))
    assert seen == [4, 8, 12, 16, 20, 22]
    assert Manifest.read(tmp_path / "c").generation == 6
    generations = []

    def watch(_):
        generations.append(Manifest.read(tmp_path / "c").generation)

    more = [Document(d.id, d.text + " x", lang=d.lang) for d in documents(6)]
    collection.add(more, Writing(ToyEncoder(), identify, atomic=True, on_progress=watch))
    assert generations == [6, 6]
    assert Manifest.read(tmp_path / "c").generation == 7


def test_a_batch_ends_after_so_many_characters(monkeypatch):
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 10)
    given = [Document(str(i), "x" * n, title="t") for i, n in enumerate([4, 4, 30, 1, 1])]
    assert [[d.id for d in batch] for batch in module.batches(given)] == [["0", "1"], ["2"], ["3", "4"]]


def test_documents_are_read_one_batch_at_a_time(tmp_path, small_batches):
    read, committed = [], []

    def source():
        for document in documents(12):
            read.append(document.id)
            yield document

    writing = Writing(ToyEncoder(), identify, on_progress=lambda done: committed.append((done, len(read))))
    Collection.create(tmp_path / "c", VIEWS, ToyEncoder()).add(source(), writing)
    assert committed == [(4, 4), (8, 8), (12, 12)]


def test_many_small_adds_stay_few_segments(tmp_path, small_batches, monkeypatch):
    monkeypatch.setattr(module, "SEGMENTS", 3)
    given = documents(30)
    collection = Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    for document in given:
        collection.add([document], ATOMIC)
        assert len(Manifest.read(tmp_path / "c").segments) <= 6  # 3, or log2(30) + 1
    assert set(state(tmp_path / "c")) == named(tmp_path / "c")
    same_answers(Snapshot.open(tmp_path / "c"), build(tmp_path / "fresh", given))


@pytest.mark.parametrize("position", [1, 6])
def test_an_id_twice_is_refused_and_atomic_changes_nothing(tmp_path, small_batches, position):
    build(tmp_path / "c", documents(5))
    before = state(tmp_path / "c")
    given = documents(7, prefix="new")
    given.insert(position, given[0])
    with pytest.raises(InputError, match=r"document id 'new0000' stands twice in the input"):
        Collection(tmp_path / "c").add(given, ATOMIC)
    assert state(tmp_path / "c") == before


def test_an_id_twice_in_a_later_batch_leaves_the_batches_before(tmp_path, small_batches):
    given = documents(10)
    collection = Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    with pytest.raises(InputError, match="stands twice"):
        collection.add([*given, given[1]], WRITING)
    assert len(Snapshot.open(tmp_path / "c")) == 8
    assert collection.add(given, WRITING).added == 2
    assert collection.verify() == []


def test_an_encoder_that_fails_midway_leaves_what_was_committed(tmp_path, small_batches):
    class Failing(ToyEncoder):
        calls = 0

        def encode_documents(self, texts):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("out of memory")
            return super().encode_documents(texts)

    for atomic, left in [(False, 8), (True, 0)]:
        folder = tmp_path / str(atomic)
        collection = Collection.create(folder, VIEWS, ToyEncoder())
        with pytest.raises(RuntimeError, match="out of memory"):
            collection.add(documents(12), Writing(Failing(), identify, atomic=atomic))
        assert len(Snapshot.open(folder)) == left
        assert set(state(folder)) == named(folder)
        assert collection.verify() == []
        collection.add(documents(12), WRITING)
        same_answers(Snapshot.open(folder), build(tmp_path / f"fresh {atomic}", documents(12)))


# --- making one


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
    assert not (folder / "manifest.json.partial").exists() or Collection(folder).verify() == []


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


# --- encoders


def test_another_encoder_is_refused_with_both_fingerprints(tmp_path):
    build(tmp_path / "c", documents(3))
    before = state(tmp_path / "c")
    other = ToyEncoder(revision="2")
    with pytest.raises(CollectionError) as caught:
        Collection(tmp_path / "c").add(documents(1, prefix="x"), Writing(other, identify))
    assert str(ToyEncoder().fingerprint) in str(caught.value)
    assert str(other.fingerprint) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state(tmp_path / "c") == before


def test_the_same_encoder_under_another_name_will_do(tmp_path):
    build(tmp_path / "c", documents(3))
    moved = ToyEncoder()
    moved.fingerprint = {**moved.fingerprint, "model": "/elsewhere/toy"}
    assert Collection(tmp_path / "c").add(documents(1, prefix="x"), Writing(moved, identify)).added == 1


def test_a_collection_with_vectors_does_not_grow_without_its_encoder(tmp_path):
    build(tmp_path / "c", documents(3))
    with pytest.raises(CollectionError, match="has vectors: give the encoder that it was built with"):
        Collection(tmp_path / "c").add(documents(1, prefix="x"), Writing(None, identify))
    assert len(Snapshot.open(tmp_path / "c")) == 3


# --- damage


def test_another_format_version_is_named(tmp_path):
    build(tmp_path / "c", documents(3))
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "format": 99}), "utf-8")
    with pytest.raises(CollectionError, match="has format 99 and this version of Polyseek reads format 1"):
        Snapshot.open(tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": 1}', b"[" * 100_000])
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    build(tmp_path / "c", documents(3))
    (tmp_path / "c" / "manifest.json").write_bytes(content)
    for work in (Snapshot.open, lambda folder: Collection(folder).verify(), lambda folder: Collection(folder).compact()):
        with pytest.raises(CollectionError, match=r"damaged|has format") as caught:
            work(tmp_path / "c")
        assert "\n" not in str(caught.value)


def test_a_manifest_that_was_edited_is_refused(tmp_path):
    build(tmp_path / "c", documents(3))
    path = tmp_path / "c" / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"rows": 3', '"rows": 2'), "utf-8")
    with pytest.raises(CollectionError, match=r"manifest.json is damaged \(checksum\)"):
        Snapshot.open(tmp_path / "c")


@pytest.fixture(scope="module")
def damaged_source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "c"
    encoder = ToyEncoder(priors={"dense": prior(1), "late": prior(2)})
    build(folder, documents(12), encoder=encoder)
    Collection(folder).delete(["d0003"])
    return folder


def test_every_missing_or_short_file_is_named(tmp_path, damaged_source):
    paths = [path.relative_to(damaged_source) for path, _ in files(damaged_source, Manifest.read(damaged_source))]
    assert len(paths) > 20
    folder = tmp_path / "c"
    shutil.copytree(damaged_source, folder)
    for path in paths:
        whole = (folder / path).read_bytes()
        (folder / path).unlink()
        with pytest.raises(CollectionError, match=f"{path.name} is missing: restore it"):
            Snapshot.open(folder)
        assert Collection(folder).verify() == [f"{folder / path} is missing"]
        (folder / path).write_bytes(whole[:-1])
        with pytest.raises(CollectionError, match=f"has {len(whole) - 1} bytes instead of {len(whole)}: restore it"):
            Snapshot.open(folder)
        (wrong,) = Collection(folder).verify()
        assert path.name in wrong
        (folder / path).write_bytes(whole)
    assert Collection(folder).verify() == []


def test_a_flipped_bit_anywhere_is_found_and_never_a_traceback(tmp_path, damaged_source):
    paths = [path.relative_to(damaged_source) for path, _ in files(damaged_source, Manifest.read(damaged_source))]
    folder, draw = tmp_path / "c", random.Random(0)
    shutil.copytree(damaged_source, folder)
    for path in paths:
        whole = (folder / path).read_bytes()
        for position in [*draw.sample(range(min(len(whole), 128)), 6), draw.randrange(len(whole))]:
            spoiled = bytearray(whole)
            spoiled[position] ^= 1 << draw.randrange(8)
            (folder / path).write_bytes(spoiled)
            (wrong,) = Collection(folder).verify()
            assert wrong == f"{folder / path} has another checksum: its content changed after it was written"
            try:
                Snapshot.open(folder)
            except CollectionError as error:
                assert "\n" not in str(error)
                assert "polyseek verify" in str(error)
        (folder / path).write_bytes(whole)


def test_files_that_contradict_each_other_are_found(tmp_path):
    # Two collections' parts under one manifest, with the checksums that belong to it.
    from index.segment import describe

    folder = tmp_path / "c"
    build(folder, documents(6))
    build(tmp_path / "other", documents(4))
    manifest = Manifest.read(folder)
    segment, other = (f / "segments" / "000001" for f in (folder, tmp_path / "other"))
    for name in ("languages.npy", "bm25.lengths.npy", "dense.values.npy", "dense.offsets.npy"):
        shutil.copy(other / name, segment / name)
        entry = dict(manifest.segments[0])
        entry["files"] = {p.name: describe(p) for p in segment.iterdir()}
        manifest.next(segments=(entry,)).commit(folder)
    wrong = Collection(folder).verify()
    assert wrong
    assert "4" in wrong[0]
    assert "6" in wrong[0]


def test_an_id_that_lives_twice_is_found(tmp_path):
    folder = tmp_path / "c"
    build(folder, documents(4))
    manifest = Manifest.read(folder)
    shutil.copytree(folder / "segments" / "000001", folder / "segments" / "000002")
    manifest.next(segments=(*manifest.segments, {**manifest.segments[0], "name": "000002"})).commit(folder)
    assert Collection(folder).verify() == [f"{folder}: 4 document ids occur twice"]


# --- readers and writers at once


def test_a_snapshot_answers_on_whatever_the_writer_does(tmp_path, small_batches):
    given = documents(20)
    build(tmp_path / "c", given)
    untouched, used, wanted = Snapshot.open(tmp_path / "c"), Snapshot.open(tmp_path / "c"), None
    wanted = hits(used)
    collection = Collection(tmp_path / "c")
    collection.add([Document(d.id, "ganz anders", lang="de") for d in given[:10]], WRITING)
    collection.delete([d.id for d in given[15:]])
    collection.compact()
    same_hits(hits(used), wanted, tolerance=0)
    same_hits(hits(untouched), wanted, tolerance=0)  # nothing was asked of it while its files were there
    assert [untouched.document(row).text for row in range(20)] == [d.text for d in given]
    shutil.rmtree(tmp_path / "c")
    same_hits(hits(untouched), wanted, tolerance=0)


def test_threads_search_while_one_writes_and_readers_open_while_it_compacts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENTS", 2)
    given = documents(40)
    build(tmp_path / "c", given)
    done, failures = threading.Event(), []

    def read(number):
        held = Snapshot.open(tmp_path / "c")
        wanted = hits(held)
        while not done.is_set():
            try:
                same_hits(hits(held), wanted, tolerance=0)
                opened = Snapshot.open(tmp_path / "c")
                assert len(opened) >= 40
                assert len({x for x, _ in hits(opened)["bm25", "mbwa"]}) <= 10
                if number == 0:
                    assert Collection(tmp_path / "c").verify() == []
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    collection = Collection(tmp_path / "c")
    try:
        for i in range(6):
            collection.add(documents(3, seed=i, prefix=f"n{i}-"), ATOMIC)
            collection.add([Document(given[i].id, f"neu {i}", lang="de")], ATOMIC)
            collection.compact()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(Snapshot.open(tmp_path / "c")) == 58


def test_threads_share_one_view(tmp_path):
    snapshot, views, barrier = build(tmp_path / "c", documents(10)), [], threading.Barrier(8)

    def ask():
        barrier.wait()
        views.append((snapshot.bm25, snapshot.dense, snapshot.late))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(views)) == 1


def test_the_second_of_two_writers_is_told_at_once(tmp_path):
    build(tmp_path / "c", documents(3))
    inside, go_on, collection = threading.Event(), threading.Event(), Collection(tmp_path / "c")

    def slow():
        inside.set()
        assert go_on.wait(20)
        yield from documents(1, prefix="x")

    writer = threading.Thread(target=lambda: collection.add(slow(), WRITING))
    writer.start()
    assert inside.wait(20)
    try:
        for work in (lambda: collection.add(documents(1), WRITING), lambda: collection.delete(["a"]), collection.compact):
            with pytest.raises(CollectionError, match="somebody else is writing to .*: try again when that is done"):
                work()
        assert collection.verify() == []  # reading goes on
    finally:
        go_on.set()
        writer.join()
    assert len(Snapshot.open(tmp_path / "c")) == 4


def test_two_who_make_the_same_collection_do_not_undo_each_other(tmp_path):
    folder, outcomes, barrier = tmp_path / "c", [], threading.Barrier(4)

    def make(i):
        barrier.wait()
        try:
            build(folder, documents(3, prefix=f"w{i}-"))
            outcomes.append(i)
        except (CollectionError, UsageError):
            outcomes.append(None)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [i for i in outcomes if i is not None] or [None]
    if winner is not None:
        assert Snapshot.open(folder).row(f"w{winner}-0000") is not None
    assert Collection(folder).verify() == []


# --- disks and permissions


def run(code, *arguments):
    """Run code in a process of its own; it may lower its limits and rights."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("limit", [300, 3_000, 20_000])
@pytest.mark.parametrize("atomic", [False, True])
def test_a_full_disk_is_one_line_and_the_next_run_finishes(tmp_path, small_batches, limit, atomic):
    folder = tmp_path / "c"
    build(folder, documents(8))
    large = [Document(f"big{i}", "wort " * 200 * (i // 4), lang="de") for i in range(20)]
    code = """
        import resource, signal, sys
        from pathlib import Path
        from data.errors import PolyseekError
        from data.records import Document
        from index import collection as module
        from tests.index.toy import ToyEncoder, identify
        module.BATCH_DOCUMENTS = 4
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        large = [Document(f"big{i}", "wort " * 200 * (i // 4), lang="de") for i in range(20)]
        writing = module.Writing(ToyEncoder(), identify, atomic=sys.argv[3] == "True")
        try:
            module.Collection(Path(sys.argv[1])).add(large, writing)
        except PolyseekError as error:
            print(error)
    """
    told = run(code, folder, limit, atomic)
    assert told.count("\n") == 1
    assert "the disk is full" in told
    assert "free some space and run it again" in told
    assert Collection(folder).verify() == []
    assert set(state(folder)) == named(folder)
    assert len(Snapshot.open(folder)) == 8 or not atomic
    Collection(folder).add(large, Writing(ToyEncoder(), identify, atomic=atomic))
    same_answers(Snapshot.open(folder), build(tmp_path / "fresh", [*documents(8), *large]))


@pytest.fixture
def public_folder():
    """A folder that somebody without any rights can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_folder_without_the_right_to_write_can_be_searched_and_says_so_to_writers(public_folder):
    build(public_folder / "c", documents(8))
    for path in [public_folder, *public_folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(public_folder / "c")
    code = """
        import os, sys
        from pathlib import Path
        from data.errors import PolyseekError
        from index.collection import Collection, Writing
        from index.snapshot import Snapshot
        from tests.index.toy import VIEWS, ToyEncoder, build, documents, hits, identify
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        folder = Path(sys.argv[1])
        assert len(hits(Snapshot.open(folder))["dense True", "mbwa"]) == 8
        collection = Collection(folder)
        assert collection.verify() == []
        for work in (
            lambda: collection.add(documents(1, prefix="x"), Writing(ToyEncoder(), identify)),
            lambda: collection.delete(["d0000"]),
            collection.compact,
            lambda: Collection.create(folder.with_name("new"), VIEWS, ToyEncoder()),
        ):
            try:
                work()
            except PolyseekError as error:
                print(error)
    """
    told = run(code, public_folder / "c").splitlines()
    assert len(told) == 4
    for line in told:
        assert line.startswith("cannot write to ")
        assert "Permission denied" in line
        assert "check the folder's permissions" in line
    assert state(public_folder / "c") == before


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_collection_that_may_not_be_read_says_so(public_folder):
    build(public_folder / "c", documents(8))
    code = """
        import os, sys
        from pathlib import Path
        from data.errors import CollectionError
        from index.snapshot import Snapshot
        path = Path(sys.argv[1])
        path.chmod(0)
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            Snapshot.open(Path(sys.argv[2]))
        except CollectionError as error:
            print(error)
    """
    for name in ("segments/000001/hashes.npy", "manifest.json"):
        told = run(code, public_folder / "c" / name, public_folder / "c")
        assert told.count("\n") == 1
        assert "cannot read" in told
        assert "Permission denied" in told


def test_a_word_has_one_vector():
    np.testing.assert_array_equal(word_vector("สุนัข"), word_vector("สุนัข"))
