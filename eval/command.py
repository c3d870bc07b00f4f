"""What stands behind `polyseek eval DATASET`: index a test collection, evaluate systems over it, tell the result.

The result is one object that JSON can hold, and a table of it for people. Parsing arguments and printing are the
command line's.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from data.datasets import Dataset, open_dataset
from data.errors import InputError, NotFoundError, UsageError
from data.readers import Qrels
from data.records import Hit, Query
from eval.compare import compare
from eval.evaluate import Evaluation, evaluate
from eval.kept import Kept
from eval.languages import Languages
from eval.measures import DEFAULT_MEASURES, FULL_DEPTH, LAREQA_MEASURE, Measure, is_multilingual, parse_measures
from eval.runs import RunWriter
from eval.shared import Shared
from eval.systems import WithoutSelf, file_name, open_system, views_of
from index.manifest import Manifest
from index.segment import content_hash
from index.snapshot import Snapshot
from retriever.engine import BuildSettings, Engine, build_collection, steps
from retriever.language import identifier

# Queries that are encoded at a time, before any is searched for.
ENCODED = 512
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
        using: systems, as :func:`eval.systems.views_of` knows them.
        measures: names as :func:`eval.measures.parse_measures` reads them; empty for the usual ones.
        neutral: language-neutral ranking.
        drop_self: leave out of each ranking the document that has the query's id, as BEIR does for ArguAna and Quora.
        index: a folder to build the collection in, or to take it from, where results are kept as well, see
            `eval.kept`; None for one that is removed at the end.
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

    request: EvalRequest
    snapshot: Snapshot
    queries: list[Query]
    qrels: Qrels
    measures: list[Measure]
    language_of: Mapping[str, str] | None  # of the documents, where they have several
    kept: Kept
    shared: Shared = field(default_factory=Shared)

    @classmethod
    def of(cls, request: EvalRequest, snapshot: Snapshot, queries: Sequence[Query], qrels: Qrels) -> _Task:
        """Put together what is measured on the state of a collection."""
        languages = iter(identifier().identify([query.text for query in queries if not query.lang]))
        known = [query if query.lang else query._replace(lang=next(languages)) for query in queries]
        spoken = _languages(snapshot)
        measures = parse_measures(request.measures or _usual_measures(qrels, spoken))
        relevant = {spoken.get(d, "") for judged in qrels.values() for d, grade in judged.items() if grade > 0}
        facts = [
            snapshot.manifest.checksum, request.encoder, request.backend, request.device, known, qrels,
            [measure.name for measure in measures], request.neutral, request.drop_self,
        ]  # fmt: skip
        several = spoken if len(relevant - {""}) > 1 else None
        return cls(request, snapshot, known, qrels, measures, several, Kept(request.index, facts))

    def known(self) -> dict[str, dict[str, Any]]:
        """Return the results that are kept: none where rankings are to be written, which are not kept."""
        found = {} if self.request.runs else {name: self.kept.read(name) for name in self.request.using}
        return {name: result for name, result in found.items() if result is not None}


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
        "queries_per_second", "measured", "languages"}}, "comparison": {"measure", "pairs"}, "index": {"documents",
        "build_s", "bytes"}}``, numbers rounded to four decimals, tiny ones to four digits; "encoder" is None where no
        view needs one, "measured" is the day, "languages" (see :meth:`eval.languages.Languages.result`) is there where
        the relevant documents have several, "comparison" (see :class:`eval.compare.Comparison`) where there are several
        systems, on the first measure.

    Raises:
        UsageError: an unknown system or measure, or ``index`` holds other documents or lacks a view.
        NotFoundError, InputError: a dataset that is not there or cannot be read.
    """
    views = views_of(request.using)
    parse_measures(request.measures)
    dataset = open_dataset(request.dataset, queries=request.queries, split=request.split)
    queries, qrels = _judgements(dataset)
    with _folder(request.index) as folder:
        held, build_s = _held(dataset, folder, views), 0.0
        task = _Task.of(request, held, queries, qrels) if held is not None else None
        if task is None or task.known().keys() < set(request.using):
            build_s = _build(dataset, folder, views, request, progress)
            task = _Task.of(request, Snapshot.open(folder), queries, qrels)
        systems, comparison = _systems(task, progress)
        info = task.snapshot.info()
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


