"""Test collections of every layout, behind one interface, and the door to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data.beir import BeirFolder, Qrels, find_part
from data.downloads import read_registry
from data.errors import NotFoundError, UsageError
from data.lareqa import LareqaFolder
from data.layouts import find_miracl, find_mmarco, find_mrtydi, find_trec
from data.packages import IRDS, MTEB, IrDataset, MtebTask
from data.records import Document, Query


class Dataset(Protocol):
    """A test collection: documents, queries and judgements."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield the corpus, one document at a time."""
        ...

    def queries(self) -> list[Query]:
        """Return the queries that have judgements."""
        ...

    def qrels(self) -> Qrels:
        """Return the judgements: query id -> document id -> grade."""
        ...


def open_dataset(source: str, *, queries: Path | None = None, split: str | None = None) -> Dataset:
    """Find out what a test collection is and open it.

    Args:
        source: a BEIR folder; a folder of LAReQA's ``LANGUAGE.json``; one of MIRACL, Mr.TyDi, mMARCO or TREC, see
            :mod:`data.layouts`; a collection's file of mMARCO; ``irds:ID``, a data set of `ir_datasets`; ``mteb:TASK``
            or ``mteb:TASK/SUBSET``, a retrieval task of MTEB.
        queries: a file that stands in for the queries of a BEIR folder.
        split: whose queries and judgements, where there are several; None for the usual one.

    Raises:
        NotFoundError: no such folder or split, or nothing of these kinds in it.
        UsageError: other queries for what is no BEIR folder, a split of what has none, a package is not installed or
            knows no such name.
    """
    folder = Path(source)
    opened = None if find_part(folder, "corpus.jsonl") else _open_other(source, folder, split)
    if opened is None and not folder.exists() and source in read_registry():
        raise NotFoundError(f"{source} is not here yet: `polyseek fetch {source}` gets it")
    if opened is None:
        return BeirFolder.open(folder, split or "test", queries=queries)
    if queries is not None:
        raise UsageError("other queries can stand in for those of a BEIR folder alone: leave --queries out")
    return opened


def _open_other(source: str, folder: Path, split: str | None) -> Dataset | None:
    """Open what is no BEIR folder; None for what is nothing that is known."""
    if source.startswith(MTEB):
        return MtebTask.open(source.removeprefix(MTEB), split)
    whole = IrDataset.open(source.removeprefix(IRDS)) if source.startswith(IRDS) else LareqaFolder.find(folder)
    if whole is None:
        layouts = (find_miracl, find_mrtydi, find_mmarco, find_trec)
        return next((found for find in layouts if (found := find(folder, split))), None)
    if split is not None:
        raise UsageError(f"{source} has no splits to choose from: leave --split out")
    return whole
