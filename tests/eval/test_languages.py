"""Rankings by language: matrices, bias and PEER, worked out by hand and beside the authors' own."""

import math

import numpy as np
import peer_measure
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from data.records import Query
from eval.languages import Languages, peer
from eval.measures import parse_measures

LANGUAGES = {"a1": "de", "a2": "de", "a3": "de", "b1": "th", "b2": "th", "b3": "th", "c1": "en"}


def report(qrels, rankings, queries, measure="AP", language_of=LANGUAGES):
    (parsed,) = parse_measures([measure])
    seen = Languages(language_of, parsed)
    for query in queries:  # in batches of one
        seen.add([query], qrels, rankings)
    return seen.result()


def test_a_matrix_by_hand():
    queries = [Query("", lang="de", id="q1"), Query("", lang="de", id="q2"), Query("", lang="th", id="q3")]
    qrels = {"q1": {"a1": 1, "b1": 1}, "q2": {"a2": 1, "b2": 0}, "q3": {"a3": 1, "b3": 1}}
    rankings = {"q1": ["a2", "a1", "b2", "b3", "b1"], "q2": ["a2", "b2"], "q3": ["b3", "a1"]}
    found = report(qrels, rankings, queries)
    # q1 among German documents: a1 second, 1/2; q2 first, 1. Among Thai ones q1 finds b1 third; q2 has no answer there.
    assert found["matrix"] == {"de": {"de": 0.75, "th": pytest.approx(1 / 3)}, "th": {"de": 0.0, "th": 1.0}}
    assert found["monolingual"] == 0.875
    assert found["crosslingual"] == pytest.approx(1 / 6)
    assert found["gap"] == pytest.approx(0.875 - 1 / 6)
    # Among all, the other language's answer left out: q1 has a1 second and b1 fourth (fifth without a1 before it).
    limited = found["limit_one"]
    assert limited["matrix"] == {"de": {"de": 0.75, "th": 0.25}, "th": {"de": 0.0, "th": 1.0}}
    assert limited["mean"] == 0.5
    # The hits of German questions: a2 a1 b2 b3 b1 a2 b2, of the Thai one: b3 a1.
    assert found["shares"] == {"de": {"top": 4 / 9, "relevant": 3 / 5}, "th": {"top": 5 / 9, "relevant": 2 / 5}}
    assert found["own"] == {"top": 4 / 9, "relevant": 3 / 5}
    # German questions: 3/7 of the hits are German and 2/3 of the answers; the Thai one has halves of both.
    assert found["bias"] == pytest.approx((2 / 3 - 3 / 7) / 2)


def test_several_answers_in_one_language_keep_their_ranks():
    qrels = {"q": {"a1": 1, "a2": 1, "b1": 1}}
    found = report(qrels, {"q": ["a1", "b1", "c1", "a2"]}, [Query("", lang="en", id="q")])
    # a1, c1, a2 without the Thai answer: precisions 1 and 2/3. b1, c1 without the German ones: 1.
    assert found["limit_one"]["matrix"] == {"en": {"de": pytest.approx(5 / 6), "th": 1.0}}
    assert found["monolingual"] is None
    assert found["gap"] is None


def test_queries_without_language_judgements_or_hits():
    queries = [Query("", id="q"), Query("", id="unjudged"), Query("", lang="de", id="empty")]
    found = report({"q": {"a1": 1}, "empty": {"b1": 1}}, {"q": ["a1"], "unjudged": ["a1"]}, queries)
    assert found["matrix"] == {"de": {"th": 0.0}, "und": {"de": 1.0}}
    assert found["PEER@10"] == 1.0
    assert found["bias"] == 0.0  # of the question that has hits
    assert report({}, {}, [])["bias"] is None


def test_what_has_no_known_language_is_neither_monolingual_nor_crosslingual():
    queries = [Query("", id="q"), Query("", lang="de", id="p")]
    found = report({"q": {"x": 1}, "p": {"a1": 1, "x": 1}}, {"q": ["x"], "p": ["x", "a1"]}, queries)
    assert found["matrix"] == {"de": {"de": 1.0, "und": 1.0}, "und": {"und": 1.0}}
    assert (found["monolingual"], found["crosslingual"], found["gap"]) == (1.0, None, None)
    assert found["own"] == {"top": 1 / 3, "relevant": 1 / 3}


