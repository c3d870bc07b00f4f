import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.maxsim import maxsim
from index.ragged import Ragged
from tests.index.toy import unit_rows

LENGTHS = st.lists(st.integers(0, 7), max_size=7)


def ragged(lengths, seed, dims=8):
    rng = np.random.default_rng(seed)
    return Ragged.of([unit_rows(rng, n, dims) for n in lengths], dims)


def plain(queries, documents):
    """The formula as it is written, one similarity after another."""
    return [
        [
            sum((max(float(np.dot(a, b)) for b in documents[j]) for a in queries[i]), 0.0)
            if len(documents[j])
            else -np.inf
            for j in range(len(documents))
        ]
        for i in range(len(queries))
    ]


def test_by_hand():
    # Query tokens (1, 0) and (0, 1); document 0 has (.6, .8) and (-1, 0): max(.6, -1) + max(.8, 0) = 1.4.
    # Document 1 has (0, -1): 0 + -1 = -1. Document 2 has nothing to find.
    queries = Ragged.of([np.array([[1, 0], [0, 1]], np.float32)], 2)
    documents = Ragged.of([np.array(x, np.float32).reshape(-1, 2) for x in ([[0.6, 0.8], [-1, 0]], [[0, -1]], [])], 2)
    np.testing.assert_allclose(maxsim(queries, documents), [[1.4, -1.0, -np.inf]], atol=1e-7)


def test_a_document_that_is_unlike_stays_negative_beside_a_longer_one():
    # A padded kernel without mask would lift it to 0.
    queries = Ragged.of([np.array([[1, 0]], np.float32)], 2)
    documents = Ragged.of([np.array([[-1, 0]], np.float32), np.array([[-0.6, 0.8]] * 5, np.float32)], 2)
    np.testing.assert_allclose(maxsim(queries, documents), [[-1.0, -0.6]], atol=1e-7)


@given(LENGTHS, LENGTHS, st.integers(0, 99))
def test_equals_the_formula_as_it_is_written(asked, held, seed):
    queries, documents = ragged(asked, seed), ragged(held, seed + 1)
    found = maxsim(queries, documents)
    assert found.shape == (len(asked), len(held))
    assert found.dtype == np.float32
    if found.size:
        np.testing.assert_allclose(found, plain(queries, documents), atol=1e-5)


@given(LENGTHS, LENGTHS, st.integers(0, 99), st.sampled_from([1, 5, 40, 1000]))
def test_the_answer_does_not_depend_on_the_memory(asked, held, seed, similarities):
    queries, documents = ragged(asked, seed), ragged(held, seed + 1)
    little = maxsim(queries, documents, similarities=similarities)
    np.testing.assert_allclose(little, maxsim(queries, documents), atol=1e-6)


@given(LENGTHS, LENGTHS, st.integers(0, 99))
def test_in_float64_the_score_depends_on_nothing_but_the_two_texts(asked, held, seed):
    queries, documents = ragged(asked, seed), ragged(held, seed + 1)
    whole = maxsim(queries, documents, dtype=np.float64)
    for i in range(len(queries)):
        for j in range(len(documents)):
            alone = maxsim(queries.take(np.array([i])), documents.take(np.array([j])), dtype=np.float64)
            assert alone[0, 0] == whole[i, j]


def test_vectors_stored_as_float16_are_summed_as_float32():
    queries, documents = ragged([3], 0), ragged([4, 1], 1)
    half = Ragged(documents.values.astype(np.float16), documents.offsets)
    back = Ragged(half.values.astype(np.float32), half.offsets)
    np.testing.assert_array_equal(maxsim(queries, half), maxsim(queries, back))


@pytest.mark.parametrize("seed", range(5))
def test_equals_sentence_transformers(seed):
    import torch
    from sentence_transformers.util import maxsim as reference

    rng = np.random.default_rng(seed)
    queries = ragged([1, *rng.integers(1, 33, 6)], seed, 32)
    documents = ragged([1, *rng.integers(1, 200, 30), 1], seed + 100, 32)
    # A document opposite to everything that is asked, with all similarities below zero, beside longer ones.
    opposite = Ragged.of([-np.abs(unit_rows(rng, 3, 32))], 32)
    documents = Ragged.of([*(documents[i] for i in range(len(documents))), opposite[0]], 32)
    queries = Ragged.of([*(queries[i] for i in range(len(queries))), np.abs(unit_rows(rng, 4, 32))], 32)
    wanted = reference(
        [torch.tensor(queries[i]) for i in range(len(queries))],
        [torch.tensor(documents[j]) for j in range(len(documents))],
    )
    assert wanted[-1, -1] < 0
    np.testing.assert_allclose(maxsim(queries, documents), wanted.numpy(), atol=1e-4)
