import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from data.errors import UsageError
from index.storage import write_json
from retriever.bundled import (
    DENSE_PROJECTION,
    NAME,
    PROJECTION,
    SENTENCE,
    TRAINED,
    bundled_model,
    linear,
    unpack,
)
from retriever.encoder import Encoder
from retriever.training.ship import low_rank, main, ship
from retriever.training.train import LOG, MADE_OF


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_no_matrix_of_that_rank_is_nearer(seed, rank):
    rng = np.random.default_rng(seed)
    moved = rng.standard_normal((7, 5))
    a, b = low_rank(torch.from_numpy(moved), rank)
    assert a.shape == (rank, 5)
    assert b.shape == (7, rank)
    lost = np.linalg.norm(moved - (b @ a).numpy())
    assert lost == pytest.approx(np.sqrt((np.linalg.svd(moved)[1][rank:] ** 2).sum()), rel=1e-4)


def test_what_ships_is_the_share_of_what_was_learned(tmp_path):
    model = SentenceTransformer(str(bundled_model(NAME)), device="cpu")
    model.insert(2, linear(np.eye(384), SENTENCE))
    rng = torch.Generator().manual_seed(0)
    for half in ("half", "whole"):  # a change of rank 2, once half as large
        matrix = model[0].model.encoder.layer[3].output.dense.weight.data
        matrix += 0.5 * torch.randn(384, 2, generator=rng.manual_seed(1)) @ torch.randn(2, 1536, generator=rng) * 0.1
        model[-1].linear.weight.data += 0.5 * torch.randn(128, 384, generator=rng) * 0.01
        model[2].linear.weight.data += 0.5 * torch.randn(384, 384, generator=rng) * 0.02
        model.save_pretrained(str(tmp_path / half / "model"))
    write_json(tmp_path / "whole" / MADE_OF, {"recipe": {"base": NAME, "optimizing": {"projection_only": False}}})
    (tmp_path / "whole" / LOG).write_text("step\n")
    rows = [
        {"en": f"A sentence of number {i} here", "text": f"Ein Satz {i}", "lang": "de", "source": "x"} for i in range(4)
    ]
    with gzip.open(tmp_path / "parallel.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    shipped = tmp_path / "shipped"
    ship(tmp_path / "whole", tmp_path / "parallel.jsonl.gz", shipped, share=0.5, rank=8)
    unpack(tmp_path / "unpacked", np.load(shipped / PROJECTION), shipped, np.load(shipped / DENSE_PROJECTION))
    texts = ["Meer und Riff", "a fox jumps over the fence"]
    wanted, found, old = (
        Encoder.load(str(path), backend="torch").encode_documents(texts)
        for path in (tmp_path / "half" / "model", tmp_path / "unpacked", bundled_model(NAME))
    )
    np.testing.assert_allclose(found.dense, wanted.dense, atol=2e-3)  # float16
    similar, right = (x.late.values @ x.late.values.T for x in (found, wanted))
    np.testing.assert_allclose(similar, right, atol=1e-2)  # turned, the same by every MaxSim
    assert np.abs(wanted.dense - old.dense).max() > 0.02
    assert json.loads((shipped / "centroids.json").read_text()) == {"languages": ["de", "en"]}
    centroids = np.load(shipped / "centroids.late.npy")
    tokens = Encoder.load(str(tmp_path / "unpacked")).encode_documents([row["text"] for row in rows]).late.values
    np.testing.assert_allclose(centroids[0], tokens.mean(axis=0), atol=5e-3)  # bfloat16, in other batches
    assert [path.name for path in shipped.parent.iterdir() if path.name.startswith("tmp")] == []
    assert json.loads((shipped / "adapter_config.json").read_text())["r"] == 8
    _check_projection_alone(tmp_path, shipped)


def _check_projection_alone(folder, shipped):
    """Ship projections that learned while the transformer stood still: beside the adapter that is there."""
    alone, files = folder / "alone", {path.name: path.read_bytes() for path in shipped.iterdir()}
    model = SentenceTransformer(str(folder / "unpacked"), device="cpu")
    turned = torch.linalg.qr(torch.randn(384, 128, generator=torch.Generator().manual_seed(2)))[0].T
    model[-1].linear.weight.data = turned.contiguous()
    model[2] = linear(np.eye(384) + 0.1 * np.random.default_rng(0).standard_normal((384, 384)), SENTENCE)
    model.save_pretrained(str(alone / "model"))
    write_json(alone / MADE_OF, {"recipe": {"base": NAME, "optimizing": {"projection_only": True}}})
    (alone / LOG).write_text("step\n1\n")
    with pytest.raises(UsageError, match="is taken whole: leave --share out"):
        ship(alone, folder / "parallel.jsonl.gz", folder / "nowhere", share=0.5, rank=8)
    with pytest.raises(UsageError, match="what was trained from bundled is not what"):
        ship(alone, folder / "parallel.jsonl.gz", shipped, share=1.0, rank=8)
    assert not (folder / "nowhere").exists()
    write_json(alone / MADE_OF, {"recipe": {"base": TRAINED, "optimizing": {"projection_only": True}}})
    ship(alone, folder / "parallel.jsonl.gz", shipped, share=1.0, rank=8)
    written = {path.name: path.read_bytes() for path in shipped.iterdir()}
    same = {"adapter_config.json", "adapter_model.safetensors", "log.csv", "training.json", "centroids.json"}
    assert {name for name in files if files[name] == written[name]} == same
    assert written.keys() - files.keys() == {"projection.log.csv", "projection.training.json"}
    unpack(folder / "again", np.load(shipped / PROJECTION), shipped, np.load(shipped / DENSE_PROJECTION))
    found, wanted = (
        Encoder.load(str(path), backend="torch").encode_documents(["Meer und Riff"])
        for path in (folder / "again", alone / "model")
    )
    similar, right = (x.late.values @ x.late.values.T for x in (found, wanted))
    np.testing.assert_allclose(similar, right, atol=1e-4)
    np.testing.assert_allclose(found.dense, wanted.dense, atol=2e-3)  # float16
    assert (
        np.abs(found.dense - Encoder.load(str(folder / "unpacked")).encode_documents(["Meer und Riff"]).dense).max()
        > 0.01
    )


@pytest.mark.parametrize(("share", "rank"), [(0.0, 8), (1.1, 8), (0.5, 0), (0.5, 385)])
def test_a_share_or_rank_that_cannot_be_is_refused(tmp_path, share, rank):
    with pytest.raises(UsageError, match="a share is above 0 and at most 1, a rank from 1 to 384"):
        ship(tmp_path, tmp_path, tmp_path / "to", share=share, rank=rank)


def test_what_is_no_finished_training_is_one_line_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ship", str(tmp_path / "run"), str(tmp_path / "x.gz"), str(tmp_path / "to")])
    with pytest.raises(SystemExit, match=r"^\S*model does not exist: give what `polyseek train` wrote[^\n]*$"):
        main()
    assert not list(tmp_path.iterdir())
