"""Test collections out of other packages: whatever `ir_datasets` knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.beir import Qrels
from data.errors import UsageError
from data.records import Document, Query, normalize_language

IRDS = "irds:"


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