@pytest.mark.parametrize("measure", ["nDCG@10", "mAP", "Recall@100"])
def test_any_measure_fills_the_matrix(measure):
    found = report({"q": {"a1": 1, "b1": 1}}, {"q": ["b1", "a1"]}, [Query("", lang="th", id="q")], measure)
    assert found["measure"] == measure
    assert found["matrix"] == {"th": {"de": 1.0, "th": 1.0}}


def test_peer_by_hand():
    # Ranks 1 and 2 against 3 and 4: mean 2.5, between 2 * (1 + 1) = 4, total 2 * (2.25 + .25) = 5, H = 3 * 4 / 5.
    grades = {"a1": 1, "a2": 1, "b1": 1, "b2": 1}
    assert peer(grades, ["a1", "a2", "b1", "b2"], LANGUAGES) == pytest.approx(chi2.sf(2.4, 1))
    assert peer(grades, ["a1", "b1", "b2", "a2"], LANGUAGES) == pytest.approx(1.0)  # both have a mean of 2.5
    # Two of four are not found: they share the ranks behind the last one, 3 and 4, so 3.5 each.
    # 1 and 2 against 3.5 and 3.5: mean 2.5, between 2 * (1 + 1) = 4, total 2.25 + .25 + 1 + 1 = 4.5, H = 3 * 4 / 4.5.
    assert peer(grades, ["a1", "a2"], LANGUAGES) == pytest.approx(chi2.sf(8 / 3, 1))
    assert peer(grades, [], LANGUAGES) == 1.0
    assert peer({"a1": 1, "a2": 1}, ["a2"], LANGUAGES) == 1.0
    assert peer({}, ["a1"], LANGUAGES) == 1.0
    # A grade each: 1 where one language has it, and the p-value of two documents at ranks 1 and 3, H = 1 * 2 / 2.
    graded = {"a1": 2, "b1": 2, "a2": 1}
    assert peer(graded, ["a1", "a2", "b1"], LANGUAGES) == pytest.approx((chi2.sf(1, 1) + 1) / 2)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(12)), st.integers(2, 4), st.integers(2, 12), st.integers(1, 2))
def test_peer_is_that_of_its_authors_where_all_relevant_documents_are_found(order, languages, relevant, grades):
    documents = [f"d{i}" for i in order]
    language_of = {f"d{i}": str(i % languages) for i in range(12)}
    judged = {f"d{i}": 1 + i % grades for i in range(relevant)}
    wanted = []
    for grade in set(judged.values()):
        ranks = {language: [] for language in sorted(set(language_of.values()))}
        for document, own in judged.items():
            if own == grade:
                ranks[language_of[document]].append(1 + documents.index(document))
        wanted.append(peer_measure.kruskal(*ranks.values())[1])
    assert peer(judged, documents, language_of) == pytest.approx(np.mean(wanted))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.permutations(list(LANGUAGES)), min_size=1, max_size=8), st.randoms())
def test_bias_and_shares_are_shares(rankings, random):
    queries = [Query("", lang=random.choice(["de", "th", ""]), id=str(i)) for i in range(len(rankings))]
    qrels = {q.id: {d: 1 for d in random.sample(sorted(LANGUAGES), random.randint(1, 7))} for q in queries}
    found = report(qrels, {str(i): r[: random.randint(1, 7)] for i, r in enumerate(rankings)}, queries)
    assert 0 <= found["bias"] <= 1
    assert 0 <= found["PEER@10"] <= 1
    for name in ("top", "relevant"):
        assert math.isclose(sum(share[name] for share in found["shares"].values()), 1)
    everything = [v for row in found["matrix"].values() for v in row.values()]
    assert np.all((np.array(everything) >= 0) & (np.array(everything) <= 1))
