import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.errors import CollectionError, InputError
from data.records import Document
from index import adding
from index import collection as module
from index.adding import Progress, Writing
from index.collection import Collection
from index.manifest import Manifest
from index.segment import VIEWS
from index.snapshot import Snapshot
from tests.index.test_segment import HARD
from tests.index.toy import (
    WORDS,
    ToyEncoder,
    build,
    documents,
    hits,
    identify,
    named,
    prior,
    same_answers,
    same_hits,
    state,
)

WRITING = Writing(ToyEncoder(), identify)
ATOMIC = Writing(ToyEncoder(), identify, atomic=True)
ROOT = Path(__file__).parents[2]


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

        def encode(self, tokenized, on_progress=None):
            self.encoded += len(tokenized.words)
            return super().encode(tokenized, on_progress)

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


@pytest.mark.parametrize("seed", range(5))
def test_any_history_ends_like_a_fresh_build_of_what_is_left(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(adding, "BATCH_DOCUMENTS", 5)
    monkeypatch.setattr(module, "SEGMENTS", 3)
    encoder = ToyEncoder(priors={"dense": prior(1), "late": prior(2)})
    draw, left = random.Random(seed), {}
    collection = Collection.create(tmp_path / "c", VIEWS, encoder)
    for step in range(10):
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
    assert all(snapshot.document(snapshot.row(x)).text == d.text for x, d in left.items())
    fresh = build(
        tmp_path / "fresh", draw.sample(sorted(left.values(), key=lambda d: d.id), len(left)), encoder=encoder
    )
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


def test_one_batch_is_one_commit_and_atomic_is_one_for_all(tmp_path, small_batches):
    given = documents(22)
    collection = Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    collection.add(given, WRITING)
    assert Manifest.read(tmp_path / "c").generation == 6
    generations = []

    def watch(_):
        generations.append(Manifest.read(tmp_path / "c").generation)

    more = [Document(d.id, d.text + " x", lang=d.lang) for d in documents(6)]
    collection.add(more, Writing(ToyEncoder(), identify, atomic=True, on_progress=watch))
    assert set(generations) == {6}
    assert Manifest.read(tmp_path / "c").generation == 7


def test_progress_tells_documents_tokens_and_windows(tmp_path, small_batches):
    given, seen = [*documents(9), Document("long", "a b c d e f", lang="en")], []
    collection = Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    collection.add(given[:4], WRITING)
    report = collection.add(given, Writing(ToyEncoder(), identify, on_progress=seen.append))
    words = [sum(len(d.content().split()) for d in given[start:]) for start in (4, 8)]
    split = [sum(len(d.content().split()) > 5 for d in given[4:stop]) for stop in (8, 10)]
    assert seen == [
        Progress(4, 4, 0, 0),
        Progress(8, 4, words[0] - words[1], split[0]),
        Progress(10, 4, words[0], split[1]),
        Progress(10, 4, words[0], split[1], merging=True),
    ]
    assert (report.total, report.unchanged, report.tokens, report.split) == (10, 4, words[0], split[1])
    assert split[1] > 0


def test_a_batch_ends_after_so_many_characters(monkeypatch):
    monkeypatch.setattr(adding, "BATCH_CHARACTERS", 10)
    given = [Document(str(i), "x" * n, title="t") for i, n in enumerate([4, 4, 30, 1, 1])]
    assert [[d.id for d in batch] for batch in adding.batches(given)] == [["0", "1"], ["2"], ["3", "4"]]


def test_documents_are_read_one_batch_at_a_time(tmp_path, small_batches):
    read, encoded = [], []

    def source():
        for document in documents(24):
            read.append(document.id)
            yield document

    writing = Writing(ToyEncoder(), identify, on_progress=lambda done: encoded.append((done.documents, len(read))))
    Collection.create(tmp_path / "c", VIEWS, ToyEncoder()).add(source(), writing)
    assert [done for done, _ in encoded[:-1]] == [4, 8, 12, 16, 20, 24]
    assert all(done <= ahead <= done + 4 for done, ahead in encoded)  # the next batch is read meanwhile


def test_many_small_adds_stay_few_segments(tmp_path, small_batches, monkeypatch):
    monkeypatch.setattr(module, "SEGMENTS", 2)
    given = documents(14)
    collection = Collection.create(tmp_path / "c", VIEWS, ToyEncoder())
    for document in given:
        collection.add([document], ATOMIC)
        assert len(Manifest.read(tmp_path / "c").segments) <= 4  # or log2(14) + 1 = 4.8
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

        def encode(self, tokenized, on_progress=None):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("out of memory")
            return super().encode(tokenized, on_progress)

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


def test_half_a_character_is_no_id(tmp_path):
    snapshot = build(tmp_path / "c", documents(5))
    assert snapshot.row("\ud800") is None
    assert Collection(tmp_path / "c").delete(["\udcff", "d0001"]) == 1
