import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.regularization import FAR, NEAR, regularize


def angled(*degrees):
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def far_enough(weight):
    """Return the angle between texts that count so much for each other."""
    return np.degrees(np.arccos(FAR + weight * (NEAR - FAR)))


def test_a_text_and_its_translation_by_hand():
    half = far_enough(0.5)
    scores = np.array([4.0, 1.0, 2.0], np.float32)
    vectors = angled(0, half, half + 170)
    found = regularize(scores, vectors, np.array([0, 1, 0]), 0)
    # A quarter of the way, .5 of 2, to (4 + .5 * 1) / 1.5 and (1 + .5 * 4) / 1.5; what is far from both stays.
    assert found == pytest.approx([3.75, 1.25, 2], abs=0.01)
    # Weights of .25: an eighth of the way to (4 + .25) / 1.25 and (1 + .25 * 4) / 1.25.
    found = regularize(scores, vectors, np.array([0, 1, 0]), 0.5)
    assert found == pytest.approx([4 - 0.6 / 8, 1 + 0.6 / 8, 2], abs=0.01)
    assert regularize(scores, vectors, np.array([0, 1, 0]), 1.0).tolist() == [4, 1, 2]


def test_neighbours_in_the_same_language_do_not_count():
    scores = np.array([3.0, 1.0, 2.0], np.float32)
    np.testing.assert_array_equal(regularize(scores, angled(0, 1, 2), np.zeros(3, np.int64), 0), scores)
    np.testing.assert_array_equal(regularize(scores, angled(0, 1, 2), np.full(3, -1), 0), scores)  # nobody knows


def test_only_the_nearest_of_a_language_counts_and_only_if_that_is_mutual():
    scores = np.array([6.0, 2.0, 0.0], np.float32)
    # Two texts of language 1 near one of language 0: the nearer is its translation, the other stays alone.
    found = regularize(scores, angled(0, 5, 10), np.array([0, 1, 1]), 0)
    assert found == pytest.approx([5, 3, 0])  # half of the way to 4


def test_several_translations_are_averaged():
    scores = np.array([9.0, 3.0, 0.0, 5.0], np.float32)
    found = regularize(scores, angled(0, 1, 2, 180), np.array([0, 1, 2, 3]), 0)
    assert found == pytest.approx([4, 4, 4, 5])


def test_a_text_that_stands_twice_is_the_same_translation_twice():
    found = regularize(np.array([3.0, 1.0, 1.0], np.float32), angled(0, 0, 0), np.array([0, 1, 1]), 0)
    assert found.tolist() == [2.5, 1.5, 1.5]


def test_a_text_without_a_direction_is_nobodys_translation():
    vectors = np.array([[1, 0], [0, 0]], np.float32)
    assert regularize(np.array([2.0, 1.0], np.float32), vectors, np.array([0, 1]), 0).tolist() == [2, 1]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 5), st.floats(0, 1))
def test_it_is_a_mean_whatever_the_order_and_the_unit(seed, count, languages, alpha):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(count).astype(np.float32))[::-1]
    vectors = rng.standard_normal((count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = rng.integers(-1, languages, count)
    found = regularize(scores, vectors, codes, alpha)
    assert (found >= scores.min() - 1e-6).all()
    assert (found <= scores.max() + 1e-6).all()
    order = rng.permutation(count)
    np.testing.assert_allclose(regularize(scores[order], vectors[order], codes[order], alpha), found[order], atol=1e-6)
    np.testing.assert_allclose(regularize(3 * scores - 1, vectors, codes, alpha), 3 * found - 1, atol=1e-5)
    twice = vectors + np.float32(1e-7) * rng.standard_normal(vectors.shape).astype(np.float32)
    assert (np.abs(regularize(scores, twice, codes, alpha) - found) <= 0.01).all()
