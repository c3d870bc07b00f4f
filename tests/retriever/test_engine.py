import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from data.errors import CollectionError, EncoderError, InputError, NotFoundError, UsageError
from data.records import Document, Query
from index.adding import Progress
from index.collection import Collection
from retriever import engine as module
from retriever.encoder import Encoder
from retriever.engine import BuildSettings, Engine, build_collection

DOCUMENTS = [
    Document("en", "The coral reef turns white when the sea is warm.", lang="en"),
    Document("de", "Das Riff wird weiß, wenn das Meer warm ist."),
    Document("sw", "Mbweha anaruka juu ya uzio wa bustani."),
    Document("zh", "海水变暖时珊瑚会变白。", lang="zh"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("engine") / "c"
    build_collection(DOCUMENTS, folder, BuildSettings(encoder=str(tiny_folder)))
    return folder


@pytest.fixture(scope="module")
def engine(built):
    return Engine.open(built)


@pytest.fixture
def lexical(tmp_path):
    build_collection(DOCUMENTS, tmp_path / "bm25", BuildSettings(views=["bm25"]))
    return Engine.open(tmp_path / "bm25")


@pytest.mark.parametrize(
    ("views", "modes"),
    [
        (["bm25"], ("bm25",)),
        (["dense"], ("dense",)),
        (["late"], ("late",)),
        (["dense", "bm25"], ("hybrid", "dense", "bm25")),
        (["late", "bm25"], ("hybrid", "cascade", "late", "bm25")),
        (["late", "dense"], ("hybrid", "cascade", "dense", "late")),
        (["bm25", "dense", "late"], ("hybrid", "cascade", "dense", "late", "bm25")),
    ],
    ids=str,
)
def test_the_modes_are_those_that_the_views_allow(tmp_path, tiny_folder, views, modes):
    build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(views=views, encoder=str(tiny_folder)))
    opened = Engine.open(tmp_path / "c")
    assert opened.modes == modes
    assert set(opened.views) == set(views)
    assert (opened.encoder is None) == (views == ["bm25"])
    for mode in modes:
        assert opened.retriever(mode).search(["reef"], 4)[0][0].id in {"en", "de", "sw", "zh"}
    for mode in set(module.MODES) - set(modes):
        with pytest.raises(UsageError, match=f"cannot search with {mode}: it has "):
            opened.retriever(mode)


def test_an_unknown_mode_is_refused_with_the_choice(engine):
    with pytest.raises(UsageError, match="unknown mode 'exact': choose from hybrid, cascade, dense, late, bm25"):
        engine.retriever("exact")


def test_stages_by_hand():
    assert module.stages("late") == [("late", None)]
    assert module.stages("bm25@200:hybrid:late") == [("bm25", 200), ("hybrid", None), ("late", None)]


@pytest.mark.parametrize(
    "wrong", ["", ":", "bm25:", "bm25@0:late", "bm25@-1:late", "bm25@x:late", "bm25@:late", "bm25@1e3:late", "x:late"]
)
def test_what_is_no_cascade_is_refused(engine, wrong):
    with pytest.raises(UsageError, match=f"unknown mode '{wrong}': choose from .*, or a cascade, bm25@200:late"):
        engine.retriever(wrong)


@pytest.mark.parametrize("wrong", ["late@5", "bm25:late@5", "cascade:late", "bm25:cascade"])
def test_a_last_stage_hands_nothing_on_and_none_is_a_cascade(wrong):
    with pytest.raises(UsageError, match=f"'{wrong}' is no cascade"):
        module.stages(wrong)


def test_languages_are_identified_once_and_kept(engine):
    rows = {document.id: engine.snapshot.row(document.id) for document in DOCUMENTS}
    assert {identity: engine.snapshot.language(row) for identity, row in rows.items()} == {
        "en": "en", "de": "de", "sw": "sw", "zh": "zh",
    }  # fmt: skip
    assert engine.identify("Wann wird das Riff weiß?") == "de"
    assert engine.identify("42") == ""


def test_information_can_be_written_as_json(engine):
    told = json.loads(json.dumps(engine.info()))
    assert told["documents"] == 4
    assert told["modes"] == ["hybrid", "cascade", "dense", "late", "bm25"]


def test_an_explanation_has_rank_and_score_of_every_view(engine):
    query = Query("coral reef", "en")
    (hits,) = engine.retriever("hybrid").search([query], 3)
    told = engine.explain(query, hits, using="hybrid")
    assert json.loads(json.dumps(told)) == told
    assert (told["language"], told["neutral"]) == ("en", True)
    assert "coral" in told["terms"]
    assert list(told["hits"]) == [hit.id for hit in hits]
    for view in ("bm25", "dense", "late"):
        (found,) = engine.retriever(view).search([query], 4)
        places = {hit.id: {"rank": rank, "score": hit.score} for rank, hit in enumerate(found, 1)}
        assert {identity: views[view] for identity, views in told["hits"].items()} == {
            hit.id: places.get(hit.id) for hit in hits
        }


def test_an_explanation_of_one_view_has_that_view(engine):
    (hits,) = engine.retriever("late", neutral=False).search(["reef"], 2)
    told = engine.explain(Query("reef"), hits, using="late", neutral=False)
    assert told["hits"] == {hit.id: {"late": {"rank": n, "score": hit.score}} for n, hit in enumerate(hits, 1)}
    assert told["neutral"] is False
    assert engine.explain(Query(""), [], using="late")["hits"] == {}


def test_an_explanation_counts_ranks_inside_the_filter(engine):
    rows = engine.snapshot.select((), ("sw",))
    (hits,) = engine.retriever("hybrid").search(["coral reef"], 2, within=[rows])
    told = engine.explain(Query("coral reef"), hits, using="hybrid", within=rows)
    assert told["hits"]["sw"]["dense"]["rank"] == told["hits"]["sw"]["late"]["rank"] == 1


def test_warming_searches_and_changes_nothing(lexical):
    before = lexical.info()
    lexical.warm()
    assert lexical.info() == before
    lexical.delete([document.id for document in DOCUMENTS])
    lexical.warm()  # nothing to search for
    assert lexical.info()["documents"] == 0


def test_warming_asks_for_the_beginning_of_a_long_document_alone(tmp_path, tiny_folder):
    book = Document("book", "coral reef " * 2_000, lang="en")
    build_collection([book], tmp_path / "c", BuildSettings(encoder=str(tiny_folder)))
    opened = Engine.open(tmp_path / "c")
    opened.warm()  # compiles
    started = time.perf_counter()
    opened.warm()
    warmed = time.perf_counter()
    opened.retriever("hybrid").search([book.text], 1)
    assert warmed - started < (time.perf_counter() - warmed) / 5


def test_adding_and_deleting_swap_the_snapshot(lexical):
    before, retriever = lexical.snapshot, lexical.retriever("bm25")
    report = lexical.add([Document("new", "coral"), DOCUMENTS[0], Document("zh", "珊瑚", lang="zh")])
    assert (report.added, report.updated, report.unchanged) == (1, 1, 1)
    assert len(before) == 4
    assert len(lexical.snapshot) == 5
    assert [hit.id for hit in retriever.search(["coral"], 9)[0]] == ["en"]  # still the state that it was made for
    assert {hit.id for hit in lexical.retriever("bm25").search(["coral"], 9)[0]} == {"en", "new"}
    assert lexical.delete(["new", "en", "unknown"]) == 2
    assert lexical.retriever("bm25").search(["coral"], 9) == [[]]
    assert len(Engine.open(lexical.folder).snapshot) == 3


def test_an_add_that_fails_changes_nothing(lexical):
    def documents():
        yield Document("new", "coral")
        raise InputError("line 2: broken")

    before = lexical.snapshot
    with pytest.raises(InputError, match="line 2"):
        lexical.add(documents())
    with pytest.raises(InputError, match="'twice'"):
        lexical.add([Document("twice", "coral"), Document("twice", "reef")])
    assert lexical.snapshot is before
    assert len(Engine.open(lexical.folder).snapshot) == 4
    assert Collection(lexical.folder).verify() == []


def test_searches_see_whole_states_while_documents_come_and_go(tmp_path, tiny_folder):
    # Batches of ten come in one commit each and go in one commit each: what is found is a multiple of ten.
    def batch(n):
        return [Document(f"{n}-{i}", f"beacon {n} {i}", lang="en") for i in range(10)]

    build_collection(batch(0), tmp_path / "c", BuildSettings(encoder=str(tiny_folder)))
    opened = Engine.open(tmp_path / "c")
    done = []

    def write():
        for n in range(1, 6):
            opened.add(batch(n))
            if n % 2:
                opened.delete([f"{n - 1}-{i}" for i in range(10)])
        done.append(True)

    def search(mode):
        seen = set()
        while True:
            last = bool(done)
            (hits,) = opened.retriever(mode).search(["beacon"], 1000)
            found = [hit.id.split("-")[0] for hit in hits]
            assert len(set(hit.id for hit in hits)) == len(hits)
            assert all(found.count(n) == 10 for n in set(found)), found
            seen.add(frozenset(found))
            if last:
                return seen

    with ThreadPoolExecutor(9) as pool:
        searches = [pool.submit(search, mode) for mode in ("bm25", "dense", "late", "hybrid") * 2]
        pool.submit(write).result()
        states = set().union(*(found.result() for found in searches))
    assert frozenset({"1", "3", "5"}) in states
    assert len(states) > 1


def test_the_wrong_encoder_is_refused_with_both_fingerprints(built, late_folder, tiny_folder, backbone, tiny, tmp_path):
    other = Encoder.load(str(backbone)).fingerprint
    with pytest.raises(CollectionError) as caught:
        Engine.open(built, str(backbone))
    message = str(caught.value)
    assert tiny.fingerprint["weights"] in message
    assert other["weights"] in message
    assert "\n" not in message
    with pytest.raises(CollectionError):
        build_collection(DOCUMENTS, built, BuildSettings(encoder=str(late_folder)))
    assert len(Engine.open(built, str(tiny_folder)).snapshot) == 4


def test_the_same_encoder_may_lie_elsewhere(built, tiny_folder, tmp_path, engine):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(tiny_folder)
    assert Engine.open(built, str(moved)).modes == engine.modes


def test_one_backend_reads_what_another_wrote(tiny_folder, tmp_path):
    build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(encoder=str(tiny_folder), backend="torch"))
    whole, floats = (Engine.open(tmp_path / "c", backend=backend) for backend in ("int16", "torch"))
    for mode in ("dense", "late"):
        found, wanted = (e.retriever(mode).search(["reef"], 4)[0] for e in (whole, floats))
        assert [hit.id for hit in found] == [hit.id for hit in wanted]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=0.02)


