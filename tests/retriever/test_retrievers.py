from dataclasses import dataclass

import numpy as np
import pytest

from data.errors import InputError
from data.records import Document, Hit, Query
from index.ranking import NOTHING, Ranked
from index.regularization import FAR, NEAR
from retriever.engine import BuildSettings, Engine, build_collection
from retriever.retrievers import Fusion, Regularized

ALL = ("bm25", "dense", "late", "hybrid", "cascade")
SAME = "the same words stand here"
DOCUMENTS = [
    Document("en1", "The coral reef turns white when the sea is warm.", lang="en"),
    Document("en2", "A fox jumps over the fence and into the sea.", lang="en"),
    Document("en3", "Fishes leave the reef.", title="Fishes", lang="en"),
    Document("de1", "Das Riff wird weiß, wenn das Meer warm ist.", lang="de"),
    Document("de2", "Ein Fuchs springt über den Zaun ins Meer.", lang="de"),
    Document("sw1", "Bahari ikipata joto matumbawe huwa meupe.", lang="sw"),
    Document("ar1", "تبيض الشعاب المرجانية عندما يسخن البحر", lang="ar"),
    Document("th1", "ปะการังฟอกขาวเมื่อน้ำทะเลอุ่น", lang="th"),
    Document("zh1", "海水变暖时珊瑚会变白。", lang="zh"),
    Document("🪸/é", "🪸🐟 emoji live in the reef", lang="en"),
    *(Document(identity, SAME, lang="en") for identity in ("t1", "t10", "t2", "T3")),
]
TIED = ["t2", "t10", "t1", "T3"]  # descending
LANGUAGES = {document.id: document.lang for document in DOCUMENTS}


def open_engine(documents, folder, model):
    # In whole numbers a vector does not depend on what is encoded beside it, so neither does the order of near ties.
    build_collection(documents, folder, BuildSettings(encoder=str(model), backend="int16"))
    return Engine.open(folder, backend="int16")


@pytest.fixture(scope="module")
def engine(tmp_path_factory, tiny_folder):
    return open_engine(DOCUMENTS, tmp_path_factory.mktemp("x") / "コレクション é 🪸", tiny_folder)


@pytest.fixture(params=ALL)
def using(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["neutral", "as is"])
def retriever(request, engine, using):
    return engine.retriever(using, neutral=request.param)


def ids(hits):
    return [hit.id for hit in hits]


def test_hits_are_real_distinct_and_in_order(retriever, using):
    for hits in retriever.search(["the reef in the sea", "Meer", "珊瑚", "البحر"], 5):
        assert 0 < len(hits) <= 5
        assert all(isinstance(hit, Hit) and type(hit.id) is str and type(hit.score) is float for hit in hits)
        assert len(set(ids(hits))) == len(hits)
        assert set(ids(hits)) <= set(LANGUAGES)
        assert hits == sorted(hits, key=lambda hit: (hit.score, hit.id), reverse=True)


def test_more_hits_than_documents(retriever, using):
    (hits,) = retriever.search(["sea reef"], 1000)
    if using == "bm25":
        assert set(ids(hits)) == {"en1", "en2", "en3", "🪸/é"}  # all that have one of the words
    else:
        assert sorted(ids(hits)) == sorted(LANGUAGES)
    assert retriever.search(["sea reef"], 10**12) == [hits]


def test_fewer_hits_are_the_first_of_more(retriever):
    (hits,) = retriever.search(["the white reef in the sea"], 14)
    for k in range(1, 8):
        assert retriever.search(["the white reef in the sea"], k)[0] == hits[:k]


@pytest.mark.parametrize("k", [0, -1])
def test_no_hits_wanted(retriever, k):
    assert retriever.search(["reef", "sea"], k) == [[], []]


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000"])
def test_a_blank_query_finds_nothing(retriever, text):
    found = retriever.search([text, "reef", Query(text, "de")], 3)
    assert found[0] == found[2] == []
    assert found[1] == retriever.search(["reef"], 3)[0]


