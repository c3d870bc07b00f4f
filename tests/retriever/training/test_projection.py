import json
import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from data.errors import InputError, UsageError
from retriever.encoder import Encoder
from retriever.training.examples import Meaning, Pair, Passage, Source
from retriever.training.projection import (
    SENTENCE,
    begin_dense,
    draw,
    find_projection,
    language_directions,
    principal,
)
from retriever.training.recipe import Projection, read_recipe
from retriever.training.train import train
from tests.retriever.training.test_train import WORDS, write_recipe

LONG = "a sentence {}"


def test_texts_are_drawn_as_many_of_each_language_with_their_english_and_of_each_source():
    meanings = [Meaning(LONG.format(i), (("de", f"Satz {i}"), ("sw", f"sentensi {i}"))) for i in range(20)]
    short = [Meaning(f"label {i}", (("de", f"Knopf {i}"),)) for i in range(20)]
    pairs = [Pair("who?", LONG.format(f"answer {i}"), "en") for i in range(20)]
    raw = [Passage(LONG.format(f"raw {i}"), "en") for i in range(3)]
    sources = [Source("x", meanings), Source("y", short, "help"), Source("qa:en", pairs, "qa"), Source("raw", raw)]
    how = Projection(texts=5, leave_out=("help",))
    drawn = draw(sources, how, seed=1)
    assert drawn.texts == draw(sources, how, seed=1).texts != draw(sources, how, seed=2).texts
    assert drawn.languages.tolist() == ["de"] * 5 + ["sw"] * 5
    for language, text, english in zip(drawn.languages, drawn.translations, drawn.pivots, strict=True):
        number = drawn.texts[text].split()[-1]
        assert drawn.texts[text] == {"de": f"Satz {number}", "sw": f"sentensi {number}"}[language]
        assert drawn.texts[english] == LONG.format(number)
    assert len(set(drawn.texts)) == len(drawn.texts)
    assert sum("answer" in text for text in drawn.texts) == 5
    assert sum("raw" in text for text in drawn.texts) == 3
    assert not any("Knopf" in text or "label" in text for text in drawn.texts)


def test_the_directions_of_languages_are_those_by_which_translations_differ():
    rng = np.random.default_rng(0)
    pivots = rng.standard_normal((90, 6))
    means = pivots + 0.01 * rng.standard_normal((90, 6))
    languages = np.repeat(["de", "sw", "xx"], [45, 35, 10])
    means[languages == "de", 0] += 3
    means[languages == "sw", 1] -= 2
    means[languages == "xx", 2] += 9  # ten of a language are too few
    found = language_directions(means, languages, pivots)
    np.testing.assert_allclose(np.abs(found), np.eye(6)[:2], atol=0.02)
    assert language_directions(means[:0], languages[:0], pivots[:0]).shape == (0, 6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(0, 2))
def test_a_projection_has_the_most_variance_that_is_left(seed, dims, off):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((200, 6)) * [5, 4, 3, 2, 1, 0.5] + 7
    without = np.linalg.qr(rng.standard_normal((6, 6)))[0][:off]
    matrix = principal(values, without, dims)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dims), atol=1e-5)
    np.testing.assert_allclose(matrix @ without.T, 0, atol=1e-5)
    left = values - values @ without.T @ without
    found = (left @ matrix.T).var(axis=0).sum()
    assert found == pytest.approx(np.linalg.eigvalsh(np.cov(left.T, bias=True))[::-1][:dims].sum(), rel=1e-4)


