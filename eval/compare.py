"""Systems side by side: is one better than another, by how much, and on which queries?

What is compared are the values of one measure for the same queries. The tests are the paired t-test, scipy's, and
Fisher's randomisation test, equal to scipy's, which Smucker, Allan and Carterette (2007, "A comparison of statistical
significance tests for information retrieval evaluation") advise. Not here: measures (:mod:`eval.measures`), tables
(:mod:`eval.tables`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from data.beir import read_qrels
from data.errors import InputError, UsageError
from eval.measures import DEFAULT_MEASURES, parse_measures, score
from eval.runs import read_run

RESAMPLES = 9999
CONFIDENCE = 0.95
SEED = 0
# Queries that are told of each pair.
MOST = 5
# Values of measures are float64 means of a few ratios: what differs by less is the same.
TIE = 1e-9
# Signs, or queries, drawn at a time, so that memory does not grow with their number.
_DRAWN = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two systems on one measure, paired by query.

    Attributes:
        first, second: their names.
        means: of each, over the queries. (LAReQA's mAP is averaged over languages elsewhere.)
        difference: mean of second less first: above 0, the second is better.
        interval: in which the difference lies with a confidence of 95 %, by bootstrap over the queries (percentiles);
            of one query its own value.
        t_test: two-sided p-value of the paired t-test.
        randomisation: two-sided p-value of Fisher's randomisation test, exact for 13 queries or fewer, else over
            9,999 drawn signs.
        t_test_holm, randomisation_holm: the same, corrected for all pairs on this measure (Holm 1979).
        wins, ties, losses: queries on which the second is better, equal, worse.
        extremes: the queries that differ most, with second less first.
    """

    first: str
    second: str
    means: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    t_test: float
    randomisation: float
    t_test_holm: float
    randomisation_holm: float
    wins: int
    ties: int
    losses: int
    extremes: list[tuple[str, float]]


def compare(values: Mapping[str, Mapping[str, float]]) -> list[Comparison]:
    """Compare every pair of systems.

    Args:
        values: system -> query id -> value of one measure; all systems have the same queries.

    Raises:
        UsageError: fewer than two systems, no query, or systems with other queries.
    """
    systems = list(values)
    if len(systems) < 2:
        raise UsageError(f"{len(systems)} system: a comparison needs two or more")
    queries = sorted(values[systems[0]])
    if not queries:
        raise UsageError("no query was judged: there is nothing to compare")
    for system in systems[1:]:
        if set(values[system]) != set(queries):
            raise UsageError(f"{systems[0]} and {system} were not measured on the same queries")
    table = {system: np.array([values[system][query] for query in queries], np.float64) for system in systems}
    pairs = list(combinations(systems, 2))
    differences = np.stack([_rounded(table[second] - table[first]) for first, second in pairs])
    t_tests, randomisations = [t_test(d) for d in differences], randomisation(differences)
    intervals = interval(differences)
    corrected = zip(holm(t_tests), holm(randomisations), strict=True)
    return [
        Comparison(
            first=first,
            second=second,
            means=(float(table[first].mean()), float(table[second].mean())),
            difference=float(d.mean()),
            interval=intervals[i],
            t_test=t_tests[i],
            randomisation=randomisations[i],
            t_test_holm=holms[0],
            randomisation_holm=holms[1],
            wins=int((d > TIE).sum()),
            ties=int((abs(d) <= TIE).sum()),
            losses=int((d < -TIE).sum()),
            extremes=_extremes(queries, d),
        )
        for i, ((first, second), d, holms) in enumerate(zip(pairs, differences, corrected, strict=True))
    ]