def test_unknown_words(retriever, using):
    (hits,) = retriever.search(["zxqv wvyk"], 3)
    assert len(hits) == (0 if using == "bm25" else 3)


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧🏽 🪸 🇩🇪",
        "\u202eשונית האלמוגים\u202c",
        "تبيض الشعاب المرجانية",
        "e\u0301\u0301 ក្ខ្ម ปะการัง",
        "\U00013000\U00013001",
        "\x00 \x7f \ufffd",
        "?!*:()[]{}\"'\\/^~",
        "</s><mask><s>",
    ],
    ids=lambda text: ascii(text[:10]),
)
def test_any_text_is_a_query(retriever, text):
    (hits,) = retriever.search([text], 5)
    assert len(hits) <= 5
    assert all(np.isfinite(hit.score) for hit in hits)


def test_a_query_of_10000_characters(engine, using):
    (hits,) = engine.retriever(using).search(["海水变暖时珊瑚会变白" * 1000], 3)
    assert len(hits) == (1 if using == "bm25" else 3)


def test_a_long_query_is_read_to_its_end(engine):
    begin = "zxqv " * 100
    assert engine.retriever("bm25").search([begin + "matumbawe"], 1)[0][0].id == "sw1"
    one, other = engine.retriever("dense").search([begin + "reef " * 30, begin + "Meer " * 30], 14)
    assert one != other


def test_lists_in_lists_out(retriever):
    assert retriever.search([], 5) == []
    alone = retriever.search(["reef"], 3) + retriever.search(["Meer"], 3)
    together = retriever.search(["reef", "Meer"], 3)
    assert [[hit.id for hit in hits] for hits in together] == [[hit.id for hit in hits] for hits in alone]
    # PyTorch adds up in another order where texts of other lengths are in the batch: the last bit of a score.
    # A standard score has it in parts of a deviation.
    scores = [[hit.score for hit in hits] for hits in together]
    assert scores == [pytest.approx([hit.score for hit in hits], rel=1e-6, abs=3e-6) for hits in alone]
    assert retriever.search(("reef", "Meer"), 3) == together


def test_texts_and_queries_mix(retriever):
    known = retriever.search([Query("coral reef", "en", id="q1"), Query("das Meer ist warm", "de")], 4)
    assert retriever.search([Query("coral reef", "en"), "das Meer ist warm"], 4) == known


def test_a_query_in_a_language_that_no_document_has(retriever):
    found = retriever.search([Query("reef", "fi"), Query("reef", "xx"), Query("reef", "")], 3)
    assert [len(hits) for hits in found] == [3] * 3


def test_a_query_that_is_no_text_is_refused(retriever):
    with pytest.raises(InputError, match="a query holds a lone surrogate"):
        retriever.search(["reef", "\ud800"], 3)
    with pytest.raises(InputError, match="a query must be a string, got int"):
        retriever.search([Query(7)], 3)


def test_equal_texts_tie_and_the_greater_id_comes_first(retriever, using):
    (hits,) = retriever.search([SAME], 14)
    places = [place for place, hit in enumerate(hits) if hit.id in TIED]
    assert [hits[place].id for place in places] == TIED
    assert len({hits[place].score for place in places}) == 1
    assert places == list(range(places[0], places[0] + 4))
    k = places[1] + 1  # the cut goes through the tie
    assert retriever.search([SAME], k)[0] == hits[:k]


@pytest.mark.parametrize(
    ("chosen", "languages", "expected"),
    [
        ((), ("de",), {"de1", "de2"}),
        ((), ("sw", "th", "xx"), {"sw1", "th1"}),
        (("t1", "t2", "ar1", "unknown"), (), {"t1", "t2", "ar1"}),
        (("t1", "de2", "sw1"), ("de", "en"), {"t1", "de2"}),
        (("unknown",), (), set()),
        ((), ("xx",), set()),
        (("de1",), ("en",), set()),
    ],
)
def test_filters_are_exact(engine, retriever, using, chosen, languages, expected):
    rows = engine.snapshot.select(chosen, languages)
    query = Query("the sea, das Meer, same words, 海水", "en")
    (full,), (hits,) = retriever.search([query], 14), retriever.search([query], 14, within=[rows])
    if using == "bm25":
        expected = expected & set(ids(full))
    assert set(ids(hits)) == expected
    if using != "hybrid":  # which compares candidates, and those are the ones inside the filter
        assert ids(hits) == [identity for identity in ids(full) if identity in expected]
    for k in range(1, len(expected) + 1):
        assert retriever.search([query], k, within=[rows])[0] == hits[:k]