@pytest.mark.parametrize("power", [-0.5, -0.1])
def test_a_power_of_its_variance_weights_each_direction(power):
    values = np.random.default_rng(0).standard_normal((500, 4)) * [8, 4, 2, 1]
    matrix = principal(values, np.empty((0, 4)), 3, power)
    variances = np.linalg.eigvalsh(np.cov(values.T))[::-1][:3]
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), (variances / variances[0]) ** power, rtol=1e-4)
    spread = (values @ matrix.T).std(axis=0)
    np.testing.assert_allclose(spread / spread[0], (variances / variances[0]) ** (power + 0.5), rtol=1e-4)  # -.5: all 1
    np.testing.assert_array_equal(np.abs(matrix).argmax(axis=1), [0, 1, 2])


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("projection")
    rng = np.random.default_rng(0)
    with (folder / "parallel.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(400):
            words = rng.choice(WORDS, 6)
            row = {"en": " ".join(words), "text": " ".join([*words[::-1], "海水"]), "lang": "zh"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def recipe_of(parallel, base, folder, *, projection="directions = 1", objectives='["late"]'):
    path = write_recipe(
        folder, base, steps=40, optimizing="projection_only = true", contrast=f"objectives = {objectives}"
    )
    begun = f"[projection]\ndims = 16\n{projection}\n[mixing]\nparallel = 1.0"
    told = path.read_text().replace("[mixing]", begun)
    path.write_text(told.replace('path = "pairs.jsonl"', f"path = {json.dumps(str(parallel / 'parallel.jsonl'))}"))
    return path


def test_a_projection_alone_learns_and_goes_on_where_it_was_stopped(parallel, tiny_folder, tiny, tmp_path):
    recipe = read_recipe(recipe_of(parallel, tiny_folder, tmp_path / "data"))
    told = train(recipe, tmp_path / "out")
    log = (tmp_path / "out" / "log.csv").read_text().splitlines()
    held = [float(line.split(",")[4]) for line in log[1:] if line.split(",")[4]]
    assert held[-1] < held[0]
    found = Encoder.load(str(tmp_path / "out" / "model"), backend="torch")
    assert found.dims == {"dense": tiny.dims["dense"], "late": 16}
    mine, before = (x.encode_documents(["reef fox 海水"]) for x in (found, tiny))
    np.testing.assert_allclose(mine.dense, before.dense, atol=1e-6)  # the transformer stood still
    train(recipe, tmp_path / "again")
    for path in sorted((tmp_path / "again" / "checkpoint-40").rglob("*")):  # as after a kill
        path.unlink()
    (tmp_path / "again" / "checkpoint-40").rmdir()
    assert train(recipe, tmp_path / "again")["held_out_loss"] == told["held_out_loss"]


def test_dense_vectors_learn_by_a_projection_of_their_own(parallel, tiny_folder, tiny, tmp_path):
    both = '["dense", "late"]'
    recipe = read_recipe(
        recipe_of(parallel, tiny_folder, tmp_path / "data", projection="dense = true", objectives=both)
    )
    begun = train(replace(recipe, optimizing=replace(recipe.optimizing, projection_rate=0.0)), tmp_path / "begun")
    texts = ["reef fox 海水", "a bird"]
    same, before = (
        Encoder.load(x, backend="torch").encode_documents(texts) for x in (begun["model"], str(tiny_folder))
    )
    np.testing.assert_allclose(same.dense, before.dense, atol=1e-6)
    told = train(recipe, tmp_path / "out")
    assert told["held_out_loss"] < begun["held_out_loss"]
    model = SentenceTransformer(told["model"], device="cpu")
    assert find_projection(model, SENTENCE) == 2  # between pooling and what makes unit length
    matrix = model[2].linear.weight.detach().numpy()
    moved = before.dense @ matrix.T
    found = Encoder.load(told["model"], backend="torch").encode_documents(texts)
    np.testing.assert_allclose(found.dense, moved / np.linalg.norm(moved, axis=1, keepdims=True), atol=1e-5)
    assert np.abs(found.dense - before.dense).max() > 1e-3
    again = replace(recipe, base=told["model"], optimizing=replace(recipe.optimizing, projection_rate=0.0))
    anew = train(again, tmp_path / "anew")  # it has one: another takes its place
    np.testing.assert_allclose(
        Encoder.load(anew["model"], backend="torch").encode_documents(texts).dense, before.dense, atol=1e-6
    )


def test_dense_vectors_that_no_projection_made_are_left_alone(tiny_folder):
    whole = list(SentenceTransformer(str(tiny_folder), device="cpu"))
    with pytest.raises(UsageError, match="the base makes no dense vectors"):
        begin_dense(SentenceTransformer(modules=whole[:1]))
    # LaBSE has the first; the second is not linear; the third has other dimensions.
    for layer in (Dense(32, 32), Dense(32, 32, bias=False), Dense(32, 16, bias=False, activation_function=None)):
        with pytest.raises(UsageError, match="no square projection"):
            begin_dense(SentenceTransformer(modules=[*whole[:2], layer]))
    named = SentenceTransformer(modules=OrderedDict(zip(("encoder", "pooling"), whole, strict=False)), device="cpu")
    with pytest.raises(UsageError, match="modules have names"):
        begin_dense(named)
    model = SentenceTransformer(modules=whole[:2])
    begin_dense(model)
    np.testing.assert_array_equal(model[2].linear.weight.detach(), np.eye(32))


def test_an_adapter_of_a_language_stands_beside_the_base_as_it_is(parallel, tiny_folder, tmp_path):
    path = recipe_of(parallel, tiny_folder, tmp_path)
    text = path.read_text().replace("projection_only = true", "")
    path.write_text(f'language = "zh"\n{text}')
    _check_refused_at_once(path, tmp_path / "out", "leave [projection] or language out")


def test_a_base_without_a_projection_is_given_one(parallel, tiny_folder, tmp_path):
    base = str(tmp_path / "base")
    SentenceTransformer(modules=list(SentenceTransformer(str(tiny_folder)))[:3]).save_pretrained(base)
    begun = train(read_recipe(recipe_of(parallel, base, tmp_path / "data")), tmp_path / "out")
    assert Encoder.load(begun["model"], backend="torch").dims["late"] == 16
    path = tmp_path / "data" / "recipe.toml"
    path.write_text(path.read_text().replace("[projection]\ndims = 16\ndirections = 1\n", ""))
    with pytest.raises(UsageError, match="the base has no projection after the transformer"):
        train(read_recipe(path), tmp_path / "other")


@pytest.mark.parametrize(
    ("projection", "error"),
    [
        ('leave_out = [""]', "leaves nothing to fit it to"),
        ("directions = 20", "has 32 dimensions: 16 and 20 are more"),
    ],
)
def test_what_no_projection_can_be_fitted_to_is_an_error(parallel, tiny_folder, tmp_path, projection, error):
    path = recipe_of(parallel, tiny_folder, tmp_path, projection=projection)
    with pytest.raises(UsageError, match=error):
        train(read_recipe(path), tmp_path / "out")


@pytest.mark.parametrize(
    "projection", ["texts = 0", "directions = 'x'", "kind = 1", "power = 0.1", "power = -0.6", "dense = true"]
)
def test_a_projection_of_nothing_is_refused(parallel, tiny_folder, tmp_path, projection):
    path = recipe_of(parallel, tiny_folder, tmp_path, projection=projection)
    with pytest.raises(InputError):
        read_recipe(path)


def test_a_projection_alone_moves_no_dense_vector(parallel, tiny_folder, tmp_path):
    path = recipe_of(parallel, tiny_folder, tmp_path, objectives='["dense", "late"]')
    with pytest.raises(InputError, match="or dense = true in"):
        read_recipe(path)


def test_what_the_base_cannot_do_is_refused_before_texts_are_encoded(parallel, tiny_folder, tmp_path):
    base = tmp_path / "base"
    layer = Dense(32, 16, bias=False, activation_function=None)
    SentenceTransformer(modules=[*list(SentenceTransformer(str(tiny_folder)))[:2], layer]).save_pretrained(str(base))
    path = recipe_of(parallel, base, tmp_path, projection="dense = true", objectives='["dense", "late"]')
    _check_refused_at_once(path, tmp_path / "out", "no square projection: leave dense out")


def _check_refused_at_once(path, output, why):
    begun = []
    with pytest.raises(UsageError, match=re.escape(why)):
        train(read_recipe(path), output, lambda label, _: begun.append(label))
    assert begun == []
    assert not output.exists()
