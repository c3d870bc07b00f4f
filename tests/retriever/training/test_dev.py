import json

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from retriever.training.dev import average_precision
from retriever.training.recipe import read_recipe
from retriever.training.train import train
from tests.retriever.training.test_train import WORDS, log_of, write_recipe

DEV = '[dev]\npath = "dev"\nqueries = 30\ndocuments = 40\n'


def write_dev(folder, *, count=40, text=lambda words: " ".join(words[::-1])):
    """Write questions whose answer has their words turned round; they are no text of the training."""
    (folder / "qrels").mkdir(parents=True)
    drawn = np.random.default_rng(5)
    queries, corpus, judged = [], [], ["query-id\tcorpus-id\tscore"]
    for i in range(count):
        words = [*drawn.choice(WORDS, 6, replace=False), f"no{i}"]
        queries.append(json.dumps({"_id": f"q{i}", "text": " ".join(words)}))
        corpus.append(json.dumps({"_id": f"d{i}", "text": text(words)}))
        judged.append(f"q{i}\td{i}\t1")
    (folder / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
    (folder / "corpus.jsonl").write_text("\n".join(corpus), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(judged), encoding="utf-8")


@given(st.integers(1, 5), st.integers(1, 12), st.randoms(use_true_random=False))
def test_average_precision_is_trec_evals(queries, documents, drawn):
    scores = [drawn.sample(range(100), documents) for _ in range(queries)]
    right = [[drawn.random() < 0.4 for _ in range(documents)] for _ in range(queries)]
    for own in right:
        own[drawn.randrange(documents)] = True
    qrels = {f"q{i}": {f"d{j}": int(x) for j, x in enumerate(own)} for i, own in enumerate(right)}
    run = {f"q{i}": {f"d{j}": float(x) for j, x in enumerate(own)} for i, own in enumerate(scores)}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    ours = average_precision(torch.tensor(scores, dtype=torch.float32), torch.tensor(right))
    assert ours == pytest.approx(np.mean([values["map"] for values in theirs.values()]), abs=1e-6)


def test_a_dev_set_is_ranked_at_every_evaluation_and_gets_better(tmp_path, tiny_folder):
    path = write_recipe(tmp_path, tiny_folder, steps=40, optimizing=DEV)
    write_dev(tmp_path / "dev")
    told = train(read_recipe(path), tmp_path / "out")
    rows = [row for row in log_of(tmp_path / "out") if row["eval_MAP"]]
    assert [int(row["step"]) for row in rows][:3] == [0, 20, 40]
    for row in rows:
        both = [float(row[f"eval_{kind}_MAP"]) for kind in ("dense", "late")]
        assert float(row["eval_MAP"]) == pytest.approx(np.mean(both))
    assert told["dev_map"] == pytest.approx(float(rows[-1]["eval_MAP"]), abs=1e-4)
    assert float(rows[-1]["eval_MAP"]) > float(rows[0]["eval_MAP"])


def test_training_stops_where_it_gets_no_better_and_keeps_the_best(tmp_path, tiny_folder):
    # An answer with none of the question's words: what the pairs teach is wrong here.
    write_dev(tmp_path / "dev", text=lambda words: f"Uhr {words[-1][2:]}")
    path = write_recipe(tmp_path, tiny_folder, steps=400, optimizing="patience = 2\n" + DEV)
    told = train(read_recipe(path), tmp_path / "out")
    values = [float(row["eval_MAP"]) for row in log_of(tmp_path / "out") if row["eval_MAP"]]
    assert told["steps"] < 400
    assert told["dev_map"] == pytest.approx(max(values[1:]), abs=1e-4)


def test_what_is_ranked_must_not_be_trained_on(tmp_path, tiny_folder):
    path = write_recipe(tmp_path, tiny_folder, optimizing=DEV)
    text = json.loads((tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[0])["positive"]
    write_dev(tmp_path / "dev", text=lambda words: text)
    with pytest.raises(InputError, match="cannot be evaluated"):
        train(read_recipe(path), tmp_path / "out")


def test_patience_needs_something_to_go_by(tmp_path, tiny_folder):
    path = write_recipe(tmp_path, tiny_folder, optimizing="patience = 2")
    path.write_text(path.read_text(encoding="utf-8").replace("held_out = 4", "held_out = 0"), encoding="utf-8")
    with pytest.raises(InputError, match="patience needs something to go by"):
        read_recipe(path)


def test_a_dev_set_without_relevant_documents_is_refused(tmp_path, tiny_folder):
    path = write_recipe(tmp_path, tiny_folder, optimizing=DEV)
    write_dev(tmp_path / "dev")
    qrels = tmp_path / "dev" / "qrels" / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\td1\t0", encoding="utf-8")
    with pytest.raises(InputError, match="no query with a relevant document"):
        train(read_recipe(path), tmp_path / "out")


@pytest.mark.parametrize(
    ("dev", "why"),
    [
        ('dev = "dev"', "table with the path"),
        ("[dev]\nqueries = 3", "table with the path"),
        ('[dev]\npath = "dev"\nqueries = 0', "at least one query"),
        ('[dev]\npath = "dev"\ndocuments = -1', "at least one query"),
        ('[dev]\npath = "dev"\nlanguages = 3', "unknown key 'languages'"),
    ],
)
def test_a_dev_set_that_is_none_is_one_line(tmp_path, tiny_folder, dev, why):
    path = write_recipe(tmp_path, tiny_folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{dev}\n{text}" if dev.startswith("dev") else f"{text}\n{dev}", encoding="utf-8")
    with pytest.raises(InputError, match=why) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
