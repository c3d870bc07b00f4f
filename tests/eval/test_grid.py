"""Grids: every dataset with every encoder, from one file."""

import re
from pathlib import Path

import pytest

from data.errors import InputError, NotFoundError, PolyseekError, UsageError
from eval.command import EvalRequest, evaluate_dataset
from eval.grid import evaluate_grid, read_grid
from eval.report import write_report
from eval.tables import format_grid
from tests import tiny
from tests.eval.test_kept import Bars, write

GRID = """
datasets = ["one", {path = "two", queries = "two/others.jsonl", drop_self = true}]
encoders = ["small", "other"]
systems = ["bm25", "dense", "bm25@1:dense"]
measures = ["nDCG@10", "P@1"]
"""
CELLS = ["one.small", "one.other", "two.small.others", "two.other.others"]


@pytest.fixture
def grid(tmp_path, tiny_folder, backbone):
    write(tmp_path / "one")
    write(tmp_path / "two", text="no animal")
    (tmp_path / "two" / "others.jsonl").write_bytes((tmp_path / "one" / "queries.jsonl").read_bytes())
    (tmp_path / "small").symlink_to(tiny_folder)
    tiny.write_sentence_model(tmp_path / "other", backbone, seed=1)
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def labels(request, stop=None):
    bars = Bars(stop)
    return evaluate_grid(request, bars), bars.labels


def test_every_cell_is_what_it_is_alone_and_is_kept(grid, tmp_path):
    request = EvalRequest(dataset=str(grid), using=("late",), backend="torch")
    with pytest.raises(KeyboardInterrupt):  # in the first cell, before the last system
        labels(request, stop="bm25@1:dense")
    found, seen = labels(request)
    assert seen[:4] == ["index", "encode queries", "bm25@1:dense", "compare systems"]
    assert seen[4:9] == ["index", "encode queries", "bm25", "dense", "bm25@1:dense"]
    assert found["grid"] == "grid.toml"
    assert list(found["cells"]) == CELLS
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == [
        "one.other", "one.small", "two.other", "two.small",
    ]  # fmt: skip
    for name, told in found["cells"].items():
        assert list(told["systems"]) == ["bm25", "dense", "bm25@1:dense"]
        assert told["encoder"].endswith("sentence" if "small" in name else "other")
        assert told["systems"]["bm25@1:dense"]["P@1"] == told["systems"]["bm25"]["P@1"]  # one document is handed on
    alone = evaluate_dataset(
        EvalRequest(
            dataset=str(tmp_path / "two"), queries=tmp_path / "two" / "others.jsonl", drop_self=True, backend="torch",
            using=("bm25", "dense", "bm25@1:dense"), measures=("nDCG@10", "P@1"), encoder=str(tmp_path / "other"),
        )
    )["systems"]  # fmt: skip
    for system, values in found["cells"]["two.other.others"]["systems"].items():
        assert {name: values[name] for name in ("nDCG@10", "P@1", "per_language")} == {
            name: alone[system][name] for name in ("nDCG@10", "P@1", "per_language")
        }
    again, seen = labels(request)
    assert seen == ["compare systems"] * 4
    assert [told["systems"] for told in again["cells"].values()] == [
        told["systems"] for told in found["cells"].values()
    ]
    grid.write_text(GRID.replace('"bm25@1:dense"', '"bm25@2:dense"'))
    assert "dense" not in labels(request)[1]

    lines = format_grid(found).splitlines()
    assert lines[0].split()[:4] == ["cell", "system", "nDCG@10", "P@1"]
    assert [line.split()[0] for line in lines[1::3]] == CELLS
    for kind in ("html", "md"):
        write_report(tmp_path / f"grid.{kind}", found, "polyseek eval grid.toml")
        page = (tmp_path / f"grid.{kind}").read_text()
        assert all(page.count(cell) >= 3 for cell in CELLS)
        assert len(re.findall(r"(?m)^<h2>(?:one|two)</h2>|^## (?:one|two)$", page)) == 4


def test_what_the_file_leaves_out_is_as_asked(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('datasets = ["irds:miracl/sw/dev", "/a/b c"]\n')
    request = EvalRequest(
        dataset=str(path), using=("late",), measures=("MAP",), neutral=False, index=tmp_path / "i", runs=tmp_path / "r"
    )
    found = read_grid(request)
    assert list(found) == ["miracl-sw-dev.bundled-trained", "b_c.bundled-trained"]
    cell = found["b_c.bundled-trained"]
    assert (cell.dataset, cell.using, cell.measures, cell.neutral) == ("/a/b c", ("late",), ("MAP",), False)
    assert (cell.index, cell.runs) == (tmp_path / "i" / "b_c.bundled-trained", tmp_path / "r" / "b_c.bundled-trained")
    assert (
        read_grid(EvalRequest(dataset=str(path)))["b_c.bundled-trained"].index == tmp_path / "x" / "b_c.bundled-trained"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("datasets = [\n3 4]", r"is no TOML: .*line 2"),
        (b"datasets = ['\xff']", "is no TOML"),
        ("", "names no datasets"),
        ("datasets = []", "names no datasets"),
        ('datasets = "one"', "names no datasets"),
        ('dataset = ["one"]', "says 'dataset', which a grid does not know: it has datasets, encoders"),
        ("datasets = [3]", "a dataset is a folder or a table with path, queries, split, drop_self, not 3"),
        ("datasets = [{drop_self = true}]", "a dataset is a folder or a table"),
        ('datasets = [{path = "x", splits = "dev"}]', "a dataset is a folder or a table"),
        ('datasets = [{path = "x", drop_self = "yes"}]', "a dataset is a folder or a table"),
        ('datasets = ["a"]\nsystems = "bm25"', r"systems is a list of names, systems = \["),
        ('datasets = ["a"]\nmeasures = [1]', "measures is a list of names"),
        ('datasets = ["a"]\nencoders = []', "encoders is a list of names"),
        ('datasets = ["x/a", "y/a"]', "two cells that are called a.bundled-trained"),
    ],
)
def test_what_is_no_grid_is_told_in_one_line(tmp_path, text, told):
    path = tmp_path / "grid.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=told) as caught:
        read_grid(EvalRequest(dataset=str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_evaluated_is_told_before_any_work(grid):
    for old, new, kind in (
        ('"dense", ', '"dance", ', UsageError),
        ("P@1", "P@0", UsageError),
        ('"two"', '"three"', NotFoundError),
    ):
        grid.write_text(GRID.replace(old, new))
        with pytest.raises(kind):
            evaluate_grid(EvalRequest(dataset=str(grid)))
    assert not grid.with_suffix("").exists()
    with pytest.raises(PolyseekError, match="cannot read the grid"):
        evaluate_grid(EvalRequest(dataset=str(Path(grid).with_name("none.toml"))))
