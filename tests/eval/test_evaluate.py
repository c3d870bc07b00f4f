import time

import pytest

from data.errors import InputError
from data.records import Hit, Query
from eval.evaluate import evaluate, latency
from eval.measures import parse_measures


class ByLetters:
    """A real ranking: documents that share letters with the query, by how many they share, then by id descending."""

    def __init__(self, documents):
        self.documents = documents
        self.calls = []

    def search(self, queries, k, *, within=None):
        self.calls.append((len(queries), k))
        return [self._search(query, k) for query in queries]

    def _search(self, query, k):
        shared = {d: len(set(text) & set(query.text)) for d, text in self.documents.items()}
        found = sorted((d for d in shared if shared[d]), key=lambda d: (shared[d], d), reverse=True)
        return [Hit(d, float(shared[d])) for d in found[:k]]


DOCUMENTS = {"a": "abc", "ab": "abd", "c": "cde", "th": "กขค", "km": "កខគ"}
QUERIES = [
    Query("abc", lang="en", id="1"),
    Query("de", lang="de", id="2"),
    Query("ขค", lang="th", id="3"),
    Query("!", lang="en", id="4"),
    Query("nobody judged this", lang="fr", id="5"),
    Query("គ", id="6"),
]
QRELS = {"1": {"ab": 1}, "2": {"c": 1, "a": 1}, "3": {"th": 2}, "4": {"a": 1}, "6": {"km": 1, "th": 0}}
# 1 finds a (3 letters), ab (2), c (1): RR 1/2. 2 finds c (2), ab (1), never a: RR 1, AP 1/2. 3 and 6: 1. 4: nothing.
RECIPROCAL = {"1": 0.5, "2": 1.0, "3": 1.0, "4": 0.0, "6": 1.0}
PRECISION = {"1": 0.5, "2": 0.5, "3": 1.0, "4": 0.0, "6": 1.0}


def test_values_by_hand_over_all_and_per_language():
    evaluation = evaluate(ByLetters(DOCUMENTS), QUERIES, QRELS, measures=parse_measures(["MRR@10", "mAP"]))
    assert evaluation.per_query == {q: {"MRR@10": RECIPROCAL[q], "mAP": PRECISION[q]} for q in RECIPROCAL}
    assert evaluation.per_language == {
        "de": {"MRR@10": 1.0, "mAP": 0.5},
        "en": {"MRR@10": 0.25, "mAP": 0.25},
        "th": {"MRR@10": 1.0, "mAP": 1.0},
        "und": {"MRR@10": 1.0, "mAP": 1.0},
    }
    # MRR over five queries: 3.5 / 5. mAP over four languages: (0.5 + 0.25 + 1 + 1) / 4.
    assert evaluation.overall == {"MRR@10": pytest.approx(0.7), "mAP": pytest.approx(0.6875)}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 512])
def test_the_size_of_a_batch_changes_no_value(batch_size):
    measures = parse_measures(["nDCG@10", "Recall@2", "MAP", "mAP"])
    whole = evaluate(ByLetters(DOCUMENTS), QUERIES, QRELS, measures=measures)
    batched = evaluate(ByLetters(DOCUMENTS), QUERIES, QRELS, measures=measures, batch_size=batch_size)
    assert batched.per_query == whole.per_query
    assert batched.overall == whole.overall
    assert batched.per_language == whole.per_language


def test_listeners_see_every_judged_query_once_with_its_hits():
    seen, sizes = {}, []

    def listen(queries, results):
        sizes.append(len(queries))
        seen.update({query.id: [hit.id for hit in hits] for query, hits in zip(queries, results, strict=True)})

    evaluate(ByLetters(DOCUMENTS), QUERIES, QRELS, measures=parse_measures(["Recall@2"]), batch_size=2, on_batch=listen)
    assert sizes == [2, 2, 1]
    assert seen == {"1": ["a", "ab"], "2": ["c", "ab"], "3": ["th"], "4": [], "6": ["km"]}


def test_batches_ask_for_the_depth_of_the_measures_and_latency_for_ten_hits_of_one_query():
    retriever = ByLetters(DOCUMENTS)
    evaluate(retriever, QUERIES, QRELS, measures=parse_measures(["nDCG@10", "Recall@100"]), batch_size=5)
    assert retriever.calls == [(1, 10)] * 6 + [(5, 100)]
    retriever = ByLetters(DOCUMENTS)
    evaluate(retriever, QUERIES, QRELS, measures=parse_measures(["MAP"]))
    assert retriever.calls[-1] == (5, 1000)


def test_latency_is_measured_on_a_hundred_queries_from_first_to_last():
    asked = []

    class Slow(ByLetters):
        def search(self, queries, k, *, within=None):
            asked.append(queries[0].id)
            time.sleep(0.001)
            return super().search(queries, k)

    speed = latency(Slow(DOCUMENTS), [Query("abc", id=str(i)) for i in range(1000)])
    assert len(asked) == 101
    assert asked[0] == asked[1] == "0"
    assert asked[-1] == "999"
    assert max(b - a for a, b in zip(map(int, asked[1:]), map(int, asked[2:]), strict=False)) <= 11
    assert 1.0 <= speed["p50"] <= speed["p95"]


def test_speed_is_told_for_single_and_batched_searches():
    evaluation = evaluate(ByLetters(DOCUMENTS), QUERIES, QRELS, measures=parse_measures(["MAP"]))
    assert set(evaluation.ms_per_query) == {"p50", "p95"}
    assert evaluation.queries_per_second > 0


def test_queries_and_judgements_that_do_not_meet_are_refused():
    with pytest.raises(InputError, match="none of the 6 queries has judgements"):
        evaluate(ByLetters(DOCUMENTS), QUERIES, {"other": {"a": 1}}, measures=parse_measures(["MAP"]))
    with pytest.raises(InputError, match="two queries share an id"):
        evaluate(ByLetters(DOCUMENTS), [*QUERIES, QUERIES[0]], QRELS, measures=parse_measures(["MAP"]))