def test_a_folder_without_a_collection(tmp_path):
    with pytest.raises(NotFoundError, match="holds no collection"):
        Engine.open(tmp_path)


@pytest.fixture
def encoded(monkeypatch):
    """Count what the real encoder encodes."""
    texts = []

    class Counting(Encoder):
        def tokenize(self, given, languages=None):
            texts.extend(given)
            return super().tokenize(given, languages)

    monkeypatch.setattr(module, "Encoder", Counting)
    return texts


def test_building_again_encodes_nothing(tmp_path, tiny_folder, encoded):
    first = build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(encoder=str(tiny_folder)))
    assert (first.added, first.updated, first.unchanged) == (4, 0, 0)
    assert len(encoded) == 4
    again = build_collection(DOCUMENTS, tmp_path / "c")  # with the encoder that the collection names
    assert (again.added, again.updated, again.unchanged) == (0, 0, 4)
    assert len(encoded) == 4
    changed = build_collection([*DOCUMENTS[:3], Document("zh", "新的")], tmp_path / "c")
    assert (changed.added, changed.updated, changed.unchanged) == (0, 1, 3)
    assert encoded[4:] == ["新的"]


def test_a_build_that_stopped_goes_on_where_it_stopped(tmp_path, tiny_folder, encoded, monkeypatch):
    monkeypatch.setattr("index.adding.BATCH_DOCUMENTS", 10)
    documents = [Document(f"d{n}", f"reef {n}", lang="en") for n in range(35)]

    def interrupted():
        yield from documents[:25]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_collection(interrupted(), tmp_path / "c", BuildSettings(encoder=str(tiny_folder)))
    assert Collection(tmp_path / "c").verify() == []
    assert len(Engine.open(tmp_path / "c").snapshot) == 20
    told = []
    report = build_collection(documents, tmp_path / "c", on_progress=told.append)
    assert (report.added, report.unchanged) == (15, 20)
    assert [progress.documents for progress in told] == [10, 20, 30, 35, 35]
    assert [progress.unchanged for progress in told] == [10, 20, 20, 20, 20]
    assert told[-1].tokens == report.tokens > 15 * 3
    assert len(Engine.open(tmp_path / "c").snapshot) == 35


