import gzip
import json

import pytest

from data.errors import InputError
from retriever.training.join import join

PARAGRAPH = "Reads the pixels of coral reefs, and writes what it has found."


def rows(path, records):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return path


def test_a_query_is_joined_with_each_translation_of_what_its_passage_holds(tmp_path):
    pairs = rows(
        tmp_path / "qa.jsonl.gz",
        [
            {"query": "reef reader", "positive": f"A tool. {PARAGRAPH} It is free.", "lang": "en", "source": "debian"},
            {"query": "Riffleser", "positive": f"Ein Programm. {PARAGRAPH}", "lang": "de", "source": "debian"},
            {"query": "reef", "positive": f"x{PARAGRAPH}", "lang": "en", "source": "debian"},  # inside a word
            {"query": "fox", "positive": PARAGRAPH[:-1], "lang": "en", "source": "debian"},  # not all of it
        ],
    )
    parallel = rows(
        tmp_path / "parallel.jsonl.gz",
        [
            {"en": PARAGRAPH, "text": "サンゴ礁の画素を読みます。", "lang": "ja"},
            {"en": PARAGRAPH, "text": "Liest die Pixel von Korallenriffen.", "lang": "de"},
            {"en": "A tool.", "text": "Ein Programm.", "lang": "de"},  # too short to be a paragraph
        ],
    )
    for name in ("first", "again"):
        assert join(pairs, parallel, tmp_path / f"{name}.jsonl") == 2
    found = [json.loads(line) for line in (tmp_path / "first.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(x["query"], x["positive"]) for x in found] == [
        ("reef reader", "サンゴ礁の画素を読みます。"),
        ("reef reader", "Liest die Pixel von Korallenriffen."),
    ]
    assert [(x["lang"], x["positive_lang"], x["source"]) for x in found] == [
        ("en", "ja", "joined"),
        ("en", "de", "joined"),
    ]
    assert (tmp_path / "first.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()


def test_a_broken_line_is_told_and_changes_nothing(tmp_path):
    good = rows(tmp_path / "parallel.jsonl.gz", [{"en": PARAGRAPH, "text": "Liest Pixel.", "lang": "de"}])
    broken = rows(tmp_path / "qa.jsonl.gz", [{"query": "a", "positive": "b", "lang": "en"}, {"query": "reef"}])
    output = tmp_path / "joined.jsonl"
    output.write_bytes(b"before")
    with pytest.raises(InputError, match="line 2: needs query and positive"):
        join(broken, good, output)
    assert output.read_bytes() == b"before"
