"""Reproductions as data: the demo is measured again, and the README says what is expected."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import InputError, NotFoundError, UsageError
from eval import reproduce as module
from eval.bitext import SYSTEMS
from eval.measures import parse_measures
from eval.reproduce import Check, markdown, read_checks, reproduce, update
from eval.systems import views_of
from retriever.bundled import NAME, TRAINED

ROOT = Path(__file__).parents[2]


def test_every_check_names_systems_and_measures_that_there_are():
    for check in read_checks().values():
        if not check.bitext:
            assert views_of(check.using)
            assert parse_measures(check.measures)
        systems = SYSTEMS if check.bitext else check.using
        # All of what is measured is expected, or nothing yet.
        assert set(check.expected) in (set(systems), set()), check.name
        assert check.tolerance > 0


def test_the_demo_is_as_it_should_be(tmp_path):
    for told, count in zip(reproduce(["demo", "demo-published"], None, tmp_path), (7, 4), strict=True):
        assert told["ok"], json.dumps(told["rows"], indent=1)
        assert all(row["expected"] is not None for row in told["rows"])
        assert len(told["rows"]) == count
    assert len(list(tmp_path.iterdir())) == 2  # a collection for each encoder


def test_the_command_of_a_check_names_its_encoder():
    told = {"name": "x", "title": "x", "dataset": "d", "tolerance": 0.1, "expected": {}}
    check = Check(**told, encoder=NAME, using=("late",), measures=("mAP",))
    assert check.command() == "polyseek eval d --encoder bundled --using late --measures mAP"
    assert replace(check, bitext=True).command() == "polyseek bitext d --encoder bundled"
    assert replace(check, bitext=True, encoder=TRAINED).command() == "polyseek bitext d"


def test_what_differs_is_told(tmp_path, monkeypatch, demo_collection):
    other = tmp_path / "expected.toml"
    other.write_text(
        '[demo]\ntitle = "t"\nusing = ["bm25"]\nmeasures = ["P@1"]\ntolerance = 0.001\n'
        '[demo.expected.bm25]\n"P@1" = 0.1\n'
        '[elsewhere]\ntitle = "e"\nusing = ["bm25"]\nmeasures = ["P@1"]\ntolerance = 0.1\n'
    )
    monkeypatch.setattr(module, "read_checks", lambda: read_checks(other))
    demo, elsewhere = reproduce([], tmp_path, tmp_path / "work")
    assert not demo["ok"]
    assert demo["rows"][0]["expected"] == 0.1
    assert elsewhere == {"name": "elsewhere", "skipped": "no folder elsewhere in --data"}
    with pytest.raises(NotFoundError, match="elsewhere needs the folder elsewhere"):
        list(reproduce(["elsewhere"], tmp_path, tmp_path / "work"))
    with pytest.raises(UsageError, match="nothing to reproduce is called 'x': choose from demo, elsewhere"):
        list(reproduce(["x"], tmp_path, tmp_path / "work"))
    other.write_text(other.read_text().replace('"P@1" = 0.1', '"P@2" = 0.1'))
    with pytest.raises(InputError, match="demo expects P@2 of bm25, which it does not measure"):
        list(reproduce(["demo"], None, tmp_path / "work"))


@pytest.mark.parametrize(
    "text", ["[demo", "[demo]\nusing = 3\n", "[demo]\nnonsense = 1\n", "demo = 1\n", '[demo]\ntitle = "x"']
)
def test_broken_files_are_told(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InputError, match=r"x\.toml is no file of reproductions"):
        read_checks(tmp_path / "x.toml")


TOLD = {
    "name": "a", "title": "A", "command": "polyseek eval a", "published": "x .5", "ok": True, "tolerance": 0.1,
    "rows": [
        {"system": "bm25", "measure": "MAP", "expected": 0.5, "found": 0.5, "ok": True},
        {"system": "dense", "measure": "MAP", "expected": None, "found": 0.7504, "ok": True},
    ],
}  # fmt: skip


def test_a_table_by_hand_and_its_place(tmp_path):
    wanted = (
        "| A | MAP |\n| --- | --- |\n| bm25 | .500 |\n| dense | **.750** |\n\n`polyseek eval a`\n\nPublished: x .5.\n"
    )
    assert markdown(TOLD) == wanted
    page = tmp_path / "page.md"
    page.write_text("one\n<!-- reproduce a -->\nold\n<!-- end -->\ntwo\n<!-- reproduce b -->\nb\n<!-- end -->\n")
    assert update(page, [TOLD, {"name": "b", "skipped": "."}]) == 1
    text = page.read_text()
    assert text == f"one\n<!-- reproduce a -->\n{wanted}<!-- end -->\ntwo\n<!-- reproduce b -->\nb\n<!-- end -->\n"
    assert update(page, [TOLD]) == 1
    assert page.read_text() == text
    with pytest.raises(NotFoundError, match="cannot read"):
        update(tmp_path / "none", [TOLD])
    page.write_bytes(b"<!-- reproduce a -->\r\nold\r\n<!-- reproduce b -->\r\nb\r\n<!-- end -->\r\n")  # no end of a
    before = page.read_bytes()
    assert update(page, [TOLD]) == 0
    assert page.read_bytes() == before
    for text in (b"nothing", b"\xff"):
        page.write_bytes(text)
        with pytest.raises(InputError, match=r"has no place for a table|is not UTF-8"):
            update(page, [TOLD])


def test_the_readme_says_what_is_expected():
    checks, text = read_checks(), (ROOT / "README.md").read_text(encoding="utf-8")
    places = dict(re.findall(r"<!-- reproduce (\S+) -->\n(.*?)<!-- end -->", text, re.DOTALL))
    assert {"demo", "scifact", "xquad-r"} <= places.keys()
    for name, table in places.items():
        check = checks[name]
        assert check.command() in table
        rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines() if line[:1] == "|"]
        measures = rows[0][1:]
        assert {row[0] for row in rows[2:]} == set(check.expected)
        for system, *values in rows[2:]:
            for measure, value in zip(measures, values, strict=True):
                assert float(value) == pytest.approx(check.expected[system][measure], abs=check.tolerance)
