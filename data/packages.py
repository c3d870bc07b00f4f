"""Test collections out of other packages: whatever `ir_datasets` knows, and the retrieval tasks of MTEB.

Both packages download what they know by name, and keep it where they keep such things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.beir import Qrels
from data.errors import NotFoundError, UsageError
from data.records import Document, Query, check_string, normalize_language

IRDS = "irds:"
MTEB = "mteb:"


@dataclass(frozen=True, slots=True)
class IrDataset:
    """A data set of the package `ir_datasets`, with its documents, queries and qrels."""

    name: str
    dataset: Any

    @classmethod
    def open(cls, name: str) -> IrDataset:
        """Find a data set by its id, say ``miracl/sw/dev``.

        Raises:
            UsageError: the package is not installed, knows no such id, or has no documents, queries or judgements.
        """
        try:
            import ir_datasets
        except ImportError as error:
            raise UsageError(f"{IRDS}{name} needs a package: pip install 'polyseek[datasets]'") from error
        try:
            dataset = ir_datasets.load(name)
        except KeyError as error:
            raise UsageError(f"ir_datasets knows no data set {name!r}: see ir-datasets.com") from error
        lacks = [part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()]
        if lacks:
            raise UsageError(f"the data set {name!r} has no {' and no '.join(lacks)}: give one that has")
        return cls(name, dataset)

    def documents(self) -> Iterator[Document]:
        """Yield the documents: title and text where they have these, else all their text."""
        language = normalize_language(self.dataset.docs_lang() or "")
        for found in self.dataset.docs_iter():
            text = getattr(found, "text", None)
            title = getattr(found, "title", "") if isinstance(text, str) else ""
            yield Document(found.doc_id, text if isinstance(text, str) else found.default_text(), title, language)

    def queries(self) -> list[Query]:
        """Return the queries that have judgements."""
        judged, language = self.qrels(), normalize_language(self.dataset.queries_lang() or "")
        return [
            Query(found.default_text(), lang=language, id=found.query_id)
            for found in self.dataset.queries_iter()
            if found.query_id in judged
        ]

    def qrels(self) -> Qrels:
        """Return the judgements."""
        qrels: Qrels = {}
        for found in self.dataset.qrels_iter():
            qrels.setdefault(found.query_id, {})[found.doc_id] = int(found.relevance)
        return qrels


@dataclass(frozen=True, slots=True)
class MtebTask:
    """A retrieval task of MTEB (Muennighoff et al. 2023, arXiv 2210.07316): one subset, one split.

    Attributes:
        name: the task's, with the subset where there is a choice.
        language: of documents and queries; empty where they are of several, to be identified.
        data: ``corpus`` and ``queries``, rows with ``id`` and ``text``, and ``relevant_docs``, as MTEB has them.
    """

    name: str
    language: str
    data: Mapping[str, Any]

    @classmethod
    def open(cls, name: str, split: str | None = None) -> MtebTask:
        """Find a task by its name, ``NFCorpus``, or with its subset, ``MIRACLRetrieval/sw``, and load it.

        Raises:
            UsageError: the package is not installed, or knows no such task, subset or split, or it must be chosen.
            NotFoundError: its data cannot be had.
        """
        try:
            import mteb
        except ImportError as error:
            raise UsageError(f"{MTEB}{name} needs a package: pip install 'polyseek[mteb]'") from error
        called, _, subset = name.partition("/")
        try:
            task = mteb.get_task(called)
        except KeyError as error:
            raise UsageError(f"mteb knows no task {called!r}: {error.args[0].removeprefix('KeyError: ')}") from error
        if task.is_aggregate:
            raise UsageError(f"the task {called!r} joins several: give one of them")
        if task.metadata.type != "Retrieval" or task.metadata.modalities != ["text"]:
            raise UsageError(f"the task {called!r} is no retrieval of texts")
        subset = _chosen(f"the task {called!r}", f"{MTEB}{called}/SUBSET", task.hf_subsets, subset)
        split = _chosen(f"the task {called!r}", "--split SPLIT", task.eval_splits, split)
        languages = {normalize_language(code) for code in task.metadata.hf_subsets_to_langscripts[subset]}
        data = _load(task.filter_languages(None, hf_subsets=[subset]).filter_eval_splits([split]), subset, split)
        return cls(name, languages.pop() if len(languages) == 1 else "", data)

    def documents(self) -> Iterator[Document]:
        """Yield the corpus.

        Raises:
            InputError: an id or text that is not a string.
        """
        for row in self.data["corpus"]:
            yield Document(row["id"], row["text"], row.get("title") or "", self.language)

    def queries(self) -> list[Query]:
        """Return the queries that have judgements.

        Raises:
            InputError: a text that is not a string.
        """
        judged = self.qrels()
        return [
            Query(check_string(row["text"], f"query {row['id']!r}: text"), lang=self.language, id=row["id"])
            for row in self.data["queries"]
            if row["id"] in judged
        ]

    def qrels(self) -> Qrels:
        """Return the judgements of the queries that have any."""
        relevant = self.data["relevant_docs"]
        return {query: {d: int(grade) for d, grade in found.items()} for query, found in relevant.items() if found}


def _chosen(what: str, how: str, there: Sequence[str], wanted: str | None) -> str:
    """Return which of several is wanted, or the only one.

    Raises:
        UsageError: it is not there, or none was chosen of several.
    """
    if not wanted and len(there) == 1:
        return there[0]
    if wanted in there:
        return str(wanted)
    shown = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
    raise UsageError(f"{what} has {f'no {wanted!r}' if wanted else 'several'}, give {how}: {shown}")


def _load(task: Any, subset: str, split: str) -> Mapping[str, Any]:  # noqa: ANN401
    try:
        task.load_data()
        task.convert_v1_dataset_format_to_v2(num_proc=None)
        data: Mapping[str, Any] = task.dataset[subset][split]
    except Exception as error:  # tasks load in ways of their own, so what goes wrong may be anything
        raise NotFoundError(f"mteb cannot load {task.metadata.name}: {type(error).__name__}: {error}") from error
    return data