def test_every_query_has_its_own_filter(engine, retriever):
    german, english = engine.snapshot.select((), ("de",)), engine.snapshot.select((), ("en",))
    nothing = np.empty(0, np.int64)
    queries = ["Meer the sea", "Meer the sea", " ", "Meer the sea"]
    found = retriever.search(queries, 5, within=[german, english, german, nothing])
    assert found[0] == retriever.search(["Meer the sea"], 5, within=[german])[0]
    assert found[1] == retriever.search(["Meer the sea"], 5, within=[english])[0]
    assert {LANGUAGES[identity] for identity in ids(found[0])} == {"de"}
    assert {LANGUAGES[identity] for identity in ids(found[1])} == {"en"}
    assert found[2:] == [[], []]


def test_filters_for_another_number_of_queries_are_refused(engine, retriever):
    rows = engine.snapshot.select((), ("de",))
    with pytest.raises(ValueError, match="2 queries but 1 filters"):
        retriever.search(["a", "b"], 3, within=[rows])


def test_an_opened_collection_answers_as_before(engine, using):
    queries = ["the reef", Query("Meer", "de"), "海水变暖", "🪸"]
    one, other = (Engine.open(engine.folder, backend="int16").retriever(using).search(queries, 14) for _ in range(2))
    assert one == other
    assert [ids(hits) for hits in one] == [ids(hits) for hits in engine.retriever(using).search(queries, 14)]


def test_an_empty_collection_has_no_hits(using, tmp_path, tiny_folder):
    empty = open_engine([], tmp_path / "empty", tiny_folder)
    rows = empty.snapshot.select((), ("de",))
    assert empty.retriever(using).search(["reef", ""], 5) == [[], []]
    assert empty.retriever(using).search(["reef"], 5, within=[rows]) == [[]]


def test_one_document(using, tmp_path, tiny_folder):
    one = open_engine(DOCUMENTS[:1], tmp_path / "one", tiny_folder)
    assert [ids(hits) for hits in one.retriever(using).search(["reef", "coral"], 5)] == [["en1"], ["en1"]]
    one.delete(["en1"])
    assert one.retriever(using).search(["reef"], 5) == [[]]


def test_documents_without_text_are_no_trouble(using, tmp_path, tiny_folder):
    documents = [Document("blank", " "), Document("empty", ""), Document("unknown", "\U00013000"), DOCUMENTS[0]]
    (hits,) = open_engine(documents, tmp_path / "x", tiny_folder).retriever(using).search(["reef"], 5)
    assert "en1" in ids(hits)
    assert "blank" not in ids(hits)
    assert "empty" not in ids(hits)
    assert all(np.isfinite(hit.score) for hit in hits)


@dataclass(frozen=True)
class Fixed:
    """A ranker that knows its answer."""

    rankings: list

    def rank(self, queries, k, within):
        return [ranked if ranked is NOTHING else Ranked(ranked.rows[:k], ranked.scores[:k]) for ranked in self.rankings]


def ranked(*rows):
    return Ranked(np.array(rows, np.int64), np.linspace(1, 0, len(rows), dtype=np.float32))


def test_fusion_by_hand(engine):
    # Row 1 has nothing from the second: 0, its least. Standard scores 1.2247, 0, -1.2247 and -.7071, -.7071, 1.4142;
    # weights 1 and .5, over 1.5:  row 0: (1.2247 - .3536) / 1.5   row 1: -.3536 / 1.5   row 2: (-1.2247 + .7071) / 1.5
    one, other = Fixed([ranked(0, 1, 2), NOTHING]), Fixed([ranked(2, 0), NOTHING])
    fusion = Fusion(engine._sources(), [(one, 1.0), (other, 0.5)])
    first, second = fusion.rank([Query("x"), Query("y")], 10, None)
    assert first.rows.tolist() == [0, 1, 2]
    assert first.scores == pytest.approx([0.580794, -0.235702, -0.345092], abs=1e-6)
    assert len(second.rows) == 0
    assert fusion.rank([Query("x"), Query("y")], 2, None)[0].rows.tolist() == [0, 1]


def test_what_a_ranker_does_not_score_has_its_least_score(engine):
    # 0 is no least score where another is below: rows 1 and 2 are alike for the second ranker.
    below = Ranked(np.array([0, 1], np.int64), np.array([0.5, -0.5], np.float32))
    fusion = Fusion(engine._sources(), [(Fixed([ranked(0, 1, 2)]), 1.0), (Fixed([below]), 1.0)])
    (found,) = fusion.rank([Query("x")], 3, None)
    assert found.scores == pytest.approx(
        [(1.224745 + 1.414214) / 2, -0.707107 / 2, (-1.224745 - 0.707107) / 2], abs=1e-6
    )


