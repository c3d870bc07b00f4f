import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index.maxsim import maxsim as exact_maxsim
from index.ragged import Ragged
from retriever.training.losses import (
    Beside,
    Contrast,
    Taught,
    Texts,
    contrast_loss,
    info_nce,
    list_loss,
    maxsim,
    wanted,
)


def test_info_nce_by_hand():
    # Row 1: exp(2) of exp(2) + exp(1), row 2: exp(3) of exp(0) + exp(3); temperature .5.
    scores = torch.tensor([[1.0, 0.5], [0.0, 1.5]])
    hand = -(math.log(math.e**2 / (math.e**2 + math.e)) + math.log(math.e**3 / (1 + math.e**3))) / 2
    assert info_nce(scores, None, 0.5).item() == pytest.approx(hand, rel=1e-6)
    # Another query at 1.0, exp(2) more below the line of each; a query's similarity to itself counts for nothing.
    own = torch.tensor([[9.0, 1.0], [1.0, 9.0]])
    hand = -(
        math.log(math.e**2 / (2 * math.e**2 + math.e)) + math.log(math.e**3 / (1 + math.e**3 + math.e**2))
    ) / 2  # fmt: skip
    assert info_nce(scores, own, 0.5).item() == pytest.approx(hand, rel=1e-6)


def unit(rng, shape):
    values = rng.standard_normal(shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def filled(vectors, lengths):
    """Put token vectors into one array, with noise where there is no token."""
    most = max(lengths)
    late = torch.full((len(lengths), most, vectors.shape[1]), 7.0)
    mask = torch.zeros(len(lengths), most, dtype=torch.bool)
    ends = np.cumsum([0, *lengths])
    for i, length in enumerate(lengths):
        late[i, :length] = torch.from_numpy(vectors[ends[i] : ends[i + 1]])
        mask[i, :length] = True
    return Texts(None, late, mask)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_late_similarity_is_maxsim_over_the_number_of_query_tokens(seed, lengths):
    rng = np.random.default_rng(seed)
    a, b = unit(rng, (sum(lengths), 8)), unit(rng, (sum(lengths) + 2, 8))
    longer = [*lengths[:-1], lengths[-1] + 2]
    ragged = [Ragged(v, np.cumsum([0, *n])) for v, n in ((a, lengths), (b, longer))]
    wanted = exact_maxsim(*ragged) / np.array(lengths)[:, None]
    np.testing.assert_allclose(maxsim(filled(a, lengths), filled(b, longer)).numpy(), wanted, atol=1e-5)


def test_fewer_dimensions_are_brought_to_unit_length():
    a = filled(np.array([[0.6, 0.8, 0.0]], np.float32), [1])
    b = filled(np.array([[1.0, 0.0, 9.0]], np.float32), [1])
    assert maxsim(a, b, 2).item() == pytest.approx(0.6)


def test_a_passage_without_tokens_is_never_the_best():
    a, b = filled(np.ones((2, 2), np.float32), [1, 1]), filled(-np.ones((1, 2), np.float32), [1, 0])
    scores = maxsim(a, b)
    assert (scores[:, 0] > scores[:, 1]).all()


def test_lists_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.4, 0.3]])
    worth = torch.tensor([[3.0, 1.0, 0.0], [math.nan] * 3])
    # Leads .4 and .8 where 2 and 3 are wanted: (1.6 ** 2 + 2.2 ** 2) / 2.
    assert list_loss(scores, worth, Contrast(list_loss="margin-mse")).item() == pytest.approx(3.7, rel=1e-5)
    wanted = np.exp([3, 1, 0]) / np.exp([3, 1, 0]).sum()
    own = np.exp([9, 5, 1]) / np.exp([9, 5, 1]).sum()
    divergence = float((wanted * np.log(wanted / own)).sum())
    assert list_loss(scores, worth, Contrast(temperature=0.1)).item() == pytest.approx(divergence, rel=1e-4)
    assert list_loss(scores, torch.full((2, 3), math.nan), Contrast()).item() == 0


def rows(count, *english):
    return torch.tensor([row in english for row in range(count)])


def test_a_teacher_that_agrees_teaches_nothing():
    rng = np.random.default_rng(0)
    texts = [Texts(torch.from_numpy(unit(rng, (4, 8))), None, torch.ones(4, 1, dtype=torch.bool)) for _ in range(2)]
    both = Contrast(objectives=("dense",), temperature=0.1, distil=1.0, distil_temperature=0.1)
    a, b = texts
    turned = a._replace(dense=a.dense.flip(0))
    alone = contrast_loss(texts, both).item()
    assert contrast_loss(texts, both, Beside(Taught(a, b, rows(4)))).item() == pytest.approx(alone, abs=1e-5)
    assert contrast_loss(texts, both, Beside(Taught(turned, b, rows(4)))).item() > alone + 0.1


def test_an_anchor_holds_both_sides_of_what_the_teacher_read_in_english():
    angle = torch.tensor([0.0, math.pi / 3])
    sides = [torch.stack([angle.cos(), angle.sin()], dim=1), torch.tensor([[1.0, 0.0], [0.0, 1.0]])]
    texts = [Texts(3 * side, None, torch.ones(2, 1, dtype=torch.bool)) for side in sides]
    wanted = [texts[0]._replace(dense=torch.tensor(x)) for x in ([[5.0, 0], [5, 0]], [[5.0, 0], [0, -5]])]
    contrast = Contrast(objectives=("dense",), anchor=8.0)
    alone = contrast_loss(texts, contrast).item()
    # Queries are 0 and 1/2 away, passages 0 and 2: 8 * (1/4 + 1) / 2.
    for english, more in ((rows(2, 0, 1), 5), (rows(2), 0), (rows(2, 0), 0), (rows(2, 1), 10)):
        assert contrast_loss(texts, contrast, Beside(Taught(*wanted, english))).item() == pytest.approx(alone + more)


