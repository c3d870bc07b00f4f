import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.ranking import best, contenders, settle

# Few different scores, so that ties lie across every boundary.
SCORES = st.lists(st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0]), max_size=30)


def ids_of(count, seed):
    """Return the position of each row's id among all ids, in no order."""
    return np.random.default_rng(seed).permutation(count).astype(np.int64)


@given(SCORES, st.integers(0, 40), st.integers(0, 99))
def test_one_order_is_score_then_id_both_descending(scores, k, seed):
    order = ids_of(len(scores), seed)
    found = best(np.arange(len(scores)), np.array(scores, np.float32), k, id_order=order)
    wanted = sorted(range(len(scores)), key=lambda row: (scores[row], order[row]), reverse=True)[:k]
    assert found.rows.tolist() == wanted
    assert found.scores.tolist() == [scores[row] for row in wanted]
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32


def test_ties_across_the_boundary_go_to_the_greater_id():
    # Rows 1, 2 and 3 tie for two places; their ids stand at positions 2, 0 and 3, so rows 3 and 1 win.
    found = best(np.arange(4), np.array([9, 5, 5, 5], np.float32), 3, id_order=np.array([1, 2, 0, 3]))
    assert found.rows.tolist() == [0, 3, 1]


def test_candidates_may_be_some_rows_only():
    found = best(np.array([2, 5]), np.array([1, 2], np.float32), 9, id_order=np.arange(6))
    assert found.rows.tolist() == [5, 2]


@pytest.mark.parametrize("k", [0, -1])
def test_nothing_is_found_where_nothing_is_asked_for(k):
    found = best(np.arange(3), np.ones(3, np.float32), k, id_order=np.arange(3))
    assert found.rows.tolist() == []
    assert found.scores.dtype == np.float32


@given(SCORES.filter(len), st.integers(1, 40), st.sampled_from([0.0, 0.5, 2.0]))
def test_contenders_are_all_that_reach_the_kth_score_with_slack(scores, k, slack):
    kth = sorted(scores, reverse=True)[min(k, len(scores)) - 1]
    wanted = [i for i, score in enumerate(scores) if k >= len(scores) or score >= kth - slack]
    assert contenders(np.array(scores, np.float32), k, slack).tolist() == wanted


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 99))
def test_settling_gives_the_order_of_the_exact_scores(count, k, seed):
    # Exact scores are multiples of 2 ** -10 and ties are many; what is known of them is up to 0.0004 off.
    rng = np.random.default_rng(seed)
    exact = (rng.integers(0, 20, count) / 1024).astype(np.float32)
    known = (exact + rng.uniform(-0.0004, 0.0004, count)).astype(np.float32)
    rows, order = np.arange(count), ids_of(count, seed)
    asked = []

    def made_anew(some):
        asked.append(some)
        return exact[some]

    found = settle(rows, known, k, slack=0.0009, exact=made_anew, id_order=order)
    assert found.rows.tolist() == best(rows, exact, k, id_order=order).rows.tolist()
    assert all(np.all(np.diff(some) > 0) for some in asked)


def test_scores_that_nobody_doubts_are_not_made_anew():
    def never(rows):
        raise AssertionError(rows)

    found = settle(np.arange(3), np.array([1, 3, 2], np.float32), 2, slack=0.5, exact=never, id_order=np.arange(3))
    assert found.rows.tolist() == [1, 2]
