import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index.maxsim import maxsim as exact_maxsim
from index.ragged import Ragged
from retriever.training.losses import Beside, Contrast, JointLoss, Texts, contrast_loss, info_nce, list_loss, maxsim

QUERIES = ["query: what turns a coral reef white?", "query: ein Fuchs springt", "query: 珊瑚会变白", "query: uzio"]
PASSAGES = [
    "passage: The coral reef turns white when the sea is warm.",
    "passage: Mbweha anaruka uzio.",
    "passage: Коралловый риф белеет, когда море тёплое.",
    "passage: Ein Fuchs springt über den Zaun. Das Meer ist warm.",
]


def test_info_nce_by_hand():
    # Row 1: exp(2) of exp(2) + exp(1), row 2: exp(3) of exp(0) + exp(3); temperature .5.
    scores = torch.tensor([[1.0, 0.5], [0.0, 1.5]])
    wanted = -(math.log(math.e**2 / (math.e**2 + math.e)) + math.log(math.e**3 / (1 + math.e**3))) / 2
    assert info_nce(scores, None, 0.5).item() == pytest.approx(wanted, rel=1e-6)
    # Another query at 1.0, exp(2) more below the line of each; a query's similarity to itself counts for nothing.
    own = torch.tensor([[9.0, 1.0], [1.0, 9.0]])
    wanted = -(
        math.log(math.e**2 / (2 * math.e**2 + math.e)) + math.log(math.e**3 / (1 + math.e**3 + math.e**2))
    ) / 2  # fmt: skip
    assert info_nce(scores, own, 0.5).item() == pytest.approx(wanted, rel=1e-6)


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


def test_a_teacher_that_agrees_teaches_nothing():
    rng = np.random.default_rng(0)
    texts = [Texts(torch.from_numpy(unit(rng, (4, 8))), None, torch.ones(4, 1, dtype=torch.bool)) for _ in range(2)]
    both = Contrast(objectives=("dense",), temperature=0.1, distil=1.0, distil_temperature=0.1)
    own = texts[0].dense @ texts[1].dense.T
    alone = contrast_loss(texts, both).item()
    assert contrast_loss(texts, both, Beside(own)).item() == pytest.approx(alone, abs=1e-5)
    assert contrast_loss(texts, both, Beside(own.flip(0))).item() > alone + 0.1


@pytest.mark.parametrize(
    ("values", "said"),
    [({"objectives": ("sparse",)}, "dense, late"), ({"list_loss": "x"}, "kl or margin"), ({"temperature": 0.0}, "0")],
)
def test_what_there_is_not_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Contrast(**values)


@pytest.fixture
def model(tiny_folder):
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(tiny_folder), device="cpu")
    loaded.eval()  # no dropout: both ways of computing see the same
    return loaded


def features(model, texts):
    return model.preprocess(texts)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [1, 3, 4, 9])
@pytest.mark.parametrize("objectives", [("dense",), ("late",), ("dense", "late")])
def test_grad_cache_has_the_gradients_of_one_pass(model, size, objectives):
    contrast = Contrast(objectives=objectives, temperature=0.1, dims=(16, 8) if "late" in objectives else ())
    columns = [features(model, QUERIES), features(model, PASSAGES), features(model, PASSAGES[::-1])]
    plain = JointLoss(model, contrast)(columns)
    wanted = gradients(model, plain)
    cached = JointLoss(model, contrast, mini_batch=size)(columns)
    found = gradients(model, cached)
    assert cached.item() == pytest.approx(plain.item(), abs=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def test_grad_cache_heeds_the_scale_of_the_loss(model):
    columns = [features(model, QUERIES), features(model, PASSAGES)]
    contrast = Contrast(temperature=0.1)
    wanted = gradients(model, JointLoss(model, contrast)(columns) / 4)
    found = gradients(model, JointLoss(model, contrast, mini_batch=2)(columns) / 4)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def test_nothing_is_learned_from_where_no_gradient_is_wanted(model):
    columns = [features(model, QUERIES), features(model, PASSAGES)]
    with torch.no_grad():
        loss = JointLoss(model, Contrast(), mini_batch=2)(columns)
    assert not loss.requires_grad


def test_late_interaction_leaves_the_prompt_out_as_the_encoder_does(model, tiny):
    loss = JointLoss(model, Contrast(), prompted=[tiny._prompted["query"], tiny._prompted["document"]])
    with torch.no_grad():
        found = loss.encode(features(model, [QUERIES[0]]), passage=False)
    kept = torch.nn.functional.normalize(found.late[0][found.mask[0]], dim=-1).numpy()
    np.testing.assert_allclose(kept, tiny.encode_queries([QUERIES[0].removeprefix("query: ")]).late.values, atol=1e-5)
