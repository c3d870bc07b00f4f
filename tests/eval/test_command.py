import pytest

from data.errors import InputError, NotFoundError, UsageError
from data.records import Document
from eval.command import EvalRequest, evaluate_dataset
from eval.tables import format_table
from index.adding import Writing
from index.collection import Collection
from index.snapshot import Snapshot

RESULT = {
    "dataset": "two-tongues",
    "encoder": "multilingual-e5-small",
    "neutral": True,
    "systems": {
        "bm25": {
            "nDCG@10": 0.25,
            "mAP": 0.125,
            "per_language": {"de": {"nDCG@10": 0.5, "mAP": 0.25}, "th": {"nDCG@10": 0.0, "mAP": 0.0}},
            "ms_per_query": {"p50": 0.4242, "p95": 12.5},
            "queries_per_second": 12345.6789,
            "measured": "2026-01-31",
        },
        "dense": {
            "nDCG@10": 1.0,
            "mAP": 0.5,
            "per_language": {"de": {"nDCG@10": 1.0, "mAP": 0.5}, "th": {"nDCG@10": 1.0, "mAP": 0.5}},
            "ms_per_query": {"p50": 7.0, "p95": 9.0},
            "queries_per_second": 150.0,
            "measured": "2026-02-01",
        },
    },
    "index": {"documents": 13014, "build_s": 93.84, "bytes": 12_345_678},
}
TABLE = """\
two-tongues, encoder multilingual-e5-small, language-neutral

system  nDCG@10     mAP  ms p50  ms p95  queries/s
bm25     0.2500  0.1250    0.42   12.50   12,345.7
dense    1.0000  0.5000    7.00    9.00      150.0

nDCG@10    bm25   dense
de       0.5000  1.0000
th       0.0000  1.0000

13,014 documents, indexed in 93.8 s, 12.3 MB, measured on 2026-01-31 and 2026-02-01"""


def write_dataset(folder, *, judged="q1"):
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "a fox", "lang": "en"}\n', encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "fox", "lang": "en"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}\td1\t1\n", encoding="utf-8")
    return folder


def write_collection(folder, *documents):
    writing = Writing(encoder=None, identify=lambda texts: [""] * len(texts))
    Collection.create(folder, ["bm25"], None).add(documents, writing)
    return folder


def test_the_table_aligns_systems_measures_and_languages():
    assert format_table(RESULT) == TABLE


def test_the_table_says_what_was_switched_off_or_built_before():
    table = format_table({**RESULT, "encoder": None, "neutral": False, "index": {**RESULT["index"], "build_s": 0.0}})
    assert "two-tongues, no encoder, not language-neutral\n" in table
    assert table.endswith("13,014 documents, indexed before, 12.3 MB, measured on 2026-01-31 and 2026-02-01")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"using": ("bm25", "bm42")}, "'bm42'"), ({"using": ()}, "nothing"), ({"measures": ("MAP", "best")}, "'best'")],
)
def test_wrong_names_are_refused_before_any_work(tmp_path, wrong, message):
    index = tmp_path / "index"
    with pytest.raises(UsageError, match=message):
        evaluate_dataset(EvalRequest(dataset=str(write_dataset(tmp_path / "set")), index=index, **wrong))
    assert not index.exists()


def test_a_dataset_that_is_not_there_is_told(tmp_path):
    with pytest.raises(NotFoundError, match=r"corpus\.jsonl"):
        evaluate_dataset(EvalRequest(dataset=str(tmp_path), using=("bm25",)))


def test_a_judged_query_without_a_text_is_refused_since_every_judged_query_counts(tmp_path):
    with pytest.raises(InputError, match=r"set judges 1 queries that it lacks, 'q2' for one"):
        evaluate_dataset(EvalRequest(dataset=str(write_dataset(tmp_path / "set", judged="q2")), using=("bm25",)))


def test_a_collection_with_other_documents_is_refused_and_left_alone(tmp_path):
    index = write_collection(tmp_path / "index", Document("d1", "a fox", lang="en"), Document("mine", "a hen"))
    generation = Snapshot.open(index).manifest.generation
    with pytest.raises(UsageError, match="holds 1 documents that set does not: give --index another folder"):
        evaluate_dataset(EvalRequest(dataset=str(write_dataset(tmp_path / "set")), using=("bm25",), index=index))
    assert Snapshot.open(index).manifest.generation == generation


def test_a_collection_without_a_view_that_is_asked_for_is_refused(tmp_path):
    index = write_collection(tmp_path / "index", Document("d1", "a fox", lang="en"))
    with pytest.raises(UsageError, match="built without dense, late: give --index another folder"):
        evaluate_dataset(EvalRequest(dataset=str(write_dataset(tmp_path / "set")), using=("hybrid",), index=index))


def test_what_is_told_of_languages_does_not_depend_on_the_other_measures(tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    rows = [f'{{"_id": "d{i}", "text": "fox {"word " * i}", "lang": "de"}}\n' for i in range(30)]
    answer = f'{{"_id": "x", "text": "fox {"neno " * 60}", "lang": "sw"}}\n'  # the longest comes last
    (folder / "corpus.jsonl").write_text("".join([*rows, answer]), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "fox", "lang": "de"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tx\t1\nq\td0\t1\n", encoding="utf-8")
    told = [
        evaluate_dataset(EvalRequest(dataset=str(folder), using=("bm25",), measures=measures))["systems"]["bm25"]
        for measures in (("P@1",), ("P@1", "MAP"))
    ]
    assert told[0]["languages"] == told[1]["languages"]
    assert told[0]["languages"]["matrix"]["de"]["sw"] == 1.0
    assert told[0]["languages"]["limit_one"]["matrix"]["de"]["sw"] == pytest.approx(1 / 30, abs=1e-4)


def test_judged_documents_that_are_not_there_make_no_second_language(tmp_path):
    folder = write_dataset(tmp_path / "set")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\tgone\t1\n", encoding="utf-8")
    found = evaluate_dataset(EvalRequest(dataset=str(folder), using=("bm25",)))
    assert "languages" not in found["systems"]["bm25"]