def test_progress_becomes_steps_and_a_note():
    told = []
    on_progress = module.steps(lambda count, note: told.append((count, note)))
    for progress in [
        Progress(3, 3),
        Progress(5, 3, 40),
        Progress(9, 3, 90, 2),
        Progress(9, 3, 90, 2, merging=True),
    ]:
        on_progress(progress)
    assert [count for count, _ in told] == [3, 2, 4, 0]
    assert [re.sub(r"[\d,]+ tokens/s", "N tokens/s", note) for _, note in told] == [
        "", "", "N tokens/s, 2 in windows", "N tokens/s, 2 in windows, merging segments"
    ]  # fmt: skip


def test_a_collection_keeps_its_views(built, tmp_path, tiny_folder):
    with pytest.raises(UsageError, match="exists with the views bm25,dense,late"):
        build_collection(DOCUMENTS, built, BuildSettings(views=["bm25"]))
    build_collection(DOCUMENTS, built, BuildSettings(views=["late", "bm25", "dense"]))  # the order does not matter


def test_a_collection_keeps_its_token_pooling(tmp_path, tiny_folder):
    few, all_of_them = tmp_path / "few", tmp_path / "all"
    build_collection(DOCUMENTS[:2], few, BuildSettings(encoder=str(tiny_folder), token_pooling=2))
    build_collection(DOCUMENTS[2:], few)
    build_collection(DOCUMENTS, all_of_them, BuildSettings(encoder=str(tiny_folder)))
    pooled, whole = Engine.open(few), Engine.open(all_of_them)
    counts = [sum(len(segment.vectors["late"].values) for segment in one.snapshot.segments) for one in (pooled, whole)]
    assert counts[0] < 0.6 * counts[1]
    (hits,) = pooled.retriever("late").search([Query("海水变暖时珊瑚会变白。", "zh")], 10)
    assert {hit.id for hit in hits} == {"en", "de", "sw", "zh"}
    with pytest.raises(UsageError, match="exists with token pooling 2"):
        build_collection(DOCUMENTS, few, BuildSettings(token_pooling=3))


