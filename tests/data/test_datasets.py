"""LAReQA, made here as its authors lay it out, data sets of other packages, and the door to them all."""

import json

import ir_datasets
import pytest
from ir_datasets.datasets.base import Dataset
from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, GenericDoc, GenericQuery, TrecQrel

from data.beir import BeirFolder
from data.datasets import open_dataset
from data.errors import InputError, NotFoundError, UsageError
from data.readers import demo_folder
from data.records import Document, Query

GERMAN = "Kawann Short führte mit 11 Sacks. Davis erzielte vier."
THAI = "ชอร์ตนำทีมด้วย 11 แซ็ก เดวิสทำได้สี่"


def paragraph(context, breaks, answers):
    qas = [{"id": i, "question": f"{i}?", "answers": [{"answer_start": at, "text": "x"}]} for i, at in answers]
    return {"context": context, "sentence_breaks": breaks, "sentences": [], "qas": qas}


@pytest.fixture
def lareqa(tmp_path):
    german = [paragraph(GERMAN, [[0, 33], [34, 54]], [("short", 0), ("davis", 33), ("alone", 48)])]
    thai = [paragraph(THAI, [[0, 22], [23, len(THAI)]], [("short", 0), ("davis", 23)])]
    for name, paragraphs in (("de", german), ("th", thai)):
        body = {"data": [{"paragraphs": paragraphs}], "version": "1.1"}
        (tmp_path / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
    return tmp_path


def test_lareqa_is_read_sentence_by_sentence(lareqa):
    found = open_dataset(str(lareqa))
    assert [(d.id, d.text, d.lang) for d in found.documents()] == [
        ("de-0-0-0", "Kawann Short führte mit 11 Sacks.", "de"),
        ("de-0-0-1", "Davis erzielte vier.", "de"),
        ("th-0-0-0", THAI[:22], "th"),
        ("th-0-0-1", THAI[23:], "th"),
    ]
    assert found.queries()[:2] == [Query("short?", lang="de", id="de-short"), Query("davis?", lang="de", id="de-davis")]
    # An answer that begins with the blank between two sentences is one of the second.
    assert found.qrels() == {
        "de-short": {"de-0-0-0": 1, "th-0-0-0": 1},
        "th-short": {"de-0-0-0": 1, "th-0-0-0": 1},
        "de-davis": {"de-0-0-1": 1, "th-0-0-1": 1},
        "th-davis": {"de-0-0-1": 1, "th-0-0-1": 1},
        "de-alone": {"de-0-0-1": 1},
    }


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"data": [{"paragraphs": [{}]}]}', '{"data": 3}',
     json.dumps({"data": [{"paragraphs": [paragraph("x", [], [])]}]}),
     json.dumps({"data": [{"paragraphs": [paragraph("x", [[5, 2]], [])]}]}),
     json.dumps({"data": [{"paragraphs": [paragraph("x", [[0, 1]], [(3, 0)])]}]})],
)  # fmt: skip
def test_what_is_not_lareqas_format_is_told(tmp_path, text):
    (tmp_path / "de.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"de\.json is not in LAReQA's format"):
        list(open_dataset(str(tmp_path)).documents())


class _Docs(BaseDocs):
    def docs_iter(self):
        yield GenericDoc("d1", "Ein Fuchs")

    def docs_lang(self):
        return "de"


class _Queries(BaseQueries):
    def queries_iter(self):
        yield from (GenericQuery("q1", "a fox"), GenericQuery("q2", "not judged"))

    def queries_lang(self):
        return "en"


class _Qrels(BaseQrels):
    def qrels_iter(self):
        yield TrecQrel("q1", "d1", 2, "0")


def test_a_data_set_of_ir_datasets():
    ir_datasets.registry.register("polyseek-test", Dataset(_Docs(), _Queries(), _Qrels()))
    ir_datasets.registry.register("polyseek-docs", Dataset(_Docs()))
    found = open_dataset("irds:polyseek-test")
    assert found.name == "polyseek-test"
    assert list(found.documents()) == [Document("d1", "Ein Fuchs", "", "de")]
    assert found.queries() == [Query("a fox", lang="en", id="q1")]
    assert found.qrels() == {"q1": {"d1": 2}}
    with pytest.raises(UsageError, match="knows no data set 'nonsense'"):
        open_dataset("irds:nonsense")
    with pytest.raises(UsageError, match="'polyseek-docs' has no queries and no qrels"):
        open_dataset("irds:polyseek-docs")


def test_beir_and_what_is_nothing_of_these(tmp_path):
    assert open_dataset(str(demo_folder())) == BeirFolder.open(demo_folder())
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotFoundError):
            open_dataset(str(wrong))


def test_a_split_of_a_beir_folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.jsonl").write_text('{"_id": "1", "text": "x"}\n')
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    assert open_dataset(str(tmp_path), split="dev").qrels() == {"1": {"1": 1}}
    with pytest.raises(NotFoundError, match="its splits are: dev"):
        open_dataset(str(tmp_path))
