"""What stands behind `polyseek eval DATASET`: index a test collection, evaluate systems over it, tell the result.

The result is one object that JSON can hold, and a table of it for people. Parsing arguments and printing are the
command line's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from data.datasets import Dataset, open_dataset
from data.errors import InputError, NotFoundError, UsageError
from data.readers import Qrels
from data.records import Hit, Query
from eval.compare import compare
from eval.evaluate import BATCH_SIZE, Evaluation, evaluate
from eval.languages import Languages
from eval.measures import DEFAULT_MEASURES, FULL_DEPTH, LAREQA_MEASURE, Measure, is_multilingual, parse_measures
from eval.runs import RunWriter
from eval.systems import WithoutSelf, file_name, open_system, views_of
from index.snapshot import Snapshot
from retriever.encoder import Encoder
from retriever.engine import BuildSettings, Engine, build_collection, steps
from retriever.retrievers import Retriever

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int, str], None]]]
"""Opens a bar, ``with progress(label, total) as advance``, and ``advance(n, note)`` when n more are done."""


@contextmanager
def no_progress(label: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """Show nothing: the bar of those who do not look."""
    yield lambda count, note: None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """What to evaluate.

    Attributes:
        dataset: a BEIR folder, or what else :func:`data.datasets.open_dataset` knows.
        queries: a file that stands in for its queries, with the same ids; None for its own.
        split: whose queries and judgements; None for the usual ones.
        using: names of :data:`eval.systems.SYSTEMS`.
        measures: names as :func:`eval.measures.parse_measures` reads them; empty for the usual ones.
        neutral: language-neutral ranking.
        drop_self: leave out of each ranking the document that has the query's id, as BEIR does for ArguAna and Quora.
        index: a folder to build the collection in, or to take it from; None for one that is removed at the end.
        runs: a folder for TREC runs, ``SYSTEM.run``; None for none.
        encoder: a model's name or folder; None for that of the collection, or the bundled one.
        backend: what computes it, see `retriever.backends`; None for the best here.
        device: where, as PyTorch names it.
    """

    dataset: str
    queries: Path | None = None
    split: str | None = None
    using: tuple[str, ...] = ("bm25", "dense", "late", "hybrid")
    measures: tuple[str, ...] = ()
    neutral: bool = True
    drop_self: bool = False
    index: Path | None = None
    runs: Path | None = None
    encoder: str | None = None
    backend: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class _Task:
    """What every system is given."""

    queries: list[Query]
    qrels: Qrels
    measures: list[Measure]
    runs: Path | None
    encoder: Encoder | None
    language_of: Mapping[str, str] | None  # of the documents, where they have several

    def forget(self, query: Query) -> None:
        """Drop what the encoder keeps of a query."""
        if self.encoder is not None:
            self.encoder.forget([query.text])


def evaluate_dataset(request: EvalRequest, progress: Progress = no_progress) -> dict[str, Any]:
    """Index a dataset, evaluate the asked systems, and return what `polyseek eval --json` prints.

    Where the relevant documents of a query come in several languages (:func:`eval.measures.is_multilingual`), LAReQA's
    ``mAP`` joins the usual measures. Queries without a language are identified once, for the search and for
    the groups of the result.

    Args:
        request: what to evaluate.
        progress: told about documents while indexing and about queries for each system.

    Returns:
        ``{"dataset", "encoder", "neutral", "systems": {name: {measure: value, "per_language", "ms_per_query",
        "queries_per_second", "languages"}}, "comparison": {"measure", "pairs"}, "index": {"documents", "build_s",
        "bytes"}}``, numbers rounded to four decimals, tiny ones to four digits; "encoder" is None where no view needs
        one, "languages" (see :meth:`eval.languages.Languages.result`) is there where the relevant documents have
        several, "comparison" (see :class:`eval.compare.Comparison`) where there are several systems, on the first
        measure.

    Raises:
        UsageError: an unknown system or measure, or ``index`` holds other documents or lacks a view.
        NotFoundError, InputError: a dataset that is not there or cannot be read.
    """
    views = views_of(request.using)
    parse_measures(request.measures)
    dataset = open_dataset(request.dataset, queries=request.queries, split=request.split)
    queries, qrels = _judgements(dataset)
    with _folder(request.index) as folder:
        build_s = _build(dataset, folder, views, request, progress)
        engine = Engine.open(folder, request.encoder, backend=request.backend, device=request.device)
        systems, comparison = _systems(engine, request, queries, qrels, progress)
        info = engine.snapshot.info()
    result = {
        "dataset": dataset.name,
        "encoder": info["encoder"]["model"] if info["encoder"] else None,
        "neutral": request.neutral,
        "systems": systems,
        **comparison,
        "index": {"documents": info["documents"], "build_s": build_s, "bytes": info["bytes"]},
    }
    rounded: dict[str, Any] = _rounded(result)
    return rounded


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Give the folder that is kept, or one that goes away."""
    if kept is not None:
        yield kept
        return
    with TemporaryDirectory(prefix="polyseek-eval-") as folder:
        yield Path(folder) / "index"


def _judgements(dataset: Dataset) -> tuple[list[Query], Qrels]:
    """Read queries and judgements; every judged query counts, so each must have a text.

    Raises:
        InputError: a judged query that is not among the queries.
    """
    queries, qrels = dataset.queries(), dataset.qrels()
    absent = list(qrels.keys() - {query.id for query in queries})
    if absent:
        raise InputError(
            f"{dataset.name} judges {len(absent)} queries that it lacks, {min(absent)!r} for one: add them or take "
            "their judgements out"
        )
    return queries, qrels


