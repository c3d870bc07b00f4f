import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from eval.measures import (
    DEFAULT_MEASURES,
    average,
    average_precision,
    depth_of,
    is_multilingual,
    parse_measures,
    score,
    split_names,
)

TREC = {
    "nDCG@10": "ndcg_cut_10",
    "Recall@100": "recall_100",
    "MRR": "recip_rank",
    "MAP": "map",
    "P@5": "P_5",
    "Rprec": "Rprec",
    "nDCG": "ndcg",
    "nDCG@3": "ndcg_cut_3",
    "P@1": "P_1",
    "Recall@3": "recall_3",
    "AP@3": "map_cut_3",
    "AP(rel=2)": "map",
    "P(rel=2)@3": "P_3",
    "Success@1": "success_1",
    "Success@3": "success_3",
    "Bpref": "bpref",
    "infAP": "infAP",
    "IPrec@0.5": "iprec_at_recall_0.50",
    "NumRet": "num_ret",
}
# Where ranx means the same. (Its bpref and its Rprec of queries with few hits are other ones.)
RANX = {
    "nDCG@10": "ndcg@10", "nDCG": "ndcg", "nDCG@3": "ndcg@3", "MAP": "map", "AP@3": "map@3", "MRR": "mrr",
    "MRR@3": "mrr@3", "P@1": "precision@1", "P@5": "precision@5", "Recall@3": "recall@3", "Success@3": "hit_rate@3",
}  # fmt: skip

DOCUMENTS = [*(f"d{i}" for i in range(11)), "D", "é", "文", "🪸"]
# Judgements with zeros and negative grades, and runs where scores tie (in float32 too), queries are missing, judged
# documents were not found and found ones not judged.
QRELS = st.dictionaries(
    st.sampled_from("abcd"), st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1), min_size=1
)
RUNS = st.dictionaries(
    st.sampled_from("bcde"),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.sampled_from([-1.0, 0.0, 0.5, 0.5 + 1e-12, 2.0]), min_size=1),
)


def of_trec_eval(name, qrels, runs):
    """What pytrec_eval gives every judged query, 0 where the run lacks it.

    It writes beyond its memory where a query has negative grades alone; there, one 0 more changes no value.
    """
    level = 2 if "rel=2" in name else 1
    safe = {query: judged if max(judged.values()) >= 0 else {**judged, "": 0} for query, judged in qrels.items()}
    found = pytrec_eval.RelevanceEvaluator(safe, {TREC[name]}, relevance_level=level).evaluate(runs)
    return {query: found.get(query, {}).get(TREC[name], 0.0) for query in qrels}


def random_judgements(seed, *, queries=40, documents=300):
    """Rankings of ties, queries without hits, judged documents never found, found ones never judged, graded labels."""
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(documents)]
    qrels = {f"q{i}": {d: rng.choice([0, 1, 2, 3]) for d in rng.sample(names, 12)} for i in range(queries)}
    runs = {}
    for query in [*list(qrels)[3:], "unjudged"]:
        found = rng.sample(names, rng.randrange(1, 250))
        runs[query] = {d: float(np.float32(rng.choice([0.25, 0.5, 1 / 3, 2.0]))) for d in found}
    return qrels, runs