def test_fusion_breaks_ties_by_id(engine):
    # Rows 3 and 4 are de1 and de2; each is first once and second once. Of one candidate there is no deviation.
    fusion = Fusion(engine._sources(), [(Fixed([ranked(3, 4)]), 1.0), (Fixed([ranked(4, 3)]), 1.0)])
    (found,) = fusion.rank([Query("x")], 2, None)
    assert engine.snapshot.ids(found.rows) == ["de2", "de1"]
    assert found.scores.tolist() == [0, 0]
    (alone,) = Fusion(engine._sources(), [(Fixed([ranked(3)]), 1.0)]).rank([Query("x")], 2, None)
    assert (alone.rows.tolist(), alone.scores.tolist()) == ([3], [0])


def test_scores_that_do_not_differ_count_nothing(engine):
    same = Ranked(np.arange(6), np.full(6, 0.1, np.float32))
    fusion = Fusion(engine._sources(), [(Fixed([same]), 1.0), (Fixed([ranked(*range(6))]), 1.0)])
    (found,) = fusion.rank([Query("x")], 6, None)
    assert found.rows.tolist() == list(range(6))
    assert found.scores.sum() == pytest.approx(0, abs=1e-6)


def fused(found, lexical, first=100):
    """Fuse what the views score, {view: {id: score}}, text by text."""
    tops = {view: sorted(scores, key=lambda x: scores[x], reverse=True)[:first] for view, scores in found.items()}
    candidates = {identity for top in tops.values() for identity in top}
    weights = {"bm25": lexical, "dense": 1.0, "late": 1.0}
    totals = dict.fromkeys(candidates, 0.0)
    for view, scores in found.items():
        least = min(0.0, *scores.values())
        own = {x: scores.get(x, least) for x in candidates}
        for x in candidates:
            totals[x] += weights[view] * (own[x] - np.mean(list(own.values()))) / np.std(list(own.values()))
    return {x: total / sum(weights.values()) for x, total in totals.items()}


@pytest.mark.parametrize(
    ("neutral", "lexical"),
    [
        (False, 1.0),
        # Of 14 documents 8 are English, 2 German, 1 each Swahili, Arabic, Thai, Chinese: (64 + 4 + 4 * 1) / 14 ** 2,
        # squared.
        (True, (72 / 196) ** 2),
    ],
)
def test_the_hybrid_is_the_fusion_of_what_the_views_find(engine, neutral, lexical):
    query = "the white reef in the warm sea"
    views = ("bm25", "dense", "late")
    found = {view: dict(engine.retriever(view, neutral=neutral).search([query], 100)[0]) for view in views}
    expected = fused(found, lexical)
    (hits,) = engine.retriever("hybrid", neutral=neutral).search([query], 14)
    means = averaged(engine, expected)
    assert means != pytest.approx(expected, abs=1e-2)
    assert dict(hits) == pytest.approx(means if neutral else expected, abs=1e-5)


@pytest.mark.parametrize("within", [False, True])
def test_every_view_scores_every_candidate(parallel, within):
    views, query = ("bm25", "dense", "late"), "warm reef"
    rows = [np.arange(3, 133)] if within else None

    def search(using, k):
        return dict(parallel.retriever(using, neutral=False).search([query], k, within=rows)[0])

    found = {view: search(view, 135) for view in views}
    assert len(found["dense"]) == len(found["late"]) == (130 if within else 135)
    expected = fused(found, 1.0)
    assert 100 < len(expected) < len(found["dense"])
    some = search("hybrid", 100)
    assert some == pytest.approx({x: expected[x] for x in some}, abs=1e-5)
    assert min(some.values()) >= sorted(expected.values(), reverse=True)[99] - 1e-5
    more = search("hybrid", 120)  # scores do not depend on how many are wanted
    assert {x: more[x] for x in some if x in more} == pytest.approx(some, abs=1e-5)


