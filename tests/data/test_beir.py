"""Queries, judgements and the BEIR folder."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError, NotFoundError
from data.readers import BeirFolder, read_qrels, read_queries
from data.records import Document, Query


def written(folder, content, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tiny"
    written(folder, '{"_id": "d1", "text": "un", "lang": "fr"}\n{"_id": "d2", "text": "deux"}\n', "corpus.jsonl")
    written(folder, "".join(f'{{"_id": "q{i}", "text": "t{i}"}}\n' for i in (3, 1, 2)), "queries.jsonl")
    written(folder, "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq3\td2\t1\n", "qrels/test.tsv")
    return folder


def test_a_beir_folder(folder):
    dataset = BeirFolder.open(folder)
    assert dataset.name == "tiny"
    assert list(dataset.documents()) == [Document("d1", "un", lang="fr"), Document("d2", "deux")]
    assert dataset.queries() == [Query("t3", id="q3"), Query("t1", id="q1")], "judged ones only, in file order"
    assert dataset.qrels() == {"q1": {"d1": 2, "d2": 0}, "q3": {"d2": 1}}


def test_the_parts_may_be_packed_and_the_split_chosen(folder):
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        path = folder / name
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    written(folder, "q2 0 d1 1\n", "qrels/dev.tsv")
    assert len(list(BeirFolder.open(folder).documents())) == 2
    assert BeirFolder.open(folder, split="dev").queries() == [Query("t2", id="q2")]


def test_the_name_of_the_folder_one_stands_in(folder, monkeypatch):
    monkeypatch.chdir(folder / "qrels")
    assert BeirFolder.open(folder / "qrels" / "..").name == "tiny"


@pytest.mark.parametrize(
    ("missing", "split", "message"),
    [
        ("corpus.jsonl", "test", r"has no corpus.jsonl\[.gz\]$"),
        ("queries.jsonl", "test", r"has no queries.jsonl\[.gz\]$"),
        ("qrels/test.tsv", "test", r"has no qrels/test.tsv\[.gz\]$"),
        (None, "dev", r"has no qrels/dev.tsv\[.gz\]; its splits are: test$"),
        ("queries.jsonl", "dev", r"has no queries.jsonl\[.gz\], qrels/dev.tsv\[.gz\]; its splits are: test$"),
    ],
)
def test_a_missing_part_is_named(folder, missing, split, message):
    if missing:
        (folder / missing).unlink()
    with pytest.raises(NotFoundError, match=message):
        BeirFolder.open(folder, split=split)


def test_a_folder_that_is_none(folder):
    with pytest.raises(NotFoundError, match="is no folder"):
        BeirFolder.open(folder / "corpus.jsonl")


# Queries


def test_queries_with_languages_and_numbers_for_ids(tmp_path):
    lines = (
        '\ufeff{"_id": "a", "text": "ภาษา", "lang": "tha"}\n\n{"id": 7, "text": "?", "lang": null, "subject": "x"}\r\n'
    )
    assert read_queries(written(tmp_path, lines, "q.jsonl")) == [Query("ภาษา", "th", "a"), Query("?", "", "7")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "t"}', "a query has no id"),
        ('{"_id": "", "text": "t"}', "a query has no id"),
        ('{"_id": true, "text": "t"}', "the id of a query must be a string, got bool"),
        ('{"_id": "b"}', "query 'b' has no text"),
        ('{"_id": "b", "text": null}', "query 'b': text must be a string, got NoneType"),
        ('{"_id": "b", "text": "\\ud800"}', "query 'b': text holds a lone surrogate"),
        ('{"_id": "b", "text": "t", "lang": 1}', "query 'b': lang must be a string, got int"),
        ('{"_id": "a", "text": "t"}', "the query id 'a' is already that of line 1"),
        ("a\tt", "not valid JSON"),
    ],
)
def test_a_broken_query_names_its_line(tmp_path, line, message):
    path = written(tmp_path, f'{{"_id": "a", "text": "t"}}\n{line}\n', "q.jsonl")
    with pytest.raises(InputError) as caught:
        read_queries(path)
    assert str(caught.value).startswith(f"{path}, line 2: {message}")


# Judgements


def test_both_formats_say_the_same(tmp_path):
    beir = "query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq1\td2\t-1\r\n\r\nq2\td1\t3"
    trec = "\nq1 0 d1 1\nq1\tQ0\td2 -1\n  q2 0  d1   3\n"
    expected = {"q1": {"d1": 1, "d2": -1}, "q2": {"d1": 3}}
    assert read_qrels(written(tmp_path, "\ufeff" + beir, "b.tsv")) == expected
    assert read_qrels(written(tmp_path, trec, "t.qrels")) == expected
    assert read_qrels(written(tmp_path, gzip.compress(trec.encode()), "t.qrels.gz")) == expected


def test_ids_of_beir_may_hold_blanks(tmp_path):
    path = written(tmp_path, "query-id\tcorpus-id\tscore\na query\tein Dokument\t1\n", "b.tsv")
    assert read_qrels(path) == {"a query": {"ein Dokument": 1}}


@pytest.mark.parametrize("content", ["", "\n\n", "query-id\tcorpus-id\tscore\n"])
def test_no_judgements(tmp_path, content):
    assert read_qrels(written(tmp_path, content, "b.tsv")) == {}


HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1\td1\t1\n", "line 1: neither the four columns of TREC"),
        ("q1 0 d1 1\nq1 0 d1\n", "line 2: neither the four columns of TREC"),
        (HEADER + "q1 d1 1\n", "line 2: three columns with tabs between them are needed"),
        (HEADER + "q1\td1\t1\t1\n", "line 2: three columns with tabs between them are needed"),
        (HEADER + "q1\t\t1\n", "line 2: three columns with tabs between them are needed"),
        (HEADER + "q1\td1\tyes\n", "line 2: the grade 'yes' is not a whole number"),
        (HEADER + "q1\td1\t0.5\n", "line 2: the grade '0.5' is not a whole number"),
        (HEADER + "q1\td1\t١\n", "line 2: the grade '١' is not a whole number"),
        (
            HEADER + "q1\td1\t1\nq1\td1\t1\nq1\td1\t2\n",
            "line 4: document 'd1' of query 'q1' was graded 1 before and is 2",
        ),
        ("q1 0 d1 1_0\n", "line 1: the grade '1_0' is not a whole number"),
        (b"q1 0 d1 1\nq1 0 caf\xe9 1\n", "line 2: the file is not UTF-8"),
    ],
)
def test_a_broken_judgement_names_its_line(tmp_path, content, message):
    path = written(tmp_path, content, "b.tsv")
    with pytest.raises(InputError) as caught:
        read_qrels(path)
    assert str(caught.value).startswith(f"{path}, {message}")


@pytest.mark.parametrize("read", [read_qrels, read_queries])
def test_a_missing_file(tmp_path, read):
    with pytest.raises(NotFoundError, match=r"absent.tsv does not exist"):
        read(tmp_path / "absent.tsv")


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_qrels(tmp_path)


NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=5)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(-2, 3), min_size=1, max_size=3), max_size=3))
def test_judgements_survive_both_formats(tmp_path_factory, qrels):
    folder = tmp_path_factory.mktemp("qrels")
    triples = [(query, document, grade) for query, grades in qrels.items() for document, grade in grades.items()]
    beir = HEADER + "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in triples)
    trec = "".join(f"{query} 0 {document} {grade}\n" for query, document, grade in triples)
    assert read_qrels(written(folder, beir, "b.tsv")) == qrels
    assert read_qrels(written(folder, trec, "t.tsv")) == qrels


@given(st.lists(st.tuples(NAMES, st.text(st.characters(exclude_categories=["Cs"]))), unique_by=lambda pair: pair[0]))
def test_queries_survive_json_lines(tmp_path_factory, pairs):
    lines = "".join(json.dumps({"_id": i, "text": text}, ensure_ascii=False) + "\n" for i, text in pairs)
    path = written(tmp_path_factory.mktemp("queries"), lines, "q.jsonl")
    assert read_queries(path) == [Query(text, id=i) for i, text in pairs]