def in_trec_order(scores):
    return sorted(scores, key=lambda d: (scores[d], d), reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_trec_eval_on_runs_with_ties_and_missing_queries(seed):
    qrels, runs = random_judgements(seed)
    ours = score(parse_measures(TREC), qrels, {query: in_trec_order(scores) for query, scores in runs.items()})
    assert set(ours) == set(qrels)
    for name in TREC:
        theirs = of_trec_eval(name, qrels, runs)
        for query, values in ours.items():
            assert list(values) == list(TREC)
            assert values[name] == pytest.approx(theirs[query], abs=1e-6), (query, name)


@settings(max_examples=150, deadline=None)
@given(QRELS, RUNS)
def test_every_measure_equals_trec_evals_whatever_the_run(qrels, runs):
    scored = {query: {d: float(np.float32(s)) for d, s in scores.items()} for query, scores in runs.items()}
    ours = score(parse_measures(TREC), qrels, {query: in_trec_order(scores) for query, scores in scored.items()})
    assert ours.keys() == qrels.keys()
    for name in TREC:
        theirs = of_trec_eval(name, qrels, runs)
        assert {q: values[name] for q, values in ours.items()} == pytest.approx(theirs, abs=1e-6), name


def test_queries_with_negative_grades_alone_score_0_and_leave_the_others_as_they_are():
    negative = {f"n{i}": {f"d{j}": -1 for j in range(1 + i % 7)} for i in range(200)}
    names = [name for name in TREC if name != "NumRet"]
    for _ in range(10):  # trec_eval would write beyond its memory, and hang or crash a while after
        rankings = {query: ["d1", "d0"] for query in [*negative, "q"]}
        ours = score(parse_measures(names), {**negative, "q": {"d1": 1}}, rankings)
        assert all(not any(ours[query].values()) for query in negative)
        assert (ours["q"]["MAP"], ours["q"]["P@5"], ours["q"]["Bpref"]) == (1.0, 0.2, 1.0)


def test_every_measure_equals_ranxs_where_it_means_the_same():
    rng, cases = random.Random(0), []
    for _ in range(60):
        qrels = {q: {d: rng.randrange(4) for d in rng.sample(DOCUMENTS, 6)} | {"d0": 1} for q in "abcd"}
        runs = {q: rng.sample(DOCUMENTS, rng.randrange(1, 15)) for q in "bcde"}  # a is missing, e is not judged
        cases.append((qrels, runs))
    # ranx breaks ties in no order of its own, so it is told the order; what it compiles takes longer than it runs.
    told = [
        (qrels, {q: {d: 1.0 / (1 + rank) for rank, d in enumerate(runs.get(q, ["none"]))} for q in qrels})
        for qrels, runs in cases
    ]
    script = """if True:
        import json, sys
        from ranx import Qrels, Run, evaluate
        cases, names = json.load(sys.stdin)
        found = [evaluate(Qrels(qrels), Run(run), names, return_mean=False) for qrels, run in cases]
        print(json.dumps([{name: list(map(float, values)) for name, values in own.items()} for own in found]))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps([told, list(RANX.values())]), capture_output=True, text=True,
        check=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )  # fmt: skip
    for (qrels, runs), theirs in zip(cases, json.loads(done.stdout), strict=True):
        ours = score(parse_measures(RANX), qrels, runs)
        for name, ranx_name in RANX.items():
            assert [ours[q][name] for q in qrels] == pytest.approx(theirs[ranx_name], abs=1e-6), name


@pytest.mark.parametrize("seed", range(5))
def test_mrr_with_a_cutoff_is_the_reciprocal_rank_or_0_below_it(seed):
    qrels, runs = random_judgements(seed)
    ours = score(parse_measures(["MRR@10", "MRR"]), qrels, {q: in_trec_order(scores) for q, scores in runs.items()})
    for values in ours.values():
        assert values["MRR@10"] == pytest.approx(values["MRR"] if values["MRR"] >= 0.1 else 0.0)


def test_values_by_hand():
    # Relevant: a (2), b (1), z (1, never found). Found: x, a, y, b.
    # DCG = 2 / log2(3) + 1 / log2(5) = 1.261860 + 0.430677 = 1.692536
    # Ideal = 2 / log2(2) + 1 / log2(3) + 1 / log2(4) = 2 + 0.630930 + 0.5 = 3.130930; nDCG = 0.540586
    # AP = (1/2 + 2/4) / 3 = 1/3; RR = 1/2; recall = 2/3; P@5 = 2/5
    qrels = {"q": {"a": 2, "b": 1, "z": 1, "y": 0}}
    values = score(
        parse_measures(["nDCG@10", "MAP", "MRR@10", "Recall@100", "P@5", "mAP"]), qrels, {"q": ["x", "a", "y", "b"]}
    )["q"]
    assert values["nDCG@10"] == pytest.approx(0.540586, abs=1e-6)
    assert values["MAP"] == values["mAP"] == pytest.approx(1 / 3)
    assert values["MRR@10"] == 0.5
    assert values["Recall@100"] == pytest.approx(2 / 3)
    assert values["P@5"] == pytest.approx(0.4)


def test_the_order_of_the_hits_is_kept_where_trec_eval_would_break_the_tie_otherwise():
    # With equal scores trec_eval puts b before a, and MS MARCO's script a before b; the given order must win in both.
    names = ["nDCG@1", "MRR@1", "MAP", "Judged@1"]
    for first, second in (("a", "b"), ("b", "a")):
        values = score(parse_measures(names), {"q": {first: 1}}, {"q": [first, second]})["q"]
        assert values == dict.fromkeys(names, 1.0)
        values = score(parse_measures(names[:3]), {"q": {second: 1}}, {"q": [first, second]})["q"]
        assert values == {"nDCG@1": 0.0, "MRR@1": 0.0, "MAP": 0.5}


def test_ten_thousand_hits_keep_their_order():
    ranking = [f"d{i}" for i in range(10_000)]
    values = score(parse_measures(["MRR", "MAP"]), {"q": {"d9998": 1}}, {"q": ranking})["q"]
    assert values["MRR"] == values["MAP"] == pytest.approx(1 / 9999)


def test_a_judged_query_without_hits_or_without_relevant_documents_scores_0():
    measures = parse_measures([*DEFAULT_MEASURES, "mAP", "Judged@10"])
    values = score(measures, {"none": {"a": 1}, "empty": {"a": 1}, "irrelevant": {"a": 0}}, {"empty": []})
    assert values == {q: dict.fromkeys([m.name for m in measures], 0.0) for q in ("none", "empty", "irrelevant")}


def test_a_query_without_judgements_has_no_values():
    assert set(score(parse_measures(["MAP"]), {"q": {"a": 1}}, {"q": ["a"], "stray": ["a"]})) == {"q"}


def test_a_ranking_with_a_document_twice_is_refused():
    with pytest.raises(ValueError, match="3 hits, 2 documents"):
        score(parse_measures(["MAP"]), {"q": {"a": 1}}, {"q": ["a", "b", "a"]})


def test_gains_of_one_measure_do_not_touch_another():
    # DCG of b (3), a (1) where the ideal order is the same: 1. With gains {1: 9}: (3 + 9/log2(3)) / (9 + 3/log2(3)).
    names = ["nDCG@10", "nDCG(gains={1:9})@10"]
    values = score(parse_measures(names), {"q": {"a": 1, "b": 3}}, {"q": ["b", "a"]})["q"]
    assert values["nDCG@10"] == 1.0
    assert values[names[1]] == pytest.approx((3 + 9 / math.log2(3)) / (9 + 3 / math.log2(3)))


def test_names_are_those_of_the_user_and_two_names_of_one_measure_both_stand():
    values = score(parse_measures(["Recall@2", "R@2", "Recall@2"]), {"q": {"a": 1}}, {"q": ["a"]})["q"]
    assert values == {"Recall@2": 1.0, "R@2": 1.0}


@pytest.mark.parametrize(
    "name",
    ["", "foo", "nDCG@", "nDCG@x", "P", "Recall", "P@0", "P@-1", "nDCG@True", "nDCG@1.5", "AP@1@2", "map", "mAP@0"],
)
def test_an_unknown_measure_is_refused_with_valid_ones(name):
    with pytest.raises(UsageError, match="nDCG@10, Recall@100") as caught:
        parse_measures(["MAP", name])
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nDCG(bar=1)@3", "1+2", "alpha_nDCG@5", "ERR@10", "IPrec@7", "MAP\0", "MAP\nMRR"])
def test_what_ir_measures_cannot_parse_or_compute_here_is_refused(name):
    with pytest.raises(UsageError, match="try some of nDCG@10"):
        parse_measures([name])


def test_names_split_outside_parentheses_only():
    assert split_names("nDCG@10, P(rel=2,judged_only=True)@5,,MAP") == ["nDCG@10", "P(rel=2,judged_only=True)@5", "MAP"]


def test_the_depth_is_the_deepest_cutoff():
    assert depth_of(parse_measures(["nDCG@10", "Recall@100"])) == 100
    assert depth_of(parse_measures(["nDCG@10", "MAP"])) == 1000
    assert depth_of(parse_measures(["mAP"])) == 1000
    assert depth_of(parse_measures(["nDCG@10", "mAP@50"])) == 50


def test_average_precision_by_hand():
    assert average_precision([1, 2, 3], 3) == 1.0
    assert average_precision([4, 2], 2) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision([10], 4) == pytest.approx(0.1 / 4)
    assert average_precision([], 4) == 0.0
    assert average_precision([], 0) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_lareqas_measure_at_full_depth_equals_trec_evals_map(seed):
    qrels, runs = random_judgements(seed)
    ours = score(parse_measures(["mAP"]), qrels, {query: in_trec_order(scores) for query, scores in runs.items()})
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(runs)
    for query, values in ours.items():
        assert values["mAP"] == pytest.approx(theirs.get(query, {}).get("map", 0.0), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(ranks=st.sets(st.integers(1, 300), min_size=1, max_size=12), depth=st.integers(1, 200))
def test_cutting_a_ranking_loses_at_most_the_bound(ranks, depth):
    found = [rank for rank in ranks if rank <= depth]
    relevant, missing = len(ranks), len(ranks) - len(found)
    loss = average_precision(sorted(ranks), relevant) - average_precision(found, relevant)
    bound = missing * (2 * relevant - missing + 1) / (2 * relevant * (depth + 1))
    assert -1e-12 <= loss <= bound + 1e-12
    assert bound <= (relevant + 1) / (2 * (depth + 1)) + 1e-12


def test_a_cutoff_hides_what_stands_below_it():
    # Relevant at 1 and 4: AP = (1 + 2/4) / 2 = 0.75 in full, 1/2 when looked at to rank 3.
    values = score(parse_measures(["mAP", "mAP@3"]), {"q": {"a": 1, "b": 1}}, {"q": ["a", "x", "y", "b"]})["q"]
    assert values == {"mAP": 0.75, "mAP@3": 0.5}


def test_every_query_counts_alike_but_for_lareqas_measure_every_language():
    # de: 1.0 and 0.0; ja: 0.25. MAP = 1.25 / 3; mAP = (0.5 + 0.25) / 2.
    per_query = {"a": {"MAP": 1.0, "mAP": 1.0}, "b": {"MAP": 0.0, "mAP": 0.0}, "c": {"MAP": 0.25, "mAP": 0.25}}
    overall, per_language = average(parse_measures(["MAP", "mAP"]), per_query, {"a": "de", "b": "de", "c": "ja"})
    assert overall == {"MAP": pytest.approx(1.25 / 3), "mAP": pytest.approx(0.375)}
    assert per_language == {"de": {"MAP": 0.5, "mAP": 0.5}, "ja": {"MAP": 0.25, "mAP": 0.25}}


def test_queries_of_unknown_language_are_reported_as_und():
    _, per_language = average(parse_measures(["MAP"]), {"a": {"MAP": 1.0}, "b": {"MAP": 0.0}}, {"a": "", "b": "th"})
    assert per_language == {"th": {"MAP": 0.0}, "und": {"MAP": 1.0}}


def test_parallel_answers_are_recognised_by_the_languages_of_relevant_documents():
    languages = {"de1": "de", "ja1": "ja", "en1": "en", "en2": "en", "x": ""}
    assert is_multilingual({"q": {"de1": 1, "ja1": 1, "en1": 1}}, languages.__getitem__)
    assert not is_multilingual({"q": {"en1": 1, "en2": 1}}, languages.__getitem__)  # one language
    assert not is_multilingual({"q": {"en1": 1, "de1": 0, "ja1": 0}}, languages.__getitem__)  # judged, not relevant
    assert not is_multilingual({"q": {"en1": 1, "x": 1}}, languages.__getitem__)  # unknown is no second language
    assert not is_multilingual({"q": {"de1": 1, "ja1": 1}, "r": {"en1": 1}}, languages.__getitem__)  # 1.5 on average
    assert not is_multilingual({}, languages.__getitem__)
