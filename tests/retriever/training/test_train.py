import csv
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.errors import InputError, NotFoundError, UsageError
from retriever.encoder import Encoder
from retriever.training.examples import Skipped
from retriever.training.recipe import read_recipe
from retriever.training.train import _batches, train
from tests import tiny as tiny_models

WORDS = "reef coral white sea warm fox jumps fence Riff weiß Meer Zaun Fuchs bahari uzio море рыба 海水 珊瑚".split()


def write_pairs(path, count, seed=0):
    """Write pairs whose passage has the query's words, turned round, and some others."""
    drawn = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            words = drawn.sample(WORDS, 5)
            positive = [*reversed(words), *drawn.sample(WORDS, 2)]
            row = {"query": " ".join(words), "positive": " ".join(positive), "lang": "en"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def write_recipe(folder, base, *, steps=60, extra="", optimizing="", contrast=""):
    folder.mkdir(exist_ok=True)
    write_pairs(folder / "pairs.jsonl", 2000)
    (folder / "recipe.toml").write_text(
        f"""
base = {json.dumps(str(base))}
seed = 3
held_out = 4
{extra}
[[data]]
path = "pairs.jsonl"
[mixing]
rows = 16
[contrast]
temperature = 0.1
{contrast}
[optimizing]
steps = {steps}
learning_rate = 5e-3
projection_rate = 5e-3
warmup = 5
lora_rank = 8
bf16 = false
save_every = 20
{optimizing}
""",
        encoding="utf-8",
    )
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("train")
    recipe = read_recipe(write_recipe(folder / "data", tiny_folder))
    return recipe, folder / "out", train(recipe, folder / "out")


def log_of(folder):
    with (folder / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_training_improves_the_loss_of_what_it_has_not_seen(trained):
    _, folder, told = trained
    assert told["steps"] == 60
    held = [float(row["eval_loss"]) for row in log_of(folder) if row["eval_loss"]]
    assert told["held_out_loss"] == pytest.approx(held[-1], abs=1e-4)
    assert held[-1] < held[0] - 0.5


def test_what_comes_out_is_a_checkpoint_like_any_other(trained, tiny):
    _, folder, _ = trained
    encoder = Encoder.load(str(folder / "model"), backend="torch")
    assert encoder.dims == tiny.dims
    query, right, wrong = "reef coral white", "white coral reef fence", "fox jumps fence море"
    vectors = encoder.encode_documents([right, wrong]).dense @ encoder.encode_queries([query]).dense[0]
    assert vectors[0] > vectors[1]
    assert not np.allclose(encoder.encode_queries([query]).dense, tiny.encode_queries([query]).dense, atol=1e-2)


def test_a_training_that_was_stopped_ends_as_one_that_was_not(trained, tmp_path):
    recipe, folder, told = trained
    other = tmp_path / "out"
    train(recipe, other)
    for step in (60, 40):  # as after a kill between 20 and 40
        for path in sorted((other / f"checkpoint-{step}").rglob("*")):
            path.unlink()
        (other / f"checkpoint-{step}").rmdir()
    again = train(recipe, other)
    assert again["held_out_loss"] == told["held_out_loss"]
    a, b = (Encoder.load(str(x / "model"), backend="torch").encode_queries(["reef fox"]) for x in (folder, other))
    np.testing.assert_array_equal(a.dense, b.dense)
    np.testing.assert_array_equal(a.late.values, b.late.values)


def test_a_teacher_keeps_the_model_near_what_it_was(tmp_path, tiny_folder, tiny):
    moved = []
    for name, contrast in (("free", ""), ("taught", "distil = 50.0\ndistil_temperature = 0.1\npairs = 0.0")):
        alone = f'objectives = ["dense"]\n{contrast}'  # token vectors have no teacher of their kind to stay near
        recipe = read_recipe(write_recipe(tmp_path / name, tiny_folder, steps=20, contrast=alone))
        train(recipe, tmp_path / name / "out")
        encoder = Encoder.load(str(tmp_path / name / "out" / "model"), backend="torch")
        texts = ["reef coral", "fox fence", "Meer Riff", "bahari uzio"]
        old, new = (e.encode_documents(texts).dense for e in (tiny, encoder))
        moved.append(np.abs(old @ old.T - new @ new.T).max())
    assert moved[1] < moved[0] / 2


def test_without_adapters_all_but_the_embeddings_moves(tmp_path, tiny_folder):
    from sentence_transformers import SentenceTransformer

    path = write_recipe(tmp_path / "x", tiny_folder, steps=3, optimizing="")
    path.write_text(path.read_text().replace("lora_rank = 8", "lora_rank = 0"))
    train(read_recipe(path), tmp_path / "out")
    old, new = (dict(SentenceTransformer(str(x)).named_parameters()) for x in (tiny_folder, tmp_path / "out/model"))
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert not any("embeddings" in name for name in moved)
    assert any("attention.self.query.weight" in name for name in moved)
    assert any("linear.weight" in name for name in moved)


def parameters(folder):
    from sentence_transformers import SentenceTransformer

    return dict(SentenceTransformer(str(folder), device="cpu").named_parameters())


def test_xmod_learns_in_one_language_and_is_exchanged_for_others(tmp_path):
    backbone = tiny_models.write_xmod_backbone(tmp_path / "backbone", ["en_XX", "de_DE", "sw_KE"], None)
    base = tiny_models.write_sentence_model(tmp_path / "base", backbone)
    path = write_recipe(tmp_path / "x", base, steps=4, extra='language = "en"')
    path.write_text(path.read_text().replace("lora_rank = 8", "lora_rank = 0"))
    train(read_recipe(path), tmp_path / "out")
    old, new = parameters(base), parameters(tmp_path / "out" / "model")
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert any("attention.self.query" in name for name in moved)
    assert not any(part in name for name in moved for part in ("embeddings", "adapter_modules", "adapter_layer_norm"))
    encoder = Encoder.load(str(tmp_path / "out" / "model"))
    vectors = encoder.encode_queries(["reef fox"] * 3, ["en", "de", "sw"]).dense
    assert (vectors @ vectors.T)[np.triu_indices(3, 1)].max() < 0.9999


def test_a_language_can_be_added_after_training(tmp_path, tiny_folder, tiny):
    path = write_recipe(tmp_path / "x", tiny_folder, steps=10, extra='language = "sw"')
    train(read_recipe(path), tmp_path / "out")
    encoder = Encoder.load(str(tmp_path / "out" / "model"), backend="torch")
    text = ["reef coral fox"]
    np.testing.assert_allclose(encoder.encode_queries(text, ["de"]).dense, tiny.encode_queries(text).dense, atol=1e-5)
    assert np.abs(encoder.encode_queries(text, ["sw"]).dense - tiny.encode_queries(text).dense).max() > 1e-2


@pytest.mark.parametrize(
    ("mixing", "contrast", "extra", "said"),
    [
        ("versions = 0", "", "", "two meanings at least"),
        ("versions = 5", "pairs = 0.0\ndistil = 1.0", "", "two meanings at least"),
        ("versions = 2", "distil = 1.0", "", "pairs = 0, or one version"),
        ("pivot = 1.5", "", "", "from 0 to 1"),
        ("spread = -1", "", "", "all of a source"),
        ("", "pairs = 0.0", "", "nothing to learn"),
        ("", "pairs = 0.0\ndistil = 1.0", "[moco]\nqueue = 64", "the queue"),
    ],
)
def test_a_recipe_that_could_teach_nothing_is_refused(tmp_path, mixing, contrast, extra, said):
    path = tmp_path / "x.toml"
    (tmp_path / "a.jsonl").write_text("{}")
    path.write_text(f'[[data]]\npath = "a.jsonl"\n[mixing]\nrows = 8\n{mixing}\n[contrast]\n{contrast}\n{extra}\n')
    with pytest.raises(InputError, match=said):
        read_recipe(path)


def test_a_source_of_more_weight_comes_more_often(tmp_path):
    for name in "ab":
        lines = [json.dumps({"query": f"{name} question {i}", "positive": f"{name} answer {i}"}) for i in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    path = tmp_path / "x.toml"
    path.write_text(
        '[[data]]\npath = "a.jsonl"\n[[data]]\npath = "b.jsonl"\nweight = 3.0\n'
        "[mixing]\nrows = 4\n[optimizing]\nsteps = 600\n"
    )
    _, batches, _ = _batches(read_recipe(path), Skipped())
    assert sum(batch[0].query.startswith("b") for batch in batches) / 600 == pytest.approx(0.75, abs=0.06)
    path.write_text(path.read_text().replace("weight = 3.0", "weight = 0.0"))
    with pytest.raises(InputError, match=r"weight = 0\.0 should be above 0"):
        read_recipe(path)


def test_a_file_that_several_data_take_some_of_is_read_once(tmp_path):
    rows = [{"query": f"{x} q {i}", "positive": f"{x} a {i}", "source": x} for x in "abc" for i in range(40)]
    (tmp_path / "x.jsonl").write_text(
        "\n".join(map(json.dumps, [*rows, {"query": "", "positive": "b", "source": "a"}]))
    )
    path = tmp_path / "x.toml"
    some = '[[data]]\npath = "x.jsonl"\nleave_out = ["b", "c"]\n[[data]]\npath = "x.jsonl"\nleave_out = ["a", "c"]\n'
    path.write_text(f"{some}weight = 3.0\n[mixing]\nrows = 4\n[optimizing]\nsteps = 600\n")
    skipped = Skipped()
    held, batches, _ = _batches(read_recipe(path), skipped)
    assert skipped.counts == {"of c, left out": 40, "with an empty side": 1}
    assert {row.query[0] for batch in batches for row in batch} == {"a", "b"}
    assert sum(batch[0].query[0] == "b" for batch in batches) / 600 == pytest.approx(0.75, abs=0.06)
    assert not {row.query for batch in held for row in batch} & {row.query for batch in batches for row in batch}
    twice = '[[data]]\npath = "x.jsonl"\n' * 2
    path.write_text(f"{twice}[mixing]\nrows = 4\n[optimizing]\nsteps = 300\n")
    held, batches, _ = _batches(read_recipe(path), Skipped())
    assert not {row.query for batch in held for row in batch} & {row.query for batch in batches for row in batch}
    path.write_text(f'{some}[[data]]\npath = "x.jsonl"\nleave_out = ["a", "b", "c"]\n')
    with pytest.raises(UsageError, match=r"x\.jsonl has nothing but what is left out"):
        _batches(read_recipe(path), Skipped())


def test_a_language_without_an_adapter_is_refused(tmp_path, tiny_folder):
    path = write_recipe(tmp_path / "x", tiny_folder, extra='language = "sw"')
    path.write_text(path.read_text().replace("lora_rank = 8", "lora_rank = 0"))
    with pytest.raises(UsageError, match="lora_rank"):
        train(read_recipe(path), tmp_path / "out of x")
    backbone = tiny_models.write_xmod_backbone(tmp_path / "backbone", ["en_XX", "de_DE"], None)
    base = tiny_models.write_sentence_model(tmp_path / "base", backbone)
    path = write_recipe(tmp_path / "y", base, extra='language = "sw"')
    with pytest.raises(UsageError, match="de, en"):
        train(read_recipe(path), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stepz = 3", "unknown key 'stepz'"),
        ("steps = 'x'", "no recipe"),
        ("save_every = 1.5", "should be a int"),
    ],
)
def test_a_recipe_with_a_slip_is_refused(tmp_path, tiny_folder, change, said):
    path = write_recipe(tmp_path / "x", tiny_folder, optimizing=change)
    if change.startswith("save_every"):
        path.write_text(path.read_text().replace("save_every = 20\n", ""))
    with pytest.raises(InputError, match=said):
        read_recipe(path)


def test_a_recipe_that_is_not_there_or_has_no_data(tmp_path):
    with pytest.raises(NotFoundError):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "empty.toml").write_text("seed = 1\n")
    with pytest.raises(InputError, match=r"\[\[data\]\]"):
        read_recipe(tmp_path / "empty.toml")


def test_a_loss_that_is_no_number_ends_the_training(tmp_path, tiny_folder):
    path = write_recipe(tmp_path / "x", tiny_folder, steps=40)
    path.write_text(path.read_text().replace("learning_rate = 5e-3", "learning_rate = 1e30"))
    with pytest.raises(UsageError, match="learning_rate"):
        train(read_recipe(path), tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_what_a_training_was_made_of_is_told_and_another_is_not_gone_on_with(trained):
    recipe, folder, told = trained
    made = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert made["recipe"]["optimizing"]["steps"] == 60
    assert made["recipe"]["data"][0]["path"] == "pairs.jsonl"
    assert [list(files) for files in made["data"]] == [["pairs.jsonl"]]
    assert made["results"]["held_out_loss"] == told["held_out_loss"]
    with pytest.raises(UsageError, match="another recipe or of other data"):
        train(replace(recipe, seed=4), folder)


@pytest.mark.parametrize("damaged", ["{", "[]", '{"recipe": 1}', "\ufeff"])
def test_a_folder_that_does_not_say_what_it_has_is_not_gone_on_with(tmp_path, tiny_folder, damaged):
    recipe = read_recipe(write_recipe(tmp_path / "data", tiny_folder))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(UsageError, match="name another folder"):
        train(recipe, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["training.json"]
