"""MTEB finds what Polyseek finds, on a task made of the demo."""

import mteb
import pytest
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from data.errors import InputError
from data.readers import BeirFolder, demo_folder
from eval.evaluate import evaluate
from eval.measures import parse_measures
from eval.mteb_model import MtebModel


class Demo(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="PolyseekDemo", type="Retrieval", description="The demo.", main_score="ndcg_at_10",
        dataset={"path": "NA", "revision": "NA"}, category="t2t", eval_splits=["test"], eval_langs=["eng-Latn"],
        date=("2026-01-01", "2026-01-01"), dialect=[], domains=[], task_subtypes=[], license="mit", modalities=["text"],
        annotations_creators="derived", sample_creation="created", bibtex_citation="", reference="https://example.org",
    )  # fmt: skip

    def load_data(self, **_):
        demo = BeirFolder.open(demo_folder())
        corpus = [{"id": d.id, "text": d.content(), "title": ""} for d in demo.documents()]
        queries = [{"id": q.id, "text": q.text} for q in demo.queries()]
        split = {"corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries)}
        self.dataset = {"default": {"test": {**split, "relevant_docs": demo.qrels(), "top_ranked": None}}}
        self.data_loaded = True


# pyarrow, polars and others warn of things that are between them and MTEB.
@pytest.mark.filterwarnings("default")
def test_mteb_finds_what_polyseek_finds(encoder, demo_engine):
    model = MtebModel(encoder)
    result = mteb.evaluate(model, Demo(), cache=None, co2_tracker=False, show_progress_bar=False)
    found = result.task_results[0].scores["test"][0]
    demo = BeirFolder.open(demo_folder())
    dense = demo_engine.retriever("dense", neutral=False)
    wanted = evaluate(dense, demo.queries(), demo.qrels(), measures=parse_measures(["nDCG@10", "Recall@100"])).overall
    assert found["ndcg_at_10"] == pytest.approx(wanted["nDCG@10"], abs=2e-3)  # float16 in the collection
    assert found["recall_at_100"] == pytest.approx(wanted["Recall@100"], abs=2e-3)
    assert result.model_name == "polyseek/bundled-trained"


def test_models_without_sentence_vectors_are_told(tiny_late):
    with pytest.raises(InputError, match="no sentence vectors"):
        MtebModel(tiny_late)
