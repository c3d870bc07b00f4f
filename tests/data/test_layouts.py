"""MIRACL, Mr.TyDi, mMARCO and TREC, made here as their authors lay them out."""

import gzip
import json

import pytest

from data.datasets import open_dataset
from data.errors import InputError, NotFoundError, UsageError
from data.records import Document, Query


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def json_lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def fails(error, source, **options):
    with pytest.raises(error) as caught:
        open_dataset(str(source), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def miracl(tmp_path):
    topics = {"dev": "1#0\tMalaria ni nini?\n2#0\tNani?\n", "train": "3#0\tWapi?\n", "test-a": "4#0\tLini?\n"}
    for split, content in topics.items():
        written(tmp_path / "topics" / f"topics.miracl-v1.0-sw-{split}.tsv", content)
    written(tmp_path / "qrels" / "qrels.miracl-v1.0-sw-dev.tsv", "1#0\tQ0\t12#0\t1\n1#0\tQ0\t13#0\t0\n")
    written(tmp_path / "qrels" / "qrels.miracl-v1.0-sw-train.tsv", "3#0\tQ0\t14#2\t1\n")
    for number, ids in enumerate((["12#0"], ["13#0", "14#2"])):
        rows = json_lines(*({"docid": i, "title": "Malaria", "text": f"Maandishi {i}"} for i in ids))
        written(tmp_path / "miracl-corpus-v1.0-sw" / f"docs-{number}.jsonl.gz", rows)
    return tmp_path


def test_miracl_is_read(miracl):
    found = open_dataset(str(miracl))
    documents = list(found.documents())
    assert documents[0] == Document("12#0", "Maandishi 12#0", "Malaria", "sw")
    assert [d.id for d in documents] == ["12#0", "13#0", "14#2"]
    assert found.queries() == [Query("Malaria ni nini?", lang="sw", id="1#0")]
    assert found.qrels() == {"1#0": {"12#0": 1, "13#0": 0}}
    assert open_dataset(str(miracl), split="train").queries() == [Query("Wapi?", lang="sw", id="3#0")]


def test_miracl_in_parts_or_twice_is_told(miracl):
    assert "leave --queries out" in fails(UsageError, miracl, queries=miracl / "x")
    told = fails(NotFoundError, miracl, split="test-b")
    assert told.endswith("has no topics of test-b; its splits are: dev, test-a, train")
    assert "no qrels.miracl-v1.0-sw-test-a.tsv" in fails(NotFoundError, miracl, split="test-a")
    other = written(miracl / "topics" / "topics.miracl-v1.0-yo-dev.tsv", "1\tx\n")
    assert "give a folder with one of them" in fails(UsageError, miracl)
    other.unlink()
    (miracl / "qrels" / "qrels.miracl-v1.0-sw-dev.tsv").unlink()
    assert "but no qrels.miracl-v1.0-sw-dev.tsv" in fails(NotFoundError, miracl)


@pytest.fixture
def mrtydi(tmp_path):
    home = tmp_path / "data" / "mrtydi-v1.1-swahili"
    rows = ({"id": "12#0", "contents": "Malaria\n\nNi ugonjwa."}, {"docid": "13#0", "title": "Mto", "text": "Nile"})
    written(home / "collection" / "docs.jsonl.gz", json_lines(*rows))
    written(home / "topic.tsv", "0\tmtihani\n1\tmafunzo\n")
    written(home / "topic.test.tsv", "0\tMalaria ni nini?\n2\tbila jibu\n")
    written(home / "topic.train.tsv", "1\tNile ni nini?\n")
    written(home / "qrels.txt", "0 Q0 12#0 1\n1 Q0 13#0 1\n")
    written(home / "qrels.test.txt", "0 Q0 12#0 1\n")
    written(home / "qrels.train.txt", "1 Q0 13#0 1\n")
    return home


def test_mrtydi_is_read(mrtydi):
    for source in (mrtydi, mrtydi.parent):
        found = open_dataset(str(source))
        assert found.name == "mrtydi-v1.1-swahili"
        assert list(found.documents()) == [
            Document("12#0", "Malaria\n\nNi ugonjwa.", lang="sw"),
            Document("13#0", "Nile", "Mto", "sw"),
        ]
        assert found.queries() == [Query("Malaria ni nini?", lang="sw", id="0")]
        assert found.qrels() == {"0": {"12#0": 1}}
    assert open_dataset(str(mrtydi), split="train").queries() == [Query("Nile ni nini?", lang="sw", id="1")]


def test_mrtydi_in_parts_or_twice_is_told(mrtydi):
    assert fails(NotFoundError, mrtydi, split="dev").endswith("no topics of dev; its splits are: test, train")
    (mrtydi / "qrels.test.txt").unlink()
    assert "topic.test.tsv but no qrels.test.txt" in fails(NotFoundError, mrtydi)
    written(mrtydi / "collection" / "docs.jsonl", json_lines({"docid": "1", "text": "a"}, {"id": "2", "text": "b"}))
    with pytest.raises(InputError, match=r"docs\.jsonl, line 2: a document has no id"):
        list(open_dataset(str(mrtydi), split="train").documents())
    for path in (mrtydi / "collection").iterdir():
        path.unlink()
    assert "no collection/docs.jsonl.gz" in fails(NotFoundError, mrtydi, split="train")
    written(mrtydi.parent / "mrtydi-v1.1-thai" / "topic.test.tsv", "1\tx\n")
    assert "mrtydi-v1.1-swahili/topic.train.tsv and mrtydi-v1.1-thai" in fails(UsageError, mrtydi.parent)


@pytest.fixture
def mmarco(tmp_path):
    for name, text in (("german", "Das Manhattan-Projekt"), ("arabic", "مشروع مانهاتن")):
        written(tmp_path / "google" / "collections" / f"{name}_collection.tsv", f"0\t{text}\n1\t{text} 1\n")
        queries = tmp_path / "google" / "queries" / "dev"
        written(queries / f"{name}_queries.dev.small.tsv", "1048585\tWer ist es?\n2\tnicht beurteilt\n")
        written(queries / f"{name}_queries.dev.tsv", "3\tWas?\n")
    written(tmp_path / "qrels.dev.small.tsv", "1048585\t0\t1\t1\n")
    written(tmp_path / "qrels.dev.tsv", "3\t0\t0\t1\n")
    return tmp_path


def test_mmarco_is_read(mmarco):
    found = open_dataset(str(mmarco / "google" / "collections" / "german_collection.tsv"))
    assert found.name == "mmarco-german"
    assert list(found.documents()) == [
        Document("0", "Das Manhattan-Projekt", lang="de"),
        Document("1", "Das Manhattan-Projekt 1", lang="de"),
    ]
    assert found.queries() == [Query("Wer ist es?", lang="de", id="1048585")]
    assert found.qrels() == {"1048585": {"1": 1}}
    (mmarco / "google" / "collections" / "arabic_collection.tsv").unlink()
    assert open_dataset(str(mmarco)) == found
    assert open_dataset(str(mmarco), split="dev").qrels() == {"3": {"0": 1}}


def test_mmarco_with_all_in_one_folder(tmp_path):
    written(tmp_path / "dutch_collection.tsv", "0\tfiets\n")
    written(tmp_path / "dutch_queries.dev.tsv", "5\tWat?\n")
    written(tmp_path / "qrels.dev.tsv", "5\t0\t0\t1\n")
    assert open_dataset(str(tmp_path)).queries() == [Query("Wat?", lang="nl", id="5")]


def test_mmarco_in_parts_or_twice_is_told(mmarco):
    assert "arabic_collection.tsv and google/collections/german_collection.tsv: give" in fails(UsageError, mmarco)
    german = mmarco / "google" / "collections" / "german_collection.tsv"
    assert "no german_queries.train.tsv or no qrels.train.tsv" in fails(NotFoundError, german, split="train")
    written(german, "0\tgut\nohne Tab\n")
    with pytest.raises(InputError, match=r"german_collection\.tsv, line 2: an id, a tab and a text are needed"):
        list(open_dataset(str(german)).documents())
    for name in ("qrels.dev.small.tsv", "qrels.dev.tsv"):
        (mmarco / name).unlink()
    assert "no qrels.dev.small.tsv beside it" in fails(NotFoundError, german)


@pytest.fixture
def trec(tmp_path):
    for number in ("1", "2"):
        body = f"<DOC>\n<DOCNO>FT-{number}</DOCNO>\n<TEXT>\nAirbus {number}\n</TEXT>\n</DOC>\n"
        written(tmp_path / "docs" / f"ft{number}.trec{'.gz' if number == '2' else ''}", body)
    written(tmp_path / "topics.51-100.txt", "<top>\n<num> Number: 051\n<title> Topic: Airbus Subsidies\n</top>\n")
    written(tmp_path / "qrels.51-100.txt", "51 0 FT-1 1\n51 0 FT-2 0\n")
    return tmp_path


def test_a_trec_collection_is_read(trec):
    found = open_dataset(str(trec))
    assert list(found.documents()) == [Document("FT-1", "Airbus 1"), Document("FT-2", "Airbus 2")]
    assert found.queries() == [Query("Airbus Subsidies", id="51")]
    assert found.qrels() == {"51": {"FT-1": 1, "FT-2": 0}}
    written(trec / "topics.web.tsv", "051\tairbus\n")
    written(trec / "qrels.web.tsv", "051 0 FT-2 1\n")
    assert "has topics.51-100.txt and topics.web.tsv" in fails(UsageError, trec)
    assert open_dataset(str(trec), split="web").queries() == [Query("airbus", id="051")]


def test_a_trec_collection_in_parts_is_told(trec):
    assert fails(NotFoundError, trec, split="2004").endswith("no file with 'topics' in its name of 2004")
    (trec / "qrels.51-100.txt").unlink()
    assert fails(NotFoundError, trec).endswith("has ft1.trec but no file with 'qrels' in its name")


def test_what_has_no_splits_says_so(tmp_path):
    written(tmp_path / "de.json", '{"data": []}')
    assert "has no splits to choose from: leave --split out" in fails(UsageError, tmp_path, split="dev")
