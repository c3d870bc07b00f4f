"""Retrieval tasks of MTEB, made here without a network and known to MTEB by their names."""

import json

import pytest
from datasets import Dataset as Table
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.get_tasks import _TASKS_REGISTRY

from data.datasets import open_dataset
from data.errors import InputError, NotFoundError, UsageError
from data.packages import MtebTask
from data.records import Document, Query

# pyarrow, polars and others warn of things that are between them and MTEB.
pytestmark = pytest.mark.filterwarnings("default")


def metadata(name, *, splits, languages, kind="Retrieval"):
    return TaskMetadata(
        name=name, type=kind, description="A task.", main_score="ndcg_at_10",
        dataset={"path": "NA", "revision": "NA"}, category="t2t", eval_splits=splits, eval_langs=languages,
        date=("2026-01-01", "2026-01-01"), dialect=[], domains=[], task_subtypes=[], license="mit", modalities=["text"],
        annotations_creators="derived", sample_creation="created", bibtex_citation="", reference="https://example.org",
    )  # fmt: skip


class One(AbsTaskRetrieval):
    """Data as MTEB's own loader makes it."""

    metadata = metadata("PolyseekOne", splits=["test"], languages=["swa-Latn"])

    def load_data(self, **_):
        corpus = [{"id": "d1", "text": "Ni ugonjwa.", "title": "Malaria"}, {"id": "d2", "text": "Mto", "title": None}]
        queries = [{"id": "q1", "text": "Malaria ni nini?"}, {"id": "q2", "text": "bila jibu"}]
        tables = {"corpus": Table.from_list(corpus), "queries": Table.from_list(queries)}
        self.dataset = {"default": {"test": {**tables, "relevant_docs": {"q1": {"d1": 2, "d2": 0}, "q2": {}}}}}


class Several(AbsTaskRetrieval):
    """Subsets and splits, in the older form that many tasks still load."""

    metadata = metadata(
        "PolyseekSeveral", splits=["dev", "test"], languages={"de": ["deu-Latn"], "de-sw": ["deu-Latn", "swh-Latn"]}
    )

    def load_data(self, **_):
        assert (len(self.hf_subsets), len(self.eval_splits)) == (1, 1)  # no more is loaded than was asked for
        subset, split = self.hf_subsets[0], self.eval_splits[0]
        self.corpus = {subset: {split: {"d": {"text": f"{subset} {split}", "title": "T"}}}}
        self.queries = {subset: {split: {"q": "Frage"}}}
        self.relevant_docs = {subset: {split: {"q": {"d": 1}}}}


class Broken(One):
    metadata = metadata("PolyseekBroken", splits=["test"], languages=["swa-Latn"])

    def load_data(self, **_):
        raise ConnectionError("Couldn't reach\nthe Hub")


class Reranked(One):
    metadata = metadata("PolyseekReranked", splits=["test"], languages=["swa-Latn"], kind="Reranking")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for task in (One, Several, Broken, Reranked):
        monkeypatch.setitem(_TASKS_REGISTRY, task.metadata.name, task)


def test_a_task_is_a_dataset():
    found = open_dataset("mteb:PolyseekOne")
    assert found.name == "PolyseekOne"
    assert list(found.documents()) == [
        Document("d1", "Ni ugonjwa.", "Malaria", "sw"),
        Document("d2", "Mto", lang="sw"),
    ]
    assert found.queries() == [Query("Malaria ni nini?", lang="sw", id="q1")]
    assert found.qrels() == {"q1": {"d1": 2, "d2": 0}}
    assert open_dataset("mteb:PolyseekOne", split="test").qrels() == found.qrels()


def test_a_task_is_loaded_by_mtebs_own_loader(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "task"
    folder.mkdir()
    parts = (
        ("corpus", "corpus", {"_id": "d1", "title": "Malaria", "text": "Ni ugonjwa."}),
        ("queries", "queries", {"_id": "q1", "text": "Malaria ni nini?"}),
        ("default", "test", {"query-id": "q1", "corpus-id": "d1", "score": 1}),
    )
    configs = []
    for name, split, row in parts:
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        configs.append({"config_name": name, "data_files": [{"split": split, "path": f"{name}.jsonl"}]})
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")

    class Local(AbsTaskRetrieval):
        metadata = One.metadata.model_copy(update={"dataset": {"path": str(folder), "revision": "NA"}})

    monkeypatch.setitem(_TASKS_REGISTRY, "PolyseekLocal", Local)
    found = open_dataset("mteb:PolyseekLocal")
    assert list(found.documents()) == [Document("d1", "Ni ugonjwa.", "Malaria", "sw")]
    assert found.queries() == [Query("Malaria ni nini?", lang="sw", id="q1")]
    assert found.qrels() == {"q1": {"d1": 1}}


def test_a_subset_and_a_split_are_chosen():
    found = open_dataset("mteb:PolyseekSeveral/de", split="dev")
    assert found.name == "PolyseekSeveral/de"
    assert list(found.documents()) == [Document("d", "de dev", "T", "de")]
    # In two languages it is for identification to say which text is of which.
    found = open_dataset("mteb:PolyseekSeveral/de-sw", split="test")
    assert (list(found.documents()), found.queries()) == ([Document("d", "de-sw test", "T")], [Query("Frage", id="q")])


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("mteb:PolyseekTwo", None, "mteb knows no task 'PolyseekTwo': 'PolyseekTwo' not found. Did you mean"),
        ("mteb:PolyseekOne/de", None, "'PolyseekOne' has no 'de', give mteb:PolyseekOne/SUBSET: default"),
        ("mteb:PolyseekOne", "dev", "'PolyseekOne' has no 'dev', give --split SPLIT: test"),
        ("mteb:PolyseekSeveral", "dev", "'PolyseekSeveral' has several, give mteb:PolyseekSeveral/SUBSET: de, de-sw"),
        ("mteb:PolyseekSeveral/de", None, "'PolyseekSeveral' has several, give --split SPLIT: dev, test"),
        ("mteb:PolyseekReranked", None, "'PolyseekReranked' is no retrieval of texts"),
        ("mteb:CQADupstackRetrieval", None, "'CQADupstackRetrieval' joins several: give one"),
        ("mteb:MIRACLRetrieval", None, "'MIRACLRetrieval' has several, give mteb:MIRACLRetrieval/SUBSET: ar, bn, de,"),
        ("mteb:STS22", None, "'STS22' is no retrieval of texts"),
    ],
)
def test_what_is_no_such_task_is_told(source, split, message):
    with pytest.raises(UsageError, match=message):
        open_dataset(source, split=split)


def test_what_cannot_be_loaded_or_is_no_text_is_told():
    with pytest.raises(NotFoundError, match="mteb cannot load PolyseekBroken: ConnectionError: Couldn't reach"):
        open_dataset("mteb:PolyseekBroken")
    rows = [{"id": "1", "text": ["a", "b"]}]
    found = MtebTask("x", "", {"corpus": rows, "queries": rows, "relevant_docs": {"1": {"1": 1}}})
    with pytest.raises(InputError, match="document '1': text must be a string, got list"):
        list(found.documents())
    with pytest.raises(InputError, match="query '1': text must be a string, got list"):
        found.queries()