def _held(dataset: Dataset, folder: Path, views: Sequence[str]) -> Snapshot | None:
    """Return the collection that is there, if it holds the dataset as it is; None if there is something to build.

    The corpus is read to its end, so that a broken line is told before anything is written.

    Raises:
        UsageError: it holds documents that are not in the dataset, or lacks a view that is asked for.
        InputError: a document that cannot be read.
    """
    held = None
    with suppress(NotFoundError):
        held = Snapshot.open(folder)
    lacking = [view for view in views if held is not None and view not in held.manifest.views]
    if lacking:
        raise UsageError(f"{folder} was built without {', '.join(lacking)}: give --index another folder")
    same, rows = held is not None, set()
    for document in dataset.documents():
        row = None if held is None else held.row(document.id)
        if held is None or row is None or row in rows or held.content_hash(row) != content_hash(document):
            same = False
        rows.add(row)
    others = 0 if held is None else len(held) - len(rows - {None})
    if others:
        raise UsageError(f"{folder} holds {others} documents that {dataset.name} does not: give --index another folder")
    return held if same else None


def _build(dataset: Dataset, folder: Path, views: Sequence[str], request: EvalRequest, progress: Progress) -> float:
    """Index what ``folder`` does not hold yet and return the seconds, 0 where all was there."""
    with suppress(NotFoundError):
        views = Manifest.read(folder).views
    settings = BuildSettings(views=views, encoder=request.encoder, backend=request.backend, device=request.device)
    started = time.perf_counter()
    with progress("index", None) as advance:
        report = build_collection(dataset.documents(), folder, settings, on_progress=steps(advance))
    return time.perf_counter() - started if report.added or report.updated else 0.0


def _systems(task: _Task, progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell what each system is worth, measuring those of which nothing is kept, and compare them."""
    known, names = task.known(), list(dict.fromkeys(task.request.using))
    missing = [name for name in names if name not in known]
    if missing:
        request = task.request
        engine = Engine.open(task.snapshot.folder, request.encoder, backend=request.backend, device=request.device)
        engine.snapshot = task.snapshot
        if {"dense", "late"} & set(views_of(missing)):
            _encode(engine, task, progress)
        for name in missing:
            known[name] = _measured(engine, name, task, progress)
            task.kept.write(name, known[name])
    entries, values = ({name: known[name][part] for name in names} for part in ("entry", "values"))
    if len(names) < 2:
        return entries, {}
    with progress("compare systems", None):
        pairs = [asdict(pair) for pair in compare(values)]
    return entries, {"comparison": {"measure": task.measures[0].name, "pairs": pairs}}


def _languages(snapshot: Snapshot) -> dict[str, str]:
    """Return the language of every document."""
    rows = np.flatnonzero(snapshot.live)
    return {x: snapshot.language(row) for x, row in zip(snapshot.ids(rows), rows.tolist(), strict=True)}


def _usual_measures(qrels: Qrels, spoken: Mapping[str, str]) -> tuple[str, ...]:
    multilingual = is_multilingual(qrels, lambda document: spoken.get(document, ""))
    return (*DEFAULT_MEASURES, LAREQA_MEASURE) if multilingual else DEFAULT_MEASURES


def _measured(engine: Engine, name: str, task: _Task, progress: Progress) -> dict[str, Any]:
    """Evaluate one system, moving its bar, writing its run and looking at languages on the way."""
    request = task.request
    retriever = open_system(engine, name, neutral=request.neutral, share=task.shared)
    run = RunWriter(request.runs / f"{file_name(name)}.run", f"polyseek-{name}") if request.runs else nullcontext()
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
            WithoutSelf(retriever) if request.drop_self else retriever, task.queries, task.qrels,
            measures=task.measures, depth=FULL_DEPTH if languages else 0, on_batch=on_batch,
            forget=lambda query: engine.encoder.forget([query.text]) if engine.encoder else None,
            clock=task.shared.clock,
        )  # fmt: skip
    entry = _entry(found) | ({"languages": languages.result()} if languages else {})
    return {"entry": entry, "values": {q: own[task.measures[0].name] for q, own in found.per_query.items()}}


def _encode(engine: Engine, task: _Task, progress: Progress) -> None:
    """Encode all queries once, for every system: its speed in batches is that of searching."""
    if engine.encoder is None:
        return
    with progress("encode queries", len(task.queries)) as advance:
        for start in range(0, len(task.queries), ENCODED):
            batch = task.queries[start : start + ENCODED]
            engine.encoder.encode_queries([query.text for query in batch], [query.lang for query in batch])
            advance(len(batch), "")


def _entry(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **evaluation.overall,
        "per_language": evaluation.per_language,
        "ms_per_query": evaluation.ms_per_query,
        "queries_per_second": evaluation.queries_per_second,
        "measured": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
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