def averaged(engine, scores):
    """Average scores over translations, text by text."""
    rows = engine.snapshot.select(list(LANGUAGES))
    names = engine.snapshot.ids(rows)
    view = engine.snapshot.dense._rows
    vectors = dict(zip(names, view.read(rows, neutral=False).values, strict=True))
    about = {}
    for name, vector in vectors.items():
        centred = vector - view.centroids.mean(LANGUAGES[name])
        about[name] = centred / np.linalg.norm(centred)

    def nearest(name, language):
        others = [x for x in names if LANGUAGES[x] == language]
        return max(others, key=lambda x: about[name] @ about[x])

    means = {}
    for name, score in scores.items():
        total, weights = score, 1.0
        for language in set(LANGUAGES.values()) - {LANGUAGES[name]}:
            other = nearest(name, language)
            if about[other] @ about[name] >= about[other] @ about[nearest(other, LANGUAGES[name])] - 1e-5:
                weight = np.clip((about[name] @ about[other] - FAR) / (NEAR - FAR), 0, 1)
                weight = (1 - 72 / 196) * round(float(weight) * 256) / 256
                total, weights = total + weight * scores[other], weights + weight
        means[name] = score + min(1, (weights - 1) / 2) * (total / weights - score)
    return means


def test_an_explanation_has_scores_beyond_the_depth_of_fusion(parallel):
    query = Query("warm reef", "en")
    (hits,) = parallel.retriever("hybrid", neutral=False).search([query], 100)
    told = parallel.explain(query, hits[-40:], using="hybrid", neutral=False)["hits"]
    for view in ("bm25", "dense", "late"):
        scored = dict(parallel.retriever(view, neutral=False).search([query], 135)[0])
        ranks = {identity: rank for rank, identity in enumerate(scored, 1)}
        for identity, views in told.items():
            if identity in scored:
                assert views[view]["score"] == pytest.approx(scored[identity], abs=1e-6)
                assert views[view]["rank"] == (ranks[identity] if ranks[identity] <= 100 else None)
            else:
                assert views[view] is None
    assert any(views["dense"]["rank"] is None for views in told.values())


@dataclass(frozen=True)
class Knows:
    """A ranker that has a score for every row."""

    scores: np.ndarray
    asked: list

    def rank(self, queries, k, within):
        self.asked.append(None if within is None else [len(rows) for rows in within])
        allowed = [np.arange(len(self.scores))] * len(queries) if within is None else within
        orders = [rows[np.argsort(-self.scores[rows], kind="stable")][:k] for rows in allowed]
        return [Ranked(order, self.scores[order]) for order in orders]


def test_what_nobody_has_among_the_first_hundred_is_not_asked_about(parallel):
    # The second has row 130 in place 110, and row 110 nowhere: the least that it found, in place 119, is its score.
    one = np.linspace(1, 0, 135, dtype=np.float32)
    other = one.copy()
    other[[110, 130]] = one[[130, 110]]
    rankers = Knows(one, []), Knows(other, [])
    (found,) = Fusion(parallel._sources(), [(ranker, 1.0) for ranker in rankers]).rank([Query("x")], 120, None)
    assert [ranker.asked for ranker in rankers] == [[None], [None]]
    rows = np.array([*range(120), 130])
    a, b = one[rows].astype(float), other[rows].astype(float)
    a[rows == 130] = b[rows == 110] = one[119]
    mean, deviation = one[:100].mean(dtype=float), one[:100].std(dtype=float)
    expected = dict(zip(rows.tolist(), (((a - mean) + (b - mean)) / deviation / 2).tolist(), strict=True))
    assert len(found.rows) == 120
    assert found.scores == pytest.approx([expected[row] for row in found.rows.tolist()], abs=1e-5)


def test_a_ranker_is_asked_about_the_first_of_the_others(parallel):
    one = np.linspace(1, 0, 135, dtype=np.float32)
    rankers = Knows(one, []), Knows(one[::-1].copy(), [])
    (found,) = Fusion(parallel._sources(), [(ranker, 1.0) for ranker in rankers]).rank([Query("x")], 10, None)
    assert [ranker.asked for ranker in rankers] == [[None, [135]], [None, [135]]]
    assert found.scores == pytest.approx(np.zeros(10), abs=1e-6)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory, tiny_folder):
    """The same words in three languages, as far as anybody says: nearest neighbours all."""
    words = ["reef", "sea", "fox", "white", "warm", "Meer", "Zaun", "bahari", "joto", "риф"]
    texts = [f"{words[n % 10]} {words[n // 10]}" for n in range(45)]
    documents = [Document(f"{lang}{n}", text, lang=lang) for n, text in enumerate(texts) for lang in ("en", "de", "")]
    return open_engine(documents, tmp_path_factory.mktemp("parallel"), tiny_folder)


