"""The benchmarks run, on little, and what they write is what is measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.bench import bm25, build, dense, encode, kernels, late, plot, results, scale

DEMO = Path(__file__).parents[2] / "data" / "demo"


def test_the_late_benchmark_measures_every_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["late", str(DEMO), "--quick", "--to", str(tmp_path)])
    late.main()
    told = json.loads((tmp_path / "late.json").read_text(encoding="utf-8"))
    assert told["command"].startswith("python -m eval.bench.late ")
    settings = [how for some in late.SETTINGS.values() for how in some]
    assert [row["system"] for row in told["rows"]] == ["exhaustive", *("polyseek-late" for _ in settings)]
    for row in told["rows"]:
        assert row["metrics"]["recall@10"] > 0.8
        assert row["metrics"]["qps"] > 0
        assert row["metrics"]["ms_p95"] >= row["metrics"]["ms_p50"] > 0
    exhaustive, precise = told["rows"][0]["metrics"], told["rows"][-1]["metrics"]
    assert exhaustive["recall@10"] == exhaustive["recall@100"] == 1
    assert precise["recall@10"] > 0.97
    assert "| polyseek-late | bits 8" in (tmp_path / "late.md").read_text(encoding="utf-8")
    assert "polyseek-late" in capsys.readouterr().out
    plot.draw(tmp_path / "late.json", tmp_path / "late.png")
    assert (tmp_path / "late.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "late.demo.quick.npz") as kept:  # neutral unit vectors, and judgements that fit
        np.testing.assert_allclose(np.linalg.norm(kept["queries"], axis=1), 1, atol=1e-4)
        assert kept["relevant"][:, 0].max() < len(kept["query_offsets"]) - 1
        assert kept["relevant"][:, 1].max() < len(kept["offsets"]) - 1


def test_memory_is_that_of_the_process_itself_and_not_of_the_one_that_started_it():
    held = np.ones(50_000_000)  # 400 MB
    code = (
        "from eval.bench.results import peak_mb; before = peak_mb(); x = b'1' * 100_000_000; print(before, peak_mb())"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=DEMO.parents[1])
    before, after = map(float, told.stdout.split())
    assert before < 200
    assert 90 < after - before < 110
    assert results.peak_mb() > 400
    del held


def test_the_bm25_benchmark_finds_what_bm25s_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bm25", str(DEMO), "--quick", "--to", str(tmp_path)])
    bm25.main()
    ours, theirs, slow = json.loads((tmp_path / "bm25.demo.json").read_text(encoding="utf-8"))["rows"]
    assert [ours["system"], theirs["system"], slow["system"]] == ["polyseek-bm25", "bm25s", "rank-bm25"]
    assert theirs["metrics"]["agrees"] == 1
    assert min(row["metrics"]["qps"] for row in (ours, theirs, slow)) > 0


def test_the_dense_benchmark_finds_what_the_flat_index_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dense", str(DEMO), "--quick", "--to", str(tmp_path)])
    dense.main()
    flat, ours = json.loads((tmp_path / "dense.json").read_text(encoding="utf-8"))["rows"]
    assert [flat["system"], ours["system"]] == ["FAISS flat", "polyseek-dense"]
    assert flat["metrics"]["recall@10"] == 1
    assert ours["metrics"]["recall@10"] > 0.98
    assert min(row["metrics"]["qps"] for row in (flat, ours)) > 0


def test_the_encoding_benchmark_compares_the_same_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["encode", str(DEMO), "--quick", "--to", str(tmp_path)])
    monkeypatch.setattr(encode, "SYSTEMS", {"sentence-transformers": "torch", "polyseek": "torch", "other": "no_such"})
    encode.main()
    plain, ours = json.loads((tmp_path / "encode.demo.json").read_text(encoding="utf-8"))["rows"]
    assert [plain["system"], ours["system"]] == ["sentence-transformers", "polyseek"]
    assert ours["parameters"] == {"dataset": "demo"}
    assert plain["metrics"]["least"] > 0.999999
    assert ours["metrics"]["least"] > 0.9999
    for row in (plain, ours):
        assert row["metrics"]["tokens_per_s"] > row["metrics"]["passages_per_s"] > 0
        assert row["metrics"]["ms_p95"] >= row["metrics"]["ms_p50"] > 0
        assert row["metrics"]["peak_mb"] > 100


@pytest.fixture
def vectors(tmp_path):
    """Token vectors in any direction, of 300 texts, of which the first 21 are the queries."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 20, 300)
    values = generator.standard_normal((lengths.sum(), 64), np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    few = offsets[21]
    np.savez(tmp_path / "v.npz", values=values, offsets=offsets, queries=values[:few], query_offsets=offsets[:22])
    return tmp_path / "v.npz"


def test_the_growth_benchmark_searches_ten_times_as_much(tmp_path, vectors, monkeypatch):
    given = ["scale", str(DEMO), "--quick", "--vectors", str(vectors), "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    scale.main()
    small, large = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))["rows"]
    assert large["parameters"]["tokens"] == 10 * small["parameters"]["tokens"]
    for row in (small, large):
        assert row["metrics"]["recall@10"] > 0.8  # of directions drawn at random, which lie all equally far apart
        assert min(row["metrics"][name] for name in ("build_s", "open_ms", "ms_p50", "qps", "own_mb")) > 0


def test_all_kernels_give_the_same_scores_but_for_rounding(tmp_path, vectors, monkeypatch):
    given = ["kernels", str(DEMO), "--quick", "--vectors", str(vectors), "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    kernels.main()
    rows = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))["rows"]
    error = {(row["system"], *row["parameters"].values()): row["metrics"]["error"] for row in rows}
    assert max(error["PyTorch", "f32, padded"], error["NumPy", "f32"]) < 1e-6
    assert error["polyseek-late", 8] < 0.01 < error["polyseek-late", 4] < error["polyseek-late", 2] < 0.3
    assert error["NumKong", "f32"] < 0.3


def test_a_table_leaves_out_what_was_not_measured():
    rows = [
        {"system": "a", "parameters": {}, "metrics": {"qps": 12.3}},
        {"system": "b", "parameters": {"bits": 4}, "metrics": {"qps": 0.5, "recall@10": 0.98765}},
    ]
    assert results.table(rows).splitlines()[2:] == ["| a |  | 12 |  |", "| b | bits 4 | 0.500 | 0.988 |"]


def test_a_build_that_is_killed_ends_as_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build", str(DEMO), "--quick", "--to", str(tmp_path)])
    build.main()  # it raises where they differ
    half, whole, killed = json.loads((tmp_path / "build.json").read_text(encoding="utf-8"))["rows"]
    assert [row["parameters"]["passages"] for row in (half, whole, killed)] == [150, 300, 300]
    assert 150 <= killed["metrics"]["repeated"] <= 300  # one batch, which was in flight
    for row in (half, whole, killed):
        assert min(row["metrics"][name] for name in ("bytes", "passages_per_s", "tokens_per_s")) > 0
        assert 0 <= row["metrics"]["own_mb"] <= row["metrics"]["peak_rss_mb"]
        assert row["metrics"]["peak_rss_mb"] > 100
