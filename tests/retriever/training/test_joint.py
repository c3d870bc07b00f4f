import numpy as np
import pytest
import torch

from retriever.training import joint
from retriever.training.batches import Row
from retriever.training.columns import collator, dataset
from retriever.training.joint import JointLoss
from retriever.training.losses import Contrast
from retriever.training.recipe import Recipe

QUERIES = ["query: what turns a coral reef white?", "query: ein Fuchs springt", "query: 珊瑚会变白", "query: uzio"]
PASSAGES = [
    "passage: The coral reef turns white when the sea is warm.",
    "passage: Mbweha anaruka uzio.",
    "passage: Коралловый риф белеет, когда море тёплое.",
    "passage: Ein Fuchs springt über den Zaun. Das Meer ist warm.",
]


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


@pytest.mark.parametrize("most", [1, 20, 10_000])
@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_have_the_vectors_of_one_pass(model, monkeypatch, most, side):
    monkeypatch.setitem(joint.BLOCK, "cpu", most)
    model.tokenizer.padding_side = side
    texts = [*PASSAGES, "passage: 🙂", "passage: " + "ข้อความยาว " * 9]
    columns = features(model, texts)
    loss = JointLoss(model, Contrast())
    found = loss.encode(columns, passage=True)
    assert found.late.shape[:2] == found.mask.shape == columns["input_ids"].shape
    wanted = model(dict(columns))
    torch.testing.assert_close(found.dense, wanted["sentence_embedding"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.late[found.mask], wanted["token_embeddings"][found.mask], atol=1e-5, rtol=1e-5)
    assert found.mask.equal(joint.text_mask(columns, loss._special, 0))


def test_a_teacher_knows_texts_by_their_rows(tiny_folder):
    from peft import inject_adapter_in_model
    from sentence_transformers import SentenceTransformer

    from retriever.training.model import lora

    model = SentenceTransformer(str(tiny_folder), device="cpu").eval()
    wanted = [model(features(model, texts))["sentence_embedding"] for texts in (QUERIES, PASSAGES)]
    a, b = (torch.nn.functional.normalize(vectors, dim=-1) for vectors in wanted)
    inject_adapter_in_model(lora(4), model[0].model)
    columns = [features(model, texts) for texts in (QUERIES, PASSAGES, QUERIES, PASSAGES)]
    columns[2]["english"] = torch.tensor([True, False, False, True])
    loss = JointLoss(model, Contrast(distil=1.0))
    before = loss.encode(columns[0], passage=False).late.detach()
    with torch.no_grad():  # what is learned afterwards is not the teacher's
        for parameter in model[-1].parameters():
            parameter.mul_(-1)
    _, taught = loss.taught(columns)
    torch.testing.assert_close(taught.queries.late, before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taught.queries.dense, a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taught.positives.dense, b, atol=1e-5, rtol=1e-5)
    assert taught.english.tolist() == [True, False, False, True]


def test_without_adapters_the_teacher_is_the_model_of_the_beginning(tiny_folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_folder), device="cpu").eval()
    texts = [QUERIES[0], *QUERIES, QUERIES[0]]  # one text more than once is one vector more than once
    columns = [features(model, side) for side in (texts, [*PASSAGES, *PASSAGES[:2]][: len(texts)])] * 2
    columns[2] = columns[2] | {"english": torch.zeros(len(texts), dtype=torch.bool)}
    loss = JointLoss(model, Contrast(distil=1.0))
    before = [loss.encode(column, passage=place > 0) for place, column in enumerate(columns[:2])]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5).add_(0.01)
    _, taught = loss.taught(columns)
    for found, old in zip(taught[:2], before, strict=True):
        torch.testing.assert_close(found.dense, old.dense, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.late[found.mask], old.late[old.mask], atol=1e-5, rtol=1e-5)
        assert found.mask.equal(old.mask)


def test_a_teacher_knows_which_texts_are_its_own(tiny_folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_folder), device="cpu").eval()
    loss = JointLoss(model, Contrast(keep=1.0))
    asked = [QUERIES[0], QUERIES[1]]
    columns = [features(model, x) for x in ([QUERIES[0], QUERIES[2] * 3], PASSAGES[:2], asked, PASSAGES[1:3])]
    columns[2]["english"] = torch.tensor([True, True])
    _, taught = loss.taught(columns)
    assert [side.tolist() for side in taught.own] == [[True, False], [False, False]]


def test_the_trainer_hands_on_which_rows_are_english(tiny_folder):
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

    model = SentenceTransformer(str(tiny_folder), device="cpu").eval()
    english = [True, False, True, False]
    rows = [Row(q, p, (), q, p, x) for q, p, x in zip(QUERIES, PASSAGES, english, strict=True)]
    recipe = Recipe(data=(), contrast=Contrast(keep=1.0), held_out=0)
    batch = collator(model, 32)(list(dataset([rows], model, recipe)))
    columns, labels = SentenceTransformerTrainer.collect_features(None, batch)
    assert labels is None and len(columns) == 4
    assert JointLoss(model, recipe.contrast).taught(columns)[1].english.tolist() == english
