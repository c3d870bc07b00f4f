"""Measures of a ranking: parsing their names, scoring queries, averaging.

trec_eval's measures come from ``ir_measures``; LAReQA's mAP is computed here. What is left out: runs on disk
(:mod:`eval.runs`), searching and timing (:mod:`eval.evaluate`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
from ir_measures.providers import FallbackProvider

from data.errors import UsageError

Qrels = Mapping[str, Mapping[str, int]]
Values = dict[str, dict[str, float]]

DEFAULT_MEASURES = ("nDCG@10", "Recall@100", "MRR@10", "MAP")
LAREQA_MEASURE = "mAP"
FULL_DEPTH = 1000
"""Hits looked at by a measure without a cutoff: the depth of TREC runs."""

_EXAMPLES = "nDCG@10, Recall@100, MRR@10, MAP, P@5, Success@1, Rprec, Judged@10, mAP"
# Those that run in this process, in order of preference. The others that ir_measures knows start perl or a compiler
# and refuse ids that are no numbers (gdeval), or are there on some machines only: the same name, another result.
_PROVIDER: Any = FallbackProvider(  # type: ignore[no-untyped-call]
    [ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco, ir_measures.compat]
)


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure under the name that the user gave it.

    Attributes:
        name: as typed, and as it stands in every result.
        cutoff: how many hits a query needs; :data:`FULL_DEPTH` where the name has no ``@``.
        trec: what ir_measures computes, or None for LAReQA's mAP, the only one that is averaged per language first.
    """

    name: str
    cutoff: int
    trec: ir_measures.Measure | None


def split_names(text: str) -> list[str]:
    """Split ``nDCG@10,P(rel=2,judged_only=True)@5`` at the commas that stand outside parentheses."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", text) if name.strip()]


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Parse measures as people write them; a name given twice counts once.

    Anything that ``ir_measures`` parses and can compute in this process is understood (``nDCG@10``, ``Recall@100``,
    ``P(rel=2)@5``), and ``mAP`` or ``mAP@K``: LAReQA's measure, see :func:`average_precision`.

    Raises:
        UsageError: for a name that is no measure.
    """
    return [_parse(name) for name in dict.fromkeys(names)]


def _parse(name: str) -> Measure:
    lareqa = re.fullmatch(rf"{LAREQA_MEASURE}(?:@([1-9][0-9]*))?", name)
    if lareqa:
        return Measure(name, int(lareqa[1] or FULL_DEPTH), None)
    try:
        with warnings.catch_warnings():
            # ir_measures 0.4 reads the name with ast.Num, deprecated since Python 3.12.
            warnings.simplefilter("ignore", DeprecationWarning)
            trec = ir_measures.parse_measure(name)
        supported = _PROVIDER.supports(trec)
    except (ValueError, NameError, AssertionError, TypeError, SyntaxError) as error:
        raise UsageError(f"unknown measure {name!r}: try some of {_EXAMPLES}") from error
    cutoff = trec.params.get("cutoff", FULL_DEPTH)
    if not supported or isinstance(cutoff, bool) or cutoff < 1:
        raise UsageError(f"measure {name!r} cannot be computed here: try some of {_EXAMPLES}")
    return Measure(name, cutoff, trec)


def depth_of(measures: Sequence[Measure]) -> int:
    """Return how many hits a query needs so that all of ``measures`` can be computed."""
    return max((m.cutoff for m in measures), default=1)


def is_multilingual(qrels: Qrels, language_of: Callable[[str], str]) -> bool:
    """Tell whether the right answers of a question come in several languages, as in LAReQA.

    The rule: the mean number of distinct languages among a query's relevant documents is above 1.5. XQuAD-R has 11;
    a collection where each query has one relevant document, or all of them in one language, has 1.

    Args:
        qrels: judgements; what is above 0 is relevant.
        language_of: the language code of a document, ``""`` where it is unknown, which counts for nothing.
    """
    counts = []
    for judged in qrels.values():
        languages = {language_of(document) for document, relevance in judged.items() if relevance > 0}
        if languages:
            counts.append(len(languages - {""}))
    return bool(counts) and float(np.mean(counts)) > 1.5