@pytest.mark.parametrize("factor", [0, 0.5, -1, float("nan"), float("inf")])
def test_impossible_token_pooling_is_refused_and_leaves_nothing(tmp_path, tiny_folder, factor):
    with pytest.raises(UsageError, match="token pooling"):
        build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(encoder=str(tiny_folder), token_pooling=factor))
    assert not (tmp_path / "c").exists()


def test_token_pooling_without_a_late_view_is_refused(tmp_path, lexical):
    for folder in (tmp_path / "c", lexical.folder):
        with pytest.raises(UsageError, match="token pooling"):
            build_collection(DOCUMENTS, folder, BuildSettings(views=["bm25"], token_pooling=2))


def test_views_that_no_encoder_makes(tmp_path, late_folder):
    with pytest.raises(UsageError, match="makes no dense vectors: leave them out of --views"):
        build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(encoder=str(late_folder)))
    assert not (tmp_path / "c").exists()
    build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(views=["late"], encoder=str(late_folder)))
    assert Engine.open(tmp_path / "c").modes == ("late",)


def test_an_encoder_that_cannot_be_loaded_leaves_nothing(tmp_path):
    with pytest.raises(EncoderError):
        build_collection(DOCUMENTS, tmp_path / "c", BuildSettings(encoder=str(tmp_path)))
    assert not (tmp_path / "c").exists()


def test_a_document_id_twice_is_refused(tmp_path):
    numbers = count()
    documents = (Document(f"d{next(numbers) % 3}", "reef") for _ in range(5))
    with pytest.raises(InputError, match="'d0' stands twice"):
        build_collection(documents, tmp_path / "c", BuildSettings(views=["bm25"]))
    assert Collection(tmp_path / "c").verify() == []


def test_the_demo_answers_across_languages(demo_engine):
    (hits,) = demo_engine.retriever("hybrid").search(["What makes corals turn white?"], 10)
    languages = {demo_engine.snapshot.language(demo_engine.snapshot.row(hit.id)) for hit in hits}
    assert len(hits) == 10
    assert len(languages) > 2
