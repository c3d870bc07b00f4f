import io
import sys
from pathlib import Path

import pytest

from data.errors import InputError, NotFoundError, UsageError
from data.inputs import Inputs


def line(identity, text="text"):
    return f'{{"_id": "{identity}", "text": "{text}"}}\n'


@pytest.fixture
def write(tmp_path):
    def to(name, *lines):
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return to


@pytest.fixture
def standard_input(monkeypatch):
    def give(*lines):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(lines).encode()), encoding="ascii"))

    return give


def test_several_inputs_are_one_collection_in_their_order(write, tmp_path):
    (tmp_path / "notes").mkdir()
    notes = str(Path(write("notes/é.txt", "Riff")).parent)
    sources = [write("b.jsonl", line("2"), line("1")), notes, write("a.tsv", "id\ttext\n3\tMeer\n")]
    with Inputs(sources) as inputs:
        assert inputs.check() == 4
        assert [document.id for document in inputs] == ["2", "1", "é.txt", "3"]
        assert [document.id for document in inputs] == ["2", "1", "é.txt", "3"]


def test_standard_input_can_be_read_twice(write, standard_input):
    standard_input(line("1", "海水"), "\n", line("2"))
    with Inputs([write("a.jsonl", line("0")), "-"]) as inputs:
        assert inputs.check() == 3
        assert [(document.id, document.text) for document in inputs] == [("0", "text"), ("1", "海水"), ("2", "text")]


def test_what_was_kept_of_standard_input_is_removed(standard_input, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    standard_input(line("1"))
    with Inputs(["-"]) as inputs:
        assert inputs.check() == 1
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_standard_input_twice_is_refused():
    with pytest.raises(UsageError, match=r"standard input \(-\) can be given once"):
        Inputs(["-", "a.jsonl", "-"])


def test_a_broken_line_of_standard_input_is_told_as_that(standard_input):
    standard_input(line("1"), "{broken\n")
    with Inputs(["-"]) as inputs:
        with pytest.raises(InputError, match=r"^standard input, line 2: not valid JSON"):
            inputs.check()
        with pytest.raises(InputError, match=r"^standard input, line 2: "):
            list(inputs)


def test_an_id_that_stands_twice_is_told_with_its_places(write, standard_input):
    one, two = write("one.jsonl", line("a"), line("b")), write("two.jsonl", line("c"), line("a"))
    with pytest.raises(InputError, match=rf"'a' stands in {one} and in {two}: give every document one id"):
        Inputs([one, two]).check()
    with pytest.raises(InputError, match=rf"'a' stands twice in {one}"):
        Inputs([one, one]).check()
    standard_input(line("b"))
    with Inputs([one, "-"]) as inputs, pytest.raises(InputError, match=rf"'b' stands in {one} and in standard input"):
        inputs.check()


def test_a_missing_or_unknown_input_is_refused(write):
    with pytest.raises(NotFoundError, match=r"nowhere\.jsonl"):
        Inputs([write("a.jsonl", line("1")), "nowhere.jsonl"]).check()
    with pytest.raises(UsageError, match="unknown kind"):
        Inputs([write("a.pdf", "%PDF")]).check()


def test_nothing_is_an_input_too(write, standard_input):
    standard_input()
    with Inputs([write("a.jsonl"), "-"]) as inputs:
        assert inputs.check() == 0
        assert list(inputs) == []
