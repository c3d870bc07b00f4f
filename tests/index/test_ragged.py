import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.ragged import Ragged

LENGTHS = st.lists(st.integers(0, 4), max_size=8)


def ragged(lengths, dims=3):
    """Make texts whose values count from 0, so that every vector is told from every other."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(np.arange(offsets[-1] * dims, dtype=np.float32).reshape(-1, dims), offsets)


def test_each_text_owns_its_vectors():
    texts = ragged([2, 0, 1])
    assert len(texts) == 3
    assert texts[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert texts[1].shape == (0, 3)
    assert texts[2].tolist() == [[6, 7, 8]]


def test_a_text_is_a_view_and_no_copy():
    texts = ragged([2, 1])
    assert np.shares_memory(texts[1], texts.values)


@pytest.mark.parametrize("position", [-1, 2])
def test_a_position_outside_is_refused(position):
    with pytest.raises(IndexError, match=f"text {position} of 2"):
        ragged([1, 1])[position]


@pytest.mark.parametrize(
    ("shape", "offsets", "message"),
    [
        ((4,), [0, 4], r"two dimensions \(T, d\), got 1"),
        ((4, 2, 1), [0, 4], r"two dimensions \(T, d\), got 3"),
        ((4, 2), [], r"got \(0,\)"),
        ((4, 2), [1, 4], r"start with 0, got \(2,\) \[1\]"),
        ((4, 2), [[0, 4]], r"got \(1, 2\)"),
        ((4, 2), [0, 3], "offsets end at 3 but there are 4 vectors"),
        ((4, 2), [0, 5], "offsets end at 5 but there are 4 vectors"),
        ((4, 2), [0, 3, 2, 4], "text 1 goes from 3 to 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(shape, offsets, message):
    with pytest.raises(ValueError, match=message):
        Ragged(np.zeros(shape, np.float32), np.array(offsets, np.int64))


@given(LENGTHS, st.data())
def test_take_gives_the_chosen_texts_in_that_order(lengths, data):
    texts = ragged(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8)) if lengths else []
    taken = texts.take(np.array(chosen, np.int64))
    assert len(taken) == len(chosen)
    for place, i in enumerate(chosen):
        np.testing.assert_array_equal(taken[place], texts[i])


@given(LENGTHS)
def test_of_gathers_what_the_texts_were(lengths):
    texts = ragged(lengths)
    gathered = Ragged.of([texts[i] for i in range(len(texts))], 3)
    np.testing.assert_array_equal(gathered.values, texts.values)
    np.testing.assert_array_equal(gathered.offsets, texts.offsets)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_texts_without_tokens_keep_the_dimension(count):
    empty = Ragged.of([np.zeros((0, 5), np.float32)] * count, 5)
    assert len(empty) == count
    assert empty.values.shape == (0, 5)
    assert len(empty.take(np.arange(count))) == count


def test_taken_vectors_are_a_copy():
    texts = ragged([1, 1])
    taken = texts.take(np.array([0]))
    taken.values[:] = -1
    assert texts[0].tolist() == [[0, 1, 2]]
