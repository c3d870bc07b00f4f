"""BM25: hand-computed scores, parity with rank_bm25, exactness over segments, deletions and filters."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from data.errors import CollectionError, UsageError
from index.analysis import terms
from index.bm25 import Bm25Parameters, Bm25Variant, Bm25View
from index.postings import Postings, merge_postings, write_postings
from index.storage import read_array

OKAPI = Bm25Parameters(k1=1.5, b=0.75, variant=Bm25Variant.OKAPI)


def write(folder, texts, lang=""):
    folder.mkdir(parents=True)
    write_postings(folder, ((text, lang) for text in texts))
    return folder


def open_view(folder, *segments, dead=(), lang=""):
    parts = [Postings.open(write(folder / str(i), texts, lang)) for i, texts in enumerate(segments)]
    rows = sum(map(len, segments))
    live = np.ones(rows, np.bool_)
    live[list(dead)] = False
    return Bm25View(parts, live, np.arange(rows))


def random_texts(documents, *, seed=0):
    # Word w is drawn with a chance of about 1 / (w + 1), as in real text.
    generator = np.random.default_rng(seed)
    chances = 1 / np.arange(1, 201)
    draw = generator.choice(200, (documents, 60), p=chances / chances.sum())
    return [" ".join(f"w{w}" for w in row[: generator.integers(0, 60)]) for row in draw]


def as_pairs(ranked):
    return list(zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True))


def test_lucene_by_hand(tmp_path):
    # N = 3, lengths 2, 4, 3, mean 3; "a" is in two of three: idf = ln(1 + 1.5 / 2.5) = ln 1.6 = 0.470004.
    # Row 1: tf 3, 0.9 * (0.6 + 0.4 * 4 / 3) = 1.02: 0.470004 * 3 / 4.02 = 0.350749.
    # Row 0: tf 1, 0.9 * (0.6 + 0.4 * 2 / 3) = 0.78: 0.470004 * 1 / 1.78 = 0.264047.
    view = open_view(tmp_path, ["a b", "a a a c", "d e f"])
    (ranked,) = view.search([["a"]], 10)
    assert ranked.rows.tolist() == [1, 0]
    assert ranked.scores.tolist() == pytest.approx([0.350749, 0.264047], abs=1e-6)
    assert ranked.scores.dtype == np.float32
    assert ranked.rows.dtype == np.int64


def test_a_repeated_query_term_counts_as_often(tmp_path):
    view = open_view(tmp_path, ["a b", "a a a c", "d e f"])
    (once,), (twice,) = view.search([["a"]], 10), view.search([["a", "a"]], 10)
    assert (2 * once.scores).tolist() == pytest.approx(twice.scores.tolist())


def test_without_length_and_saturation_only_the_idf_is_left(tmp_path):
    view = open_view(tmp_path, ["a b", "a a a c", "d e f"])
    (ranked,) = view.search([["a"]], 10, parameters=Bm25Parameters(k1=0, b=0))
    # Equal scores: the greater id, here the greater row, goes first.
    assert as_pairs(ranked) == [(1, pytest.approx(math.log(1.6))), (0, pytest.approx(math.log(1.6)))]


@pytest.mark.parametrize("documents", [1, 2, 3, 300])
def test_okapi_is_rank_bm25(tmp_path, documents):
    texts = [f"{text} w0" for text in random_texts(documents)]
    view = open_view(tmp_path, texts)
    reference = BM25Okapi([text.split() for text in texts], k1=1.5, b=0.75)
    for query in (["w0"], ["w1", "w5", "w5"], ["w3", "unknown", "w150"], ["w100", "w0"]):
        expected = reference.get_scores(query)
        (ranked,) = view.search([query], documents, parameters=OKAPI)
        found = np.zeros(documents)
        found[ranked.rows] = ranked.scores
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)


DOCUMENTS = st.lists(st.tuples(st.text("abcde ", max_size=12), st.booleans(), st.booleans()), max_size=14)


@settings(deadline=None, max_examples=60)
@given(rows=DOCUMENTS, query=st.lists(st.sampled_from("abcdex"), max_size=5))
def test_segments_and_deletions_score_like_one_fresh_segment(tmp_path_factory, rows, query):
    folder = tmp_path_factory.mktemp("bm25")
    # Letters apart are words; the second member says whether a new segment begins, the third whether the row lives.
    texts = [" ".join(text) for text, _, _ in rows]
    cuts = [0, *(i for i, (_, begins, _) in enumerate(rows) if begins), len(rows)]
    segments = [texts[a:b] for a, b in pairwise(cuts)]
    dead = [i for i, (_, _, lives) in enumerate(rows) if not lives]
    survivors = [i for i in range(len(rows)) if i not in dead]
    whole = open_view(folder / "cut", *segments, dead=dead)
    fresh = open_view(folder / "fresh", [texts[i] for i in survivors])
    for parameters in (Bm25Parameters(), OKAPI):
        (found,) = whole.search([query], 100, parameters=parameters)
        (expected,) = fresh.search([query], 100, parameters=parameters)
        assert found.rows.tolist() == [survivors[row] for row in expected.rows]
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(rows=DOCUMENTS)
def test_merged_postings_equal_fresh_ones_byte_for_byte(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("merge")
    texts = [" ".join(text) for text, _, _ in rows]
    half = len(texts) // 2
    keep = np.array([lives for _, _, lives in rows], np.bool_)
    first, second = write(folder / "1", texts[:half]), write(folder / "2", texts[half:])
    fresh = write(folder / "fresh", [text for text, lives in zip(texts, keep, strict=True) if lives])
    merged = folder / "merged"
    merged.mkdir()
    merge_postings(merged, [(Postings.open(first), keep[:half]), (Postings.open(second), keep[half:])])
    assert contents(merged) == contents(fresh)


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_merging_nothing_gives_an_empty_segment(tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    merge_postings(merged, [])
    assert contents(merged) == contents(write(tmp_path / "fresh", []))


def test_a_mask_of_another_length_is_refused_with_both_numbers(tmp_path):
    source = write(tmp_path / "1", ["a", "b"])
    with pytest.raises(ValueError, match=r"2 documents.*3"):
        merge_postings(tmp_path, [(Postings.open(source), np.ones(3, np.bool_))])


def test_counts_take_two_bytes_unless_a_document_needs_four(tmp_path):
    small, large = write(tmp_path / "1", ["a a b"]), write(tmp_path / "2", ["a " * 70_000, "b"])
    assert read_array(small / "bm25.counts.npy").dtype == np.uint16
    assert read_array(large / "bm25.counts.npy").tolist() == [70_000, 1]
    # Without the long document two bytes are enough again.
    merged = tmp_path / "merged"
    merged.mkdir()
    merge_postings(merged, [(Postings.open(large), np.array([False, True]))])
    assert contents(merged) == contents(write(tmp_path / "fresh", ["b"]))


@pytest.mark.parametrize("parameters", [Bm25Parameters(), OKAPI])
def test_within_is_the_full_ranking_filtered(tmp_path, parameters):
    texts = random_texts(200)
    view = open_view(tmp_path, texts[:70], texts[70:], dead=range(0, 200, 7))
    generator = np.random.default_rng(1)
    queries = [[f"w{w}" for w in generator.integers(0, 60, 4)] for _ in range(30)]
    within = [np.sort(generator.choice(200, generator.integers(0, 200), replace=False)) for _ in queries]
    everything = view.search(queries, 1000, parameters=parameters)
    for found, full, allowed in zip(
        view.search(queries, 5, parameters=parameters, within=within), everything, within, strict=True
    ):
        expected = [pair for pair in as_pairs(full) if pair[0] in set(allowed.tolist())][:5]
        assert as_pairs(found) == expected


@pytest.mark.parametrize("parameters", [Bm25Parameters(), Bm25Parameters(0, 0), OKAPI])
def test_the_best_k_are_the_first_of_all_that_match(tmp_path, parameters):
    # Enough rows that most are passed over; every text stands eight times, so that there are ties everywhere.
    view = open_view(tmp_path, random_texts(3000) * 8, random_texts(500, seed=2), dead=range(0, 24_000, 7))
    generator = np.random.default_rng(1)
    queries = [[f"w{w}" for w in generator.integers(0, 200, n)] for n in (1, 2, 4, 4, 8, 8, 16, 40)]
    for full, *found in zip(
        *(view.search(queries, k, parameters=parameters) for k in (24_500, 1, 10, 300)), strict=True
    ):
        for k, ranked in zip((1, 10, 300), found, strict=True):
            assert as_pairs(ranked) == as_pairs(full)[:k]


def test_within_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"2 queries.*1"):
        open_view(tmp_path, ["a"]).search([["a"], ["a"]], 1, within=[np.arange(1)])


def test_only_matching_rows_come_back_however_large_k_is(tmp_path):
    view = open_view(tmp_path, ["a", "b", "a b", "", "c"])
    unknown, empty, some = view.search([["unknown"], [], ["b"]], 100)
    assert as_pairs(unknown) == as_pairs(empty) == []
    assert sorted(some.rows.tolist()) == [1, 2]
    assert [len(ranked.rows) for ranked in view.search([["b"]] * 3, 1)] == [1, 1, 1]
    assert as_pairs(view.search([["b"]], 0)[0]) == []


@pytest.mark.parametrize("parameters", [Bm25Parameters(), OKAPI])
@pytest.mark.parametrize(
    ("segments", "dead"), [([], ()), ([[]], ()), ([["", ""]], ()), ([["a", "b"]], (0, 1)), ([["a", ""], []], (0,))]
)
def test_a_collection_without_live_terms_answers_nothing(tmp_path, parameters, segments, dead):
    view = open_view(tmp_path, *segments, dead=dead)
    assert [as_pairs(ranked) for ranked in view.search([["a"], []], 5, parameters=parameters)] == [[], []]
    assert view.search([], 5, parameters=parameters) == []


def test_equal_texts_tie_and_the_greater_id_goes_first(tmp_path):
    texts = random_texts(40)
    parts = [Postings.open(write(tmp_path / str(i), texts)) for i in range(2)]
    # Ids descend with the rows, so among equal texts the smaller row has the greater id.
    view = Bm25View(parts, np.ones(80, np.bool_), np.arange(80)[::-1].copy())
    (ranked,) = view.search([["w0", "w1", "w2", "w3", "w7"]], 80)
    score = dict(as_pairs(ranked))
    place = {row: i for i, row in enumerate(ranked.rows.tolist())}
    assert all(score[row] == score[row + 40] and place[row] < place[row + 40] for row in score if row < 40)


def test_threads_with_other_parameters_do_not_disturb_each_other(tmp_path):
    view = open_view(tmp_path, random_texts(300))
    jobs = [(Bm25Parameters(k1=k1, b=b), [f"w{w}", "w1"]) for w in range(20) for k1, b in ((0.9, 0.4), (2, 0), (0, 1))]
    expected = [as_pairs(view.search([query], 9, parameters=parameters)[0]) for parameters, query in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda job: as_pairs(view.search([job[1]], 9, parameters=job[0])[0]), jobs)
    assert list(found) == expected


@pytest.mark.parametrize(
    ("k1", "b"), [(-0.1, 0.4), (math.nan, 0.4), (math.inf, 0.4), (0.9, 1.5), (0.9, -1), (0.9, math.nan)]
)
def test_impossible_parameters_are_refused_with_the_number(k1, b):
    with pytest.raises(UsageError, match=str(k1 if b == 0.4 else b)):
        Bm25Parameters(k1=k1, b=b)


def test_postings_of_another_collection_are_refused(tmp_path):
    folder = write(tmp_path / "1", ["a", "b"])
    with pytest.raises(CollectionError, match=r"2 documents.*3 rows"):
        Bm25View([Postings.open(folder)], np.ones(3, np.bool_), np.arange(3))


@pytest.mark.parametrize(
    ("lang", "text", "question"),
    [
        ("th", "ประเทศไทยมีเมืองหลวงคือกรุงเทพ", "เมืองหลวง"),
        ("zh", "北京是中国的首都", "首都"),
        ("ja", "京都はPythonの町", "python"),
        ("ar", "الكِتَابُ على الطاولة", "كتاب"),
        ("hi", "लड़कों ने किताबें पढ़ीं", "लड़के"),
        ("km", "ខ្ញុំស្រឡាញ់ភាសាខ្មែរ", "ភាសាខ្មែរ"),
        ("tr", "İSTANBUL'UN IŞIKLARI", "ışık"),
        ("de", "GROSSE Straßen", "Strasse"),
        ("vi", "tie\u0302\u0301ng Vie\u0323\u0302t", "tiếng việt"),
        ("en", "well done 👍🏽", "👍"),
        ("en", "𝕳ello 𐐀𐐁", "hello"),
    ],
)
def test_every_language_finds_its_text(tmp_path, lang, text, question):
    view = open_view(tmp_path, ["unrelated", text, "第二 อื่น آخر दूसरा"], lang=lang)
    (ranked,) = view.search([terms(question, lang)], 3)
    assert ranked.rows.tolist() == [1]
