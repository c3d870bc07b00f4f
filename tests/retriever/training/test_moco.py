import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from data.errors import InputError, UsageError
from retriever.training.batches import Mixer, Mixing
from retriever.training.cropping import Cropping
from retriever.training.examples import Skipped, read_sources
from retriever.training.joint import JointLoss
from retriever.training.losses import Beside, Contrast, Texts, contrast_loss
from retriever.training.moco import Moco, MomentumLoss, Ring
from retriever.training.model import open_model
from retriever.training.recipe import Data, Optimizing, Recipe, read_recipe
from retriever.training.train import train

DENSE = Contrast(objectives=("dense",), temperature=0.05, symmetric=False, own_side=False)
QUERIES = ["query: coral reef", "query: der Fuchs", "query: bahari"]
PASSAGES = ["passage: the sea is warm", "passage: springt über den Zaun", "passage: 海水变暖"]


def rows(first, count):
    """Return vectors that say which they are."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, 2)


@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=8))
def test_a_ring_holds_the_last_vectors_in_order(size, counts):
    ring, pushed = Ring(size, 2), 0
    for count in counts:
        ring.push(rows(pushed, count))
        pushed += count
        assert torch.equal(ring.held(), rows(max(0, pushed - size), min(size, pushed)))


def dense(*vectors):
    return Texts(torch.tensor(vectors), None, torch.ones(len(vectors), 1, dtype=torch.bool))


def test_info_nce_with_a_queue_by_hand():
    queries, passages = dense([1.0, 0.0], [0.0, 1.0]), dense([1.0, 0.0], [0.6, 0.8])
    contrast = replace(DENSE, temperature=0.5)
    # Cosines: query 1 has 1 and .6 in the batch and 0 and -1 in the queue, query 2 has 0 and .8, 1 and 0.
    first = -np.log(np.exp(2.0) / (np.exp(2.0) + np.exp(1.2) + np.exp(0.0) + np.exp(-2.0)))
    second = -np.log(np.exp(1.6) / (np.exp(0.0) + np.exp(1.6) + np.exp(2.0) + np.exp(0.0)))
    found = contrast_loss([queries, passages], contrast, Beside(queue=dense([0.0, 1.0], [-1.0, 0.0])))
    assert float(found) == pytest.approx((first + second) / 2, abs=1e-6)
    empty = Texts(torch.zeros(0, 2), None, torch.ones(0, 1, dtype=torch.bool))
    assert contrast_loss([queries, passages], contrast, Beside(queue=empty)) == contrast_loss(
        [queries, passages], contrast
    )


@pytest.fixture
def model(tiny_folder):
    return SentenceTransformer(
        str(tiny_folder),
        device="cpu",
        config_kwargs={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    )


def columns(model, *texts):
    return [model.preprocess(list(some)) for some in texts]


def test_an_empty_queue_is_plain_info_nce_and_then_it_waits(model):
    loss, plain = MomentumLoss(model, DENSE, moco=Moco(queue=4)), JointLoss(model, DENSE)
    batch = columns(model, QUERIES, PASSAGES)
    model.train()
    assert torch.allclose(loss(batch), plain(batch), atol=1e-6)
    keys = torch.from_numpy(model.encode(PASSAGES, normalize_embeddings=True))
    assert torch.allclose(loss.queue.held(), keys, atol=1e-5)
    # The same batch again: every query has its passage twice, and cross entropy counts the second as wrong.
    scores = torch.from_numpy(model.encode(QUERIES, normalize_embeddings=True)) @ torch.cat([keys, keys]).T / 0.05
    model.train()
    expected = (scores.logsumexp(dim=1) - scores.diagonal()).mean()
    assert torch.allclose(loss(batch), expected, atol=1e-4)
    assert torch.allclose(loss.queue.held(), torch.cat([keys, keys])[2:], atol=1e-5)


def test_what_follows_is_the_closed_form(model):
    loss, batch = MomentumLoss(model, DENSE, moco=Moco(queue=4, momentum=0.9)), columns(model, QUERIES, PASSAGES)
    start = {name: values.detach().clone() for name, values in model.named_parameters()}
    model.train()
    for step in range(1, 4):  # the trained weights move by 1 each step
        with torch.no_grad():
            for values in model.parameters():
                values.add_(1)
        loss(batch)
        # k(n) = .9 k(n - 1) + .1 q(n) with q(n) = q(0) + n gives k(n) = q(0) + n - 9 (1 - .9 ** n)
        moved = step - 9 * (1 - 0.9**step)
        assert all(torch.allclose(loss.followed[name], start[name] + moved, atol=1e-5) for name in start)


def test_passages_go_through_the_encoder_that_follows(model):
    loss, batch = MomentumLoss(model, DENSE, moco=Moco(queue=3, momentum=1.0)), columns(model, QUERIES, PASSAGES)
    before = model.encode(PASSAGES, normalize_embeddings=True)
    with torch.no_grad():
        for values in model.parameters():
            values.mul_(1.5)
    model.train()
    loss(batch).backward()
    assert np.allclose(loss.queue.held(), before, atol=1e-5)
    assert not np.allclose(model.encode(PASSAGES, normalize_embeddings=True), before, atol=1e-2)


def test_evaluation_changes_nothing_and_has_no_queue(model):
    loss, batch = MomentumLoss(model, DENSE, moco=Moco(queue=8)), columns(model, QUERIES, PASSAGES)
    model.train()
    loss(batch)
    before = {name: values.clone() for name, values in loss.memory().items()}
    model.eval()
    assert loss(batch) == JointLoss(model, DENSE)(batch)
    assert before.keys() == loss.memory().keys()
    assert all(torch.equal(before[name], values) for name, values in loss.memory().items())


@pytest.mark.parametrize("objectives", [("dense",), ("dense", "late")])
def test_gradients_are_those_of_one_pass_with_grad_cache(model, objectives):
    contrast = Contrast(objectives=objectives)
    slopes = []
    for mini_batch in (None, 2):
        loss = MomentumLoss(model, contrast, moco=Moco(queue=4), mini_batch=mini_batch)
        model.train()
        for some in (QUERIES, QUERIES[::-1]):
            model.zero_grad()
            loss(columns(model, some, PASSAGES)).backward()
        slopes.append([values.grad.clone() for values in model.parameters() if values.grad is not None])
    assert slopes[0] and all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*slopes, strict=True))
    assert any(values.abs().max() > 0.01 for values in slopes[0])


def test_a_queue_needs_dense_vectors_and_sound_numbers(model, tmp_path):
    with pytest.raises(UsageError, match="objectives"):
        MomentumLoss(model, Contrast(objectives=("late",)), moco=Moco())
    path = tmp_path / "recipe.toml"
    for table in ("queue = 0", "momentum = 1.5"):
        path.write_text(f'[[data]]\npath = "x.txt"\n[moco]\n{table}\n', encoding="utf-8")
        with pytest.raises(InputError, match=r"recipe\.toml: queue = .*momentum"):
            read_recipe(path)
    path.write_text('[[data]]\npath = "x.txt"\nkind = "poem"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"kind = 'poem' should be"):
        read_recipe(path)


def test_a_recipe_has_a_queue_where_its_table_stands(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[[data]]\npath = "x.jsonl"\nkind = "text"\n[cropping]\ncloze = 1\n[moco]\nmomentum = 0.99\n', encoding="utf-8"
    )
    found = read_recipe(path)
    assert found.moco == Moco(momentum=0.99)
    assert found.cropping == Cropping(cloze=1.0)
    assert found.data == (Data(str(tmp_path / "x.jsonl"), kind="text"),)
    path.write_text('[[data]]\npath = "x.jsonl"\n', encoding="utf-8")
    assert read_recipe(path).moco is None


WORDS = [
    "the coral reef turns white when sea is warm fishes leave it".split(),
    "das Riff wird weiß wenn Meer warm ist ein Fuchs springt über den Zaun".split(),
    list("海水变暖时珊瑚会变白狐狸跳过篱笆"),
]


def write_raw(path, part):
    """Write documents in three languages, each of two words of its language said again and again."""
    rng = np.random.default_rng(part)
    documents = []
    for words in WORDS:
        blank = " " if len(words[-1]) > 1 else ""
        for _ in range(24):
            own = rng.choice(words, 2, replace=False)
            documents.append(blank.join(rng.choice(own, 30).tolist()))
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    return Recipe(
        data=(Data(str(write_raw(tmp_path / "raw.txt", 0))),),
        base=str(tiny_folder),
        held_out=0,
        mixing=Mixing(rows=8),
        cropping=Cropping(shortest=0.3, longest=0.6),
        contrast=Contrast(temperature=0.1),
        optimizing=Optimizing(steps=8, lora_rank=8, warmup=1, tokens=32, bf16=False, save_every=4),
        moco=Moco(queue=20, momentum=0.9),
    )


def test_a_resumed_training_is_an_uninterrupted_one(recipe, tmp_path):
    train(recipe, tmp_path / "whole")
    (tmp_path / "stopped").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "stopped" / "checkpoint-4")
    train(recipe, tmp_path / "stopped")
    for name in ("checkpoint-8/learned.safetensors", "checkpoint-8/memory.safetensors", "adapter/learned.safetensors"):
        one, two = (load_file(tmp_path / folder / name) for folder in ("whole", "stopped"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    kept = load_file(tmp_path / "whole" / "checkpoint-8" / "memory.safetensors")
    assert kept["queue.vectors"].shape == (20, 32) and int(kept["queue.pushed"]) > 20
    assert sum(key.startswith("followed.") for key in kept) == len(one)


def held_out(path, recipe):
    """Return what tells the loss of a model on batches of crops of other documents."""
    mixer = Mixer(read_sources(path, Skipped()), recipe.mixing, 7, cropping=recipe.cropping)
    batches = [mixer.batch() for _ in range(6)]

    def loss(model):
        model.max_seq_length = 32
        model.eval()
        joint = JointLoss(model, recipe.contrast)
        with torch.no_grad():
            found = [
                joint(columns(model, [f"query: {r.query}" for r in b], [f"passage: {r.positive}" for r in b]))
                for b in batches
            ]
        return float(torch.stack(found).mean())

    return loss


def test_training_on_crops_brings_held_out_crops_together(recipe, tmp_path):
    held = held_out(write_raw(tmp_path / "held.txt", 1), recipe)
    before = held(open_model(recipe))
    how = replace(recipe.optimizing, steps=30, learning_rate=1e-2, save_every=100)
    train(replace(recipe, optimizing=how), tmp_path / "out")
    assert held(SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")) < before - 0.3
