import gzip
import json

import pytest

from data.errors import InputError, NotFoundError, UsageError
from retriever.training.examples import (
    Meaning,
    Pair,
    Skipped,
    Source,
    check_apart,
    letters,
    read_sources,
    without_long,
)


def write(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_pairs_and_meanings_of_one_file(tmp_path):
    path = write(
        tmp_path / "mixed.jsonl.gz",
        [
            {"query": "wer?", "positive": "Ada", "lang": "de", "source": "a"},
            {"query": "who?", "positive": "Ada", "negatives": ["Bob"], "scores": [3, 1.5], "lang": "en", "source": "a"},
            {"query": "fox", "positive": "Ein Fuchs.", "lang": "en", "positive_lang": "DE", "source": "c"},
            {"en": "A fox.", "text": "Ein Fuchs.", "lang": "de", "source": "b"},
            {"en": "A fox.", "text": "Mbweha.", "lang": "sw", "source": "b"},
            {"en": "A cat.", "text": "Eine Katze.", "lang": "de", "source": "b"},
        ],
    )
    skipped = Skipped()
    found = {source.name: source.examples for source in read_sources(path, skipped)}
    assert found == {
        "mixed.jsonl.gz:a:de": [Pair("wer?", "Ada", "de", positive_language="de")],
        "mixed.jsonl.gz:a:en": [Pair("who?", "Ada", "en", ("Bob",), (3.0, 1.5), "en")],
        "mixed.jsonl.gz:c:en": [Pair("fox", "Ein Fuchs.", "en", positive_language="de")],
        "mixed.jsonl.gz:b": [
            Meaning("A cat.", (("de", "Eine Katze."),)),
            Meaning("A fox.", (("de", "Ein Fuchs."), ("sw", "Mbweha."))),
        ],
    }
    assert not skipped.counts


def test_what_teaches_nothing_is_counted(tmp_path):
    rows = [
        {"query": "a question", "positive": "an answer"},
        {"query": "a question", "positive": "an answer"},
        {"query": " ", "positive": "x"},
        {"query": "The same!", "positive": "the SAME"},
        {"en": "A fox.", "text": "Ein Fuchs.", "lang": "de"},
        {"en": "A fox.", "text": "Der Fuchs.", "lang": "de"},
        {"query": "q", "positive": "p", "source": "tquad"},
    ]
    skipped = Skipped()
    found = read_sources(write(tmp_path / "x.jsonl", rows), skipped, leave_out=["tquad"])
    assert [len(source.examples) for source in found] == [1, 1]
    assert skipped.counts == {
        "duplicates": 2, "with an empty side": 1, "with the same text on both sides": 1, "of tquad, left out": 1,
    }  # fmt: skip
    assert "2 duplicates" in str(skipped)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q"},
        {"query": 1, "positive": "p"},
        {"query": "q"},
        {"query": "q", "positive": "p", "negatives": ["n"], "scores": [1]},
        {"query": "q", "positive": "p", "negatives": [3]},
        {"en": "x", "text": "y"},
        {"en": "x", "text": "y", "lang": None},
    ],
)
def test_a_row_of_another_form_is_named(tmp_path, row):
    path = write(tmp_path / "x.jsonl", [{"query": "q", "positive": "p"}, row])
    with pytest.raises(InputError, match=r"x\.jsonl, line 2"):
        read_sources(path, Skipped())


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(UsageError, match="1 with an empty side"):
        read_sources(write(tmp_path / "x.jsonl", [{"query": "", "positive": "p"}]), Skipped())
    with pytest.raises(NotFoundError):
        read_sources(tmp_path / "none.jsonl", Skipped())


def beir(folder):
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", [{"_id": "d1", "title": "Ada", "text": "wrote notes"}, {"_id": "d2", "text": "no"}])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "who wrote notes?"}])
    for split in ("train", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    return folder


def test_a_beir_folder_gives_its_training_pairs(tmp_path):
    (source,) = read_sources(beir(tmp_path / "set"), Skipped())
    assert source.examples == [Pair("who wrote notes?", "Ada wrote notes")]


def test_text_of_an_evaluation_set_is_refused(tmp_path):
    folder = beir(tmp_path / "set")
    bad = read_sources(write(tmp_path / "x.jsonl", [{"query": "Who wrote NOTES", "positive": "Ada"}]), Skipped())
    with pytest.raises(InputError, match="which is in"):
        check_apart(bad, [folder])
    fine = read_sources(write(tmp_path / "y.jsonl", [{"query": "who wrote books?", "positive": "Ada"}]), Skipped())
    check_apart(fine, [folder])


def test_letters_are_compared_without_case_width_and_signs():
    assert letters("Ａda, «LOVELACE»!") == letters("ada lovelace")
    assert letters("สวัสดี") != letters("สวัสดิ์")


def test_long_sentences_are_left_out_and_counted():
    made = [Meaning("long" * (i % 3) + f" {i}", (("de", f"de {i}"),)) for i in range(9)]
    skipped = Skipped()
    found = without_long(Source("parallel", made), 6, skipped)
    assert [meaning.pivot for meaning in found.examples] == [" 0", "long 1", " 3", "long 4", " 6", "long 7"]
    assert str(skipped) == "3 sentences of more than 6 characters"
    answered = Source("qa", [Pair("a long question", "a long answer")])
    assert without_long(answered, 6, skipped) == answered
    assert skipped.counts.total() == 3