def test_what_lies_deeper_than_a_hundred_stays_below(parallel):
    found = ranked(*np.random.default_rng(0).permutation(135))
    regularized = Regularized(parallel._sources(), Fixed([found, NOTHING]))
    deep, nothing = regularized.rank([Query("x"), Query("y")], 120, None)
    assert nothing.rows.tolist() == []
    assert deep.rows[100:].tolist() == found.rows[100:120].tolist()
    assert set(deep.rows[:100]) == set(found.rows[:100])
    assert deep.rows.tolist() != found.rows[:120].tolist()
    assert (np.diff(deep.scores) <= 0).all()
    # Fewer are the first of more.
    assert regularized.rank([Query("x"), Query("y")], 7, None)[0].rows.tolist() == deep.rows[:7].tolist()


def test_texts_in_an_unknown_language_are_nobodys_translation(parallel):
    view = parallel.snapshot.dense._rows  # some languages were identified
    unknown = np.flatnonzero(view.codes == view.languages.index("")).tolist()
    assert len(unknown) > 10
    found = ranked(*range(100))
    (again,) = Regularized(parallel._sources(), Fixed([found])).rank([Query("x")], 100, None)
    scores = dict(zip(again.rows.tolist(), again.scores.tolist(), strict=True))
    before = dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
    kept = {row for row in scores if scores[row] == before[row]}
    assert {row for row in unknown if row < 100} <= kept
    assert len(kept) < 100


def test_a_collection_of_one_language_has_nothing_to_average(wide):
    (hits,) = wide.retriever("hybrid").search(["the fox in the warm sea"], 100)
    assert hits == wide.retriever("hybrid", neutral=False).search(["the fox in the warm sea"], 100)[0]


@pytest.fixture(scope="module")
def wide(tmp_path_factory, tiny_folder):
    """More documents than the first stage of a cascade hands on."""
    words = ["reef", "sea", "fox", "white", "warm", "Meer", "Zaun", "bahari", "joto", "риф"]
    documents = [Document(f"d{n}", f"{words[n % 10]} {words[n // 10 % 10]} {n}", lang="en") for n in range(150)]
    return open_engine(documents, tmp_path_factory.mktemp("wide"), tiny_folder)


def test_a_cascade_is_late_interaction_within_the_first_stage(wide):
    query = "the fox in the warm sea"
    first = ids(wide.retriever("dense").search([query], 100)[0])
    rows = wide.snapshot.select(first)
    expected = wide.retriever("late").search([query], 20, within=[rows])
    assert wide.retriever("cascade").search([query], 20) == expected
    everything = wide.retriever("late").search([query], 150)[0]
    assert ids(wide.retriever("cascade").search([query], 150)[0]) == ids(everything)


def test_a_cascade_of_named_stages_ranks_what_each_hands_on(wide):
    query = "the fox in the warm sea"
    first = wide.snapshot.select(ids(wide.retriever("bm25").search([query], 40)[0]))
    second = wide.snapshot.select(ids(wide.retriever("dense").search([query], 7, within=[first])[0]))
    assert len(second) == 7
    expected = wide.retriever("late").search([query], 100, within=[second])
    assert wide.retriever("bm25@40:dense@7:late").search([query], 100) == expected
    fused = wide.snapshot.select(ids(wide.retriever("hybrid").search([query], 100)[0]))
    expected = wide.retriever("dense").search([query], 20, within=[fused])
    assert wide.retriever("hybrid:dense").search([query], 20) == expected
    assert wide.retriever("dense:late").search([query], 20) == wide.retriever("cascade").search([query], 20)


def test_a_cascade_with_a_filter_looks_for_candidates_inside_it(wide):
    rows = wide.snapshot.select([f"d{n}" for n in range(0, 150, 13)])
    (hits,) = wide.retriever("cascade").search(["the fox in the warm sea"], 12, within=[rows])
    assert hits == wide.retriever("late").search(["the fox in the warm sea"], 12, within=[rows])[0]
    assert len(hits) == 12


def test_a_hybrid_deeper_than_a_hundred(wide):
    (hits,) = wide.retriever("hybrid").search(["fox"], 150)
    assert len(hits) == 150
