"""Results that are kept: measuring again is reading, a stopped run goes on, and nothing that changed is answered."""

import json
import tempfile
from contextlib import contextmanager
from dataclasses import replace

import pytest

from data.errors import UsageError
from eval.command import EvalRequest, evaluate_dataset

SYSTEMS = ("bm25", "rank-bm25")
FIRST = ["index", *SYSTEMS, "compare systems"]


class Bars:
    """The labels of the bars that were opened; stops at one of them as Ctrl-C would."""

    def __init__(self, stop=None):
        self.labels, self.stop = [], stop

    @contextmanager
    def __call__(self, label, total):
        if label == self.stop:
            raise KeyboardInterrupt
        self.labels.append(label)
        yield lambda count, note: None


def write(folder, *, query="fox", text="a fox", grade=1):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [{"_id": "d1", "text": text, "lang": "en"}, {"_id": "d2", "text": "a hen", "lang": "en"}]
    documents.append({"_id": "d3", "text": "ein Fuchs, a fox", "lang": "de"})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    queries = [{"_id": "q1", "text": query, "lang": "en"}, {"_id": "q2", "text": "hen"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    judged = f"q1\td1\t{grade}\nq1\td3\t1\nq2\td2\t1\n"
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


@pytest.fixture
def request_(tmp_path):
    return EvalRequest(dataset=str(write(tmp_path / "set")), using=SYSTEMS, index=tmp_path / "index")


def measure(request, stop=None):
    bars = Bars(stop)
    return evaluate_dataset(request, bars), bars.labels


def test_measuring_again_is_reading_what_was_found_timings_included(request_):
    first, labels = measure(request_)
    assert labels == FIRST
    again, labels = measure(request_)
    assert labels == ["compare systems"]
    assert again == first | {"index": {**first["index"], "build_s": 0.0}}
    assert json.dumps(again["systems"]) == json.dumps(first["systems"])  # in the same order
    assert "languages" in again["systems"]["bm25"]
    # Another order, fewer systems and more of them read as well.
    assert measure(replace(request_, using=SYSTEMS[::-1]))[1] == ["compare systems"]
    assert measure(replace(request_, using=("bm25",)))[1] == []
    assert measure(replace(request_, using=("bm25", "bm25/no-neutral")))[1] == [
        "index", "bm25/no-neutral", "compare systems",
    ]  # fmt: skip


def test_a_stopped_run_goes_on_with_the_system_it_was_at(request_):
    with pytest.raises(KeyboardInterrupt):
        measure(request_, stop="rank-bm25")
    assert measure(request_)[1] == ["index", "rank-bm25", "compare systems"]


@pytest.mark.parametrize("change", [{"query": "hen"}, {"text": "the fox"}, {"grade": 2}])
def test_what_changed_in_the_dataset_is_measured_anew(request_, tmp_path, change):
    measure(request_)
    write(tmp_path / "set", **change)
    found, labels = measure(request_)
    assert labels == FIRST
    assert found["systems"] != {}
    write(tmp_path / "set")  # as it was: of a collection that was changed twice the state is another one
    assert measure(request_)[1] == (FIRST if "text" in change else ["compare systems"])


@pytest.mark.parametrize(
    "change",
    [{"measures": ("MAP",)}, {"neutral": False}, {"drop_self": True}, {"backend": "torch"}, {"device": "cpu:0"}],
)
def test_what_is_asked_otherwise_is_measured_anew(request_, change):
    measure(request_)
    assert measure(replace(request_, **change))[1] == FIRST
    assert measure(request_)[1] == ["compare systems"]


def test_rankings_are_not_kept_so_runs_are_searched(request_, tmp_path):
    measure(request_)
    measure(replace(request_, runs=tmp_path / "runs"))
    assert (tmp_path / "runs" / "bm25.run").read_text().startswith("q1 Q0 d")


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_as_none(request_, damage):
    first, _ = measure(request_)
    files = sorted((request_.index / "results").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(damage)
    again, labels = measure(request_)
    assert labels == FIRST
    assert again["systems"]["bm25"]["nDCG@10"] == first["systems"]["bm25"]["nDCG@10"]
    assert sorted((request_.index / "results").iterdir()) == files


def test_a_flipped_digit_is_no_result(request_):
    first, _ = measure(replace(request_, using=("bm25",)))
    (file,) = (request_.index / "results").iterdir()
    told = file.read_text()
    changed = told.replace('nDCG@10\\": ', 'nDCG@10\\": 1', 1)
    assert changed != told
    file.write_text(changed)
    assert (
        measure(replace(request_, using=("bm25",)))[0]["systems"]["bm25"]["nDCG@10"]
        == (first["systems"]["bm25"]["nDCG@10"])
    )


def test_what_cannot_be_kept_is_told(request_):
    measure(replace(request_, using=("bm25",), index=request_.index))
    for file in (request_.index / "results").iterdir():
        file.unlink()
    (request_.index / "results").rmdir()
    (request_.index / "results").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot keep results in .*results: "):
        measure(request_)


def test_nothing_is_left_where_no_collection_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    measure(EvalRequest(dataset=str(write(tmp_path / "set")), using=SYSTEMS))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
