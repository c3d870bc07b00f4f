"""Comparisons against scipy and ranx, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from data.errors import UsageError
from eval.compare import compare, holm, interval, randomisation, t_test

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, queries=40, systems=3):
    rng = np.random.default_rng(seed)
    base = rng.random(queries)
    return {
        f"s{s}": {f"q{q}": float(round(base[q] + 0.1 * s * rng.random(), 2)) for q in range(queries)}
        for s in range(systems)
    }


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_p_values_are_those_of_scipy_and_ranx(seed):
    from ranx.statistical_tests import fisher_randomization_test, paired_student_t_test

    values = drawn(seed)
    for found in compare(values):
        first, second = (np.array(list(values[name].values())) for name in (found.first, found.second))
        assert found.t_test == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=1e-12)
        assert found.t_test == pytest.approx(paired_student_t_test(first, second, max_p=0.05)[0], abs=1e-9)
        ranx, _ = fisher_randomization_test(first, second, max_p=0.05, n_permutations=9999, random_seed=seed % 1000)
        # Both draw 9,999 times: four standard errors of two proportions.
        assert found.randomisation == pytest.approx(ranx, abs=4 * np.sqrt(2 * 0.25 / 9999))
        assert found.difference == pytest.approx(second.mean() - first.mean())
        assert found.means == pytest.approx((first.mean(), second.mean()))
        assert found.interval[0] <= found.difference <= found.interval[1]
        assert found.wins + found.ties + found.losses == 40


def test_few_queries_have_all_signs():
    # 1, 2 and 3 better: of eight signs, all plus and all minus give as much. -1, 2 and 3: sums of 6 and 4, -6 and -4.
    assert randomisation(np.array([[1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]])) == pytest.approx([2 / 8, 4 / 8])


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.integers(2, 40), st.integers(1, 3))
def test_many_pairs_have_the_p_values_and_intervals_that_scipy_gives_each_alone(seed, queries, pairs):
    # Hundredths, as whole numbers, so that what ties in one order of summation ties in all.
    differences = np.random.default_rng(seed).integers(-20, 25, (pairs, queries)).astype(np.float64)
    for d, p, (low, high) in zip(differences, randomisation(differences), interval(differences), strict=True):
        alone = stats.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=9999, rng=0, vectorized=True
        )  # fmt: skip
        assert p == pytest.approx(alone.pvalue, abs=1e-12)
        if np.ptp(d):
            drawn = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=9999, rng=0).confidence_interval
            assert (low, high) == pytest.approx((drawn.low, drawn.high), abs=1e-12)


def test_holm_by_hand():
    # .01 * 4; .02 * 3 = .06; .03 * 2 = .06; .9 * 1
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])  # never less than the one before
    assert holm([0.8, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_wins_ties_losses_and_what_differs_most():
    values = {"a": {"x": 0.5, "y": 0.5, "z": 0.1, "w": 0.0}, "b": {"w": 1.0, "x": 0.5 + 1e-12, "y": 0.2, "z": 0.2}}
    (found,) = compare(values)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.extremes == [("w", 1.0), ("y", pytest.approx(-0.3)), ("z", pytest.approx(0.1))]
    assert (found.first, found.second, found.difference) == ("a", "b", pytest.approx(0.2))


@pytest.mark.parametrize("differences", [[0.0], [0.0, 0.0, 0.0], [0.3], [0.3, 0.3, 0.3, 0.3, 0.3, 0.3]])
def test_differences_that_do_not_differ(differences):
    d = np.array(differences)
    assert interval(d[None]) == [(pytest.approx(d[0]), pytest.approx(d[0]))]
    assert t_test(d) == (0.0 if len(d) > 1 and d[0] else 1.0)
    assert 0 < randomisation(d[None])[0] <= 1


def test_what_differs_in_the_last_digit_does_not_differ():
    first = {f"q{i}": 0.1 * i + 0.3 for i in range(12)}
    (found,) = compare({"a": first, "b": {query: float(np.nextafter(value, 9)) for query, value in first.items()}})
    assert (found.ties, found.difference, found.t_test, found.randomisation) == (12, 0.0, 1.0, 1.0)
    (found,) = compare({"a": first, "b": {query: value + 0.3 for query, value in first.items()}})  # .3 but for noise
    assert (found.wins, found.t_test) == (12, 0.0)


def test_the_same_comes_out_every_time():
    assert compare(drawn(7)) == compare(drawn(7))


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for low, high in interval(rng.standard_normal((60, 60)))]
    assert 0.85 <= np.mean(held) <= 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"a": {"q": 1.0}}, "a comparison needs two"),
        ({"a": {}, "b": {}}, "no query was judged"),
        ({"a": {"q": 1.0}, "b": {"p": 1.0}}, "a and b were not measured on the same queries"),
    ],
)
def test_what_cannot_be_compared_is_told(values, told):
    with pytest.raises(UsageError, match=told):
        compare(values)