def test_token_vectors_are_held_where_the_teacher_ranks_alike():
    rng = np.random.default_rng(1)
    teacher, other = ([filled(unit(rng, (6, 8)), [1, 2, 3]) for _ in range(2)] for _ in range(2))
    contrast = Contrast(objectives=("late",), temperature=0.1, distil_temperature=0.1, hold=2.0, dims=(8, 4))
    free = Contrast(objectives=("late",), temperature=0.1, dims=(8, 4))

    def more(texts, english):
        return (contrast_loss(texts, contrast, Beside(Taught(*teacher, english))) - contrast_loss(texts, free)).item()

    whole = Contrast(objectives=("late",), temperature=0.1, distil_temperature=0.1, hold=2.0)
    agreed = contrast_loss(teacher, whole, Beside(Taught(*teacher, rows(3, 0, 1, 2)))) - contrast_loss(teacher, whole)
    assert agreed.item() == pytest.approx(0, abs=1e-5)
    assert more(other, rows(3)) == 0
    by_hand = []
    target = torch.softmax(maxsim(*teacher) / 0.1, dim=1)
    for dims in (8, 4):  # few dimensions learn what all of them tell
        for side in (maxsim(other[0], teacher[1], dims), maxsim(teacher[0], other[1], dims)):
            by_hand.append((target * (target.log() - torch.log_softmax(side / 0.1, dim=1))).sum(dim=1).numpy())
    assert more(other, rows(3, 0, 1, 2)) == pytest.approx(2 * np.mean(by_hand), rel=1e-4)
    assert more(other, rows(3, 0, 2)) == pytest.approx(2 * np.mean(np.delete(by_hand, 1, axis=1)), rel=1e-4)


@pytest.mark.parametrize("weight", ["distil", "anchor", "hold", "keep"])
@pytest.mark.parametrize("english", [(), (0, 1, 2), (1,)])
def test_every_vector_has_a_gradient_whatever_is_compared(weight, english):
    rng = np.random.default_rng(3)
    columns = [
        filled(unit(rng, (6, 8)), [1, 2, 3])._replace(dense=torch.from_numpy(unit(rng, (3, 4)))) for _ in range(3)
    ]
    leaves = [[v.requires_grad_() for v in texts[:2]] for texts in columns]
    own = (torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    teacher = [
        filled(unit(rng, (6, 8)), [1, 2, 3])._replace(dense=torch.from_numpy(unit(rng, (3, 4)))) for _ in range(2)
    ]
    taught = Taught(*teacher, rows(3, *english), own)
    loss = contrast_loss(columns, Contrast(pairs=0.0, **{weight: 1.0}), Beside(taught))
    gradients = torch.autograd.grad(loss, [v for side in leaves for v in side])  # fails where one is not used
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_token_vectors_of_the_teachers_own_texts_are_kept():
    mask = torch.tensor([[True, True], [True, False]])
    late = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [7.0, 7.0]]])  # the last is no token
    turned = torch.tensor([[[0.0, 1.0], [0.0, 5.0]], [[-1.0, 0.0], [0.0, 1.0]]])
    texts, teacher = Texts(None, late, mask), Texts(None, torch.nn.functional.pad(turned, (0, 0, 0, 3)),
                                                    torch.nn.functional.pad(mask, (0, 3)))  # fmt: skip
    free, keep = (Contrast(objectives=("late",), keep=weight) for weight in (0.0, 6.0))

    def more(first, second, *english):
        taught = Taught(teacher, teacher, rows(2, *english), (torch.tensor(first), torch.tensor(second)))
        return (contrast_loss([texts, texts], keep, Beside(taught)) - contrast_loss([texts, texts], free)).item()

    # Queries 1 and 0 away, passages 2: 6 * (1 + 0 + 2) / 3; of tokens, not of texts.
    assert more([True, False], [False, True], 0, 1) == pytest.approx(6, abs=1e-5)
    assert more([True, False], [False, True], 0) == pytest.approx(3, abs=1e-5)
    assert more([True, False], [False, False], 0, 1) == pytest.approx(3, abs=1e-5)
    assert more([False, False], [False, False], 0, 1) == more([True, True], [True, True]) == 0


def test_a_teacher_ranks_by_cosines_and_maxsim_in_the_shares_asked_for():
    rng = np.random.default_rng(2)
    a, b = (filled(unit(rng, (6, 8)), [1, 2, 3])._replace(dense=torch.from_numpy(unit(rng, (3, 4)))) for _ in range(2))
    for share in (0.0, 0.25, 1.0):
        similar = (1 - share) * (a.dense @ b.dense.T) + share * maxsim(a, b)
        found = wanted(Taught(a, b, rows(3)), Contrast(distil_late=share, distil_temperature=0.1))
        torch.testing.assert_close(found, torch.softmax(similar / 0.1, dim=1))
    alone = wanted(Taught(a._replace(dense=None), b, rows(3)), Contrast(distil_late=0.0, distil_temperature=0.1))
    torch.testing.assert_close(alone, torch.softmax(maxsim(a, b) / 0.1, dim=1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objectives": ("sparse",)}, "dense, late"),
        ({"list_loss": "x"}, "kl or margin"),
        ({"temperature": 0.0}, "0"),
        ({"objectives": ("late",), "anchor": 1.0}, "anchor needs the objective dense"),
        ({"objectives": ("dense",), "keep": 1.0}, "keep needs the objective late"),
        ({"distil_late": 1.5}, "distil_late = 1.5 is a share"),
    ],
)
def test_what_there_is_not_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Contrast(**values)