def score(measures: Sequence[Measure], qrels: Qrels, rankings: Mapping[str, Sequence[str]]) -> Values:
    """Return the value of every measure for every query of ``qrels``; a query without a ranking scores 0.

    The order of a ranking is the truth and its scores are not looked at: trec_eval sorts a run again, by scores cast
    to float32 and then by id, the other libraries by id the other way round. They are handed ``-rank``, which never
    ties and is exact in float32 up to 16 million, so all of them see the order that the user saw.

    Args:
        measures: at least one.
        qrels: query id -> document id -> relevance.
        rankings: query id -> document ids, best first, each at most once. Queries without judgements are left out.

    Raises:
        ValueError: a document twice in one ranking.
    """
    values: Values = {query: {} for query in qrels}
    found = {query: ranking for query, ranking in rankings.items() if query in qrels and ranking}
    for query, ranking in found.items():
        if len(set(ranking)) < len(ranking):
            raise ValueError(f"the ranking of query {query!r} has {len(ranking)} hits, {len(set(ranking))} documents")
    judgements = {query: _with_a_grade(judged) for query, judged in qrels.items()}
    for cutoff, names in _groups(measures):
        run = {query: _pseudo_scores(ranking[:cutoff]) for query, ranking in found.items()}
        for metric in _PROVIDER.evaluator(list(names), judgements).iter_calc(run):
            values[metric.query_id].update(dict.fromkeys(names[metric.measure], float(metric.value)))
    for measure in measures:
        if measure.trec is None:
            for query, judged in qrels.items():
                values[query][measure.name] = _ap_of_ranking(judged, rankings.get(query, ())[: measure.cutoff])
    return {query: {m.name: of_query[m.name] for m in measures} for query, of_query in values.items()}


def _with_a_grade(judged: Mapping[str, int]) -> Mapping[str, int]:
    """Return ``judged`` with one grade of 0 or more, given to a document that nothing can find where there is none.

    trec_eval counts documents by grade and writes beyond its memory where all grades of a query are negative (pooled,
    never judged): pytrec_eval 0.5.11 then hangs or crashes, in the same query or a later one.
    """
    return judged if max(judged.values(), default=-1) >= 0 else {**judged, "": 0}


def _pseudo_scores(ranking: Sequence[str]) -> dict[str, float]:
    return {document: -float(rank) for rank, document in enumerate(ranking)}


def _groups(measures: Sequence[Measure]) -> list[tuple[int | None, dict[ir_measures.Measure, list[str]]]]:
    """Part the measures, with their names, into those that ir_measures may compute together, and their cutoff.

    None is handed more hits than it looks at, which is what takes the time. One evaluator of ir_measures 0.4.3 takes
    the gains of one nDCG for all: a measure with gains gets its own.
    """
    groups: dict[tuple[int | None, str], dict[ir_measures.Measure, list[str]]] = {}
    for measure in measures:
        if measure.trec is not None:
            own = str(measure.trec) if "gains" in measure.trec.params else ""
            group = groups.setdefault((measure.trec.params.get("cutoff"), own), {})
            group.setdefault(measure.trec, []).append(measure.name)
    return [(cutoff, group) for (cutoff, _), group in groups.items()]


def _ap_of_ranking(judged: Mapping[str, int], ranking: Sequence[str]) -> float:
    relevant = {document for document, relevance in judged.items() if relevance > 0}
    return average_precision([rank for rank, d in enumerate(ranking, 1) if d in relevant], len(relevant))


def average_precision(ranks: Sequence[int], relevant: int) -> float:
    """Return the mean, over the relevant documents, of the precision at the rank of each; those not found give 0.

    LAReQA (Roy et al. 2020, arXiv 2004.05484) ranks all candidates. Here a ranking ends at the cutoff D (1000 unless
    ``mAP@K`` says otherwise), so the value is a lower bound. How low: of R relevant documents let m be missing. The
    j-th of them would stand at a rank of D + j or later, with a precision of at most (R - m + j) / (D + j), so the
    loss is at most m (2R - m + 1) / (2 R (D + 1)), which is largest where all are missing: (R + 1) / (2 (D + 1)),
    0.006 for the 11 of XQuAD-R and D = 1000, and 0 for a query that found all.

    Args:
        ranks: ranks of the relevant documents that were found, from 1, in any order.
        relevant: R, how many there are.
    """
    if relevant == 0:
        return 0.0
    return sum(found / rank for found, rank in enumerate(sorted(ranks), 1)) / relevant


def average(
    measures: Sequence[Measure], per_query: Mapping[str, Mapping[str, float]], languages: Mapping[str, str]
) -> tuple[dict[str, float], Values]:
    """Average the values of the queries: over all, and per language.

    The mean over all counts every query alike, except LAReQA's mAP: there every language counts alike. Measures that
    trec_eval would sum (``NumRet``) are averaged too.

    Args:
        measures: what to average.
        per_query: query id -> name -> value, at least one query.
        languages: query id -> language code; ``""`` is reported as ``und``.
    """
    groups: dict[str, list[str]] = {}
    for query in per_query:
        groups.setdefault(languages[query] or "und", []).append(query)

    def mean(queries: Iterable[str], name: str) -> float:
        return float(np.mean([per_query[query][name] for query in queries]))

    per_language = {code: {m.name: mean(groups[code], m.name) for m in measures} for code in sorted(groups)}
    overall = {
        m.name: mean(per_query, m.name)
        if m.trec is not None
        else float(np.mean([values[m.name] for values in per_language.values()]))
        for m in measures
    }
    return overall, per_language
