"""Levels beside an independent computation, and what must not change."""

import numpy as np
import pytest

from index.centroids import KAPPA, NO_SUMS, Centroids, sum_by_language
from index.dense import DenseView
from index.levels import SPREAD, Levels
from index.ragged import Ragged
from index.ranking import Ranked
from index.vectors import VectorRows

LANGUAGES = ["", "de", "en", "sw"]


def unit(values):
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def rows_of(codes, values, order=None):
    """The dense rows of texts with one vector each; ids stand in ``order``."""
    codes = np.asarray(codes, np.int64)
    offsets = np.arange(len(codes) + 1)
    sums = sum_by_language(values, offsets, codes, LANGUAGES) if len(codes) else NO_SUMS
    order = np.arange(len(codes)) if order is None else order
    live = np.ones(len(codes), np.bool_)
    return VectorRows([Ragged(values, offsets)], live, LANGUAGES, codes, Centroids(sums, None, values.shape[1]), order)


@pytest.fixture
def values():
    return unit(np.random.default_rng(3).normal(size=(24, 6)) + np.repeat(np.eye(6)[:3], 8, axis=0))


CODES = [1] * 8 + [2] * 8 + [3] * 8


def test_a_level_is_the_mean_and_the_deviation_of_what_has_nothing_to_do_with_it(values):
    rows = rows_of(CODES, values)
    levels = DenseView(rows, [None]).levels
    centered = rows.read(np.arange(24), neutral=True).values.astype(np.float64)
    scores = centered @ centered.T  # few enough texts that all of each language are compared with all
    weight = 8 / (8 + KAPPA)
    for g in range(3):
        measured = []
        for x in range(3):
            told = []
            for text in range(8 * g, 8 * g + 8):
                own = [scores[text, passage] for passage in range(8 * x, 8 * x + 8) if passage != text]
                told.append(np.mean(own) + SPREAD * np.std(own))
            measured.append(np.mean(told))
        expected = [weight**2 * (level - np.mean(measured)) for level in measured]
        np.testing.assert_allclose(levels.loss[LANGUAGES[g + 1]], [0, *expected], atol=1e-6)


def test_a_language_that_is_not_there_loses_what_others_do_on_average(values):
    levels = DenseView(rows_of(CODES, values), [None]).levels
    assert set(levels.loss) == {"de", "en", "sw"}
    assert levels.other[0] == 0  # passages of unknown language stay as they are
    assert abs(levels.other[1:].mean()) < 1e-7


def test_one_language_has_no_levels(values):
    assert DenseView(rows_of([2] * 24, values), [None]).levels is None
    assert DenseView(rows_of([0] * 12 + [2] * 12, values), [None]).levels is None


def test_the_order_of_adds_changes_nothing(values):
    turned = np.random.default_rng(1).permutation(24)
    a = DenseView(rows_of(CODES, values), [None]).levels
    b = DenseView(rows_of(np.array(CODES)[turned], values[turned], turned), [None]).levels
    for language in a.loss:
        np.testing.assert_allclose(a.loss[language], b.loss[language], atol=1e-6)


def test_few_documents_of_a_language_change_little(values):
    few = rows_of(CODES[:17], values[:17])
    loss = DenseView(few, [None]).levels.loss
    assert loss["sw"][3] == 0  # its one text is compared with nothing else in its language
    assert np.isfinite([*loss.values()]).all()


def test_empty_texts_are_left_out(values):
    values[0] = 0
    assert np.isfinite([*DenseView(rows_of(CODES, values), [None]).levels.loss.values()]).all()
    nothing = DenseView(rows_of(CODES, np.zeros((24, 6), np.float32)), [None]).levels
    assert not np.any([*nothing.loss.values()])


def test_scores_lose_by_language_and_token():
    levels = Levels(
        {"de": np.array([0.25, -0.5], np.float32)}, np.zeros(2, np.float32), np.array([0, 1, 0]), np.arange(3)
    )
    ranked = Ranked(np.array([0, 2, 1]), np.array([3, 2, 1], np.float32))
    rows, scores = levels.lower(ranked, "de", 2, 2)
    assert (rows.tolist(), scores.tolist()) == ([0, 1], [2.5, 2.0])
    assert levels.lower(ranked, "en", 2, 3).rows.tolist() == [0, 2, 1]