def _rounded(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take away what the last digits of floats make of equal values."""
    return np.where(abs(differences) <= TIE, 0.0, np.round(differences, 12))


def compare_runs(
    runs: Sequence[Path], qrels: Path, *, measures: Sequence[str] = (), drop_self: bool = False
) -> dict[str, Any]:
    """Measure TREC runs on judgements and compare them; what `polyseek compare --json` prints.

    Args:
        runs: two or more files.
        qrels: judgements, as :func:`data.beir.read_qrels` reads them; every judged query counts.
        measures: names as :func:`eval.measures.parse_measures` reads them; empty for the usual ones.
        drop_self: leave the document with the query's id out of its ranking.

    Returns:
        ``{"queries": number, "runs": {name: {measure: mean}}, "comparisons": [{"measure", "pairs": [...]}]}``.

    Raises:
        UsageError: an unknown measure, or fewer than two runs.
        NotFoundError, InputError: a file that is not there or cannot be read, with its line, or a run without any
            judged query.
    """
    parsed = parse_measures(measures or DEFAULT_MEASURES)
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run: a comparison needs two or more")
    judged, names = {query: grades for query, grades in read_qrels(qrels).items() if grades}, _names(runs)
    values = {}
    for name, path in zip(names, runs, strict=True):
        ranked = {query: [hit.id for hit in hits] for query, hits in read_run(path).items()}
        if not ranked.keys() & judged.keys():
            raise InputError(f"{path} ranks no query that {qrels} judges: do their ids match?")
        if drop_self:
            ranked = {query: [document for document in found if document != query] for query, found in ranked.items()}
        values[name] = score(parsed, judged, ranked)
    told: dict[str, Any] = {"queries": len(judged), "runs": {}, "comparisons": []}
    for name, of_run in values.items():
        told["runs"][name] = {m.name: float(np.mean([v[m.name] for v in of_run.values()])) for m in parsed}
    for measure in parsed:
        of_measure = {name: {q: v[measure.name] for q, v in of_run.items()} for name, of_run in values.items()}
        told["comparisons"].append({"measure": measure.name, "pairs": [asdict(c) for c in compare(of_measure)]})
    return told


def _names(runs: Sequence[Path]) -> list[str]:
    """Name runs by their files without the ending, or by their whole paths where those are the same."""
    stems = [run.stem for run in runs]
    names = stems if len(set(stems)) == len(stems) else [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UsageError("a run stands twice among those to compare")
    return names


def t_test(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value that paired differences (n,) have mean 0; 1 where all are equal to 0 or n is 1."""
    if len(differences) < 2 or not np.ptp(differences):
        return 0.0 if len(differences) > 1 and abs(differences[0]) > TIE else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def randomisation(differences: NDArray[np.float64], seed: int = SEED) -> list[float]:
    """Return the two-sided p-values of Fisher's randomisation test: how often signs drawn at random give as much.

    It is what `scipy.stats.permutation_test` gives with the same seed, whose signs these are, but they are drawn once
    for all pairs, whose sums are one product.

    Args:
        differences: (pairs, queries).
        seed: of the signs.
    """
    pairs, queries = differences.shape
    if queries < 2:
        return [1.0] * pairs
    found, exact = differences.sum(axis=1), 2**queries <= RESAMPLES
    counts = np.full((2, pairs), 0 if exact else 1)  # of drawn signs that give as little, as much; the found ones do
    for signs in _all_signs(queries) if exact else _drawn_signs(queries, seed):
        sums = signs @ differences.T
        counts += [(sums <= found + TIE).sum(axis=0), (sums >= found - TIE).sum(axis=0)]
    total = 2**queries if exact else RESAMPLES + 1
    return [float(p) for p in np.minimum(1.0, 2 * counts.min(axis=0) / total)]


def _all_signs(queries: int) -> Iterator[NDArray[np.float64]]:
    yield np.array(list(product((1.0, -1.0), repeat=queries)))


def _drawn_signs(queries: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield 9,999 rows of signs in batches: SciPy shuffles x and -x by the last bit of 32, and so do these."""
    rng, at_once = np.random.default_rng(seed), max(1, _DRAWN // queries)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        yield np.where(rng.integers(0, 1 << 32, (rows, queries), np.uint32) & 1, 1.0, -1.0)


def interval(differences: NDArray[np.float64], seed: int = SEED) -> list[tuple[float, float]]:
    """Return the bootstrap's percentiles of the means of differences (pairs, queries), for a confidence of 95 %.

    All pairs get the same resamples of the queries: how often each was drawn, times the differences, is one product.
    """
    queries = differences.shape[1]
    if queries < 2:
        return [(float(d.mean()), float(d.mean())) for d in differences]

    def means(drawn: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        places = drawn.reshape(-1, queries) + queries * np.arange(drawn.size // queries)[:, None]
        counts = np.bincount(places.ravel(), minlength=drawn.size).reshape(-1, queries)
        return np.asarray(differences @ counts.T / queries)  # (pairs, resamples)

    found = stats.bootstrap(
        (np.arange(queries),),
        means,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, _DRAWN // queries),
        rng=seed,
    ).confidence_interval
    return [(float(low), float(high)) for low, high in zip(found.low, found.high, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for having been looked at together (Holm 1979, "A simple sequentially rejective procedure").

    The i-th smallest of m is multiplied by m - i + 1; none gets smaller than the one before it, or greater than 1.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = least
    return corrected


def _extremes(queries: Sequence[str], differences: NDArray[np.float64]) -> list[tuple[str, float]]:
    order = sorted(range(len(queries)), key=lambda i: (-abs(differences[i]), queries[i]))
    return [(queries[i], float(differences[i])) for i in order[:MOST] if abs(differences[i]) > TIE]