def _build(dataset: Dataset, folder: Path, views: Sequence[str], request: EvalRequest, progress: Progress) -> float:
    """Index what ``folder`` does not hold yet and return the seconds, 0 where all was there."""
    try:
        held = Snapshot.open(folder)
    except NotFoundError:
        held = None
    if held is not None:
        views = _reusable(held, dataset, views)
    settings = BuildSettings(views=views, encoder=request.encoder, backend=request.backend, device=request.device)
    started = time.perf_counter()
    with progress("index", None) as advance:
        report = build_collection(dataset.documents(), folder, settings, on_progress=steps(advance))
    return time.perf_counter() - started if report.added or report.updated else 0.0


def _reusable(held: Snapshot, dataset: Dataset, views: Sequence[str]) -> tuple[str, ...]:
    """Return the views of a collection that is there, if it can stand for the dataset.

    Raises:
        UsageError: it holds documents that are not in the dataset, or lacks a view that is asked for.
    """
    lacking = [view for view in views if view not in held.manifest.views]
    if lacking:
        raise UsageError(f"{held.folder} was built without {', '.join(lacking)}: give --index another folder")
    others = len(held) - len({held.row(document.id) for document in dataset.documents()} - {None})
    if others:
        raise UsageError(
            f"{held.folder} holds {others} documents that {dataset.name} does not: give --index another folder"
        )
    return held.manifest.views


def _systems(
    engine: Engine, request: EvalRequest, queries: Sequence[Query], qrels: Qrels, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate one system after the other, each on the same queries, and compare them."""
    known = [q if q.lang else q._replace(lang=engine.identify(q.text)) for q in queries]
    spoken = _languages(engine.snapshot)
    measures = parse_measures(request.measures or _usual_measures(qrels, spoken))
    relevant = {spoken.get(d, "") for judged in qrels.values() for d, grade in judged.items() if grade > 0}
    several = spoken if len(relevant - {""}) > 1 else None
    task = _Task(known, qrels, measures, request.runs, engine.encoder, several)
    _encode(task, progress)
    entries, values = {}, {}
    for name in dict.fromkeys(request.using):
        retriever = open_system(engine, name, neutral=request.neutral)
        found, languages = _evaluate(WithoutSelf(retriever) if request.drop_self else retriever, name, task, progress)
        entries[name] = _entry(found) | ({"languages": languages.result()} if languages else {})
        values[name] = {query: of_query[measures[0].name] for query, of_query in found.per_query.items()}
    if len(values) < 2:
        return entries, {}
    with progress("compare systems", None):
        return entries, {"comparison": {"measure": measures[0].name, "pairs": [asdict(c) for c in compare(values)]}}


def _languages(snapshot: Snapshot) -> dict[str, str]:
    """Return the language of every document."""
    rows = np.flatnonzero(snapshot.live)
    return {x: snapshot.language(row) for x, row in zip(snapshot.ids(rows), rows.tolist(), strict=True)}


def _usual_measures(qrels: Qrels, spoken: Mapping[str, str]) -> tuple[str, ...]:
    multilingual = is_multilingual(qrels, lambda document: spoken.get(document, ""))
    return (*DEFAULT_MEASURES, LAREQA_MEASURE) if multilingual else DEFAULT_MEASURES


def _evaluate(retriever: Retriever, name: str, task: _Task, progress: Progress) -> tuple[Evaluation, Languages | None]:
    """Evaluate one system, moving its bar, writing its run and looking at languages on the way."""
    run = RunWriter(task.runs / f"{file_name(name)}.run", f"polyseek-{name}") if task.runs else nullcontext()
    # Of the measures the one that a multilingual collection is about: LAReQA's, where it is asked for.
    chosen = next((m for m in task.measures if m.name == LAREQA_MEASURE), task.measures[0])
    languages = None if task.language_of is None else Languages(task.language_of, chosen)
    with run as writer, progress(name, len(task.queries)) as advance:

        def on_batch(queries: Sequence[Query], results: Sequence[list[Hit]]) -> None:
            if writer is not None:
                for query, hits in zip(queries, results, strict=True):
                    writer.write(query.id, hits)
            if languages is not None:
                ranked = {q.id: [hit.id for hit in hits] for q, hits in zip(queries, results, strict=True)}
                languages.add(queries, task.qrels, ranked)
            advance(len(queries), "")

        # The answers in one language stand far down among all: what is told of languages is that of whole rankings.
        found = evaluate(
            retriever, task.queries, task.qrels, measures=task.measures, depth=FULL_DEPTH if languages else 0,
            on_batch=on_batch, forget=task.forget,
        )  # fmt: skip
    return found, languages


def _encode(task: _Task, progress: Progress) -> None:
    """Encode all queries once, for every system: its speed in batches is that of searching."""
    if task.encoder is None:
        return
    with progress("encode queries", len(task.queries)) as advance:
        for start in range(0, len(task.queries), BATCH_SIZE):
            batch = task.queries[start : start + BATCH_SIZE]
            task.encoder.encode_queries([query.text for query in batch], [query.lang for query in batch])
            advance(len(batch), "")


def _entry(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **evaluation.overall,
        "per_language": evaluation.per_language,
        "ms_per_query": evaluation.ms_per_query,
        "queries_per_second": evaluation.queries_per_second,
    }


def _rounded(value: Any) -> Any:  # noqa: ANN401
    """Round every float of nested objects to four decimals, or four digits where it is tiny, as p-values are."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if abs(value) < 0.001 else round(value, 4)
