"""What an add does before it writes: cut documents into batches, compare them with what is there, and encode them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from data.errors import InputError
from data.records import Document
from index.segment import DocumentEncoder, Tokenized, Vectors, content_hash
from index.snapshot import Snapshot

# A commit is due after so many documents or characters, whichever comes first: about half a minute of encoding on two
# cores, which is what a killed build loses at most.
BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 500_000


@dataclass(slots=True)
class AddReport:
    """What an add did.

    Attributes:
        added: documents with an id that was not there.
        updated: documents that replaced one.
        unchanged: documents that were there as they are.
        tokens: what was encoded, in tokens.
        split: documents longer than the encoder takes, which were encoded in windows.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    tokens: int = 0
    split: int = 0

    @property
    def total(self) -> int:
        """All documents seen."""
        return self.added + self.updated + self.unchanged


class Progress(NamedTuple):
    """How far an add has come.

    Attributes:
        documents: read and encoded, or found to be there.
        unchanged: how many of these were there.
        tokens: encoded.
        split: documents that were encoded in windows.
        merging: all documents are written, and the segments are being put in order.
    """

    documents: int
    unchanged: int = 0
    tokens: int = 0
    split: int = 0
    merging: bool = False


@dataclass(frozen=True, slots=True)
class Writing:
    """What an add needs besides documents.

    Attributes:
        encoder: makes the vectors; None for a collection with bm25 alone.
        identify: texts -> language codes, for documents without ``lang``.
        atomic: one commit at the end instead of one after every batch.
        on_progress: called after each of the encoder's batches.
    """

    encoder: DocumentEncoder[Any] | None
    identify: Callable[[Sequence[str]], list[str]]
    atomic: bool = False
    on_progress: Callable[[Progress], None] | None = None

    def tell(self, report: AddReport, *, merging: bool = False) -> None:
        """Tell how far the add has come."""
        if self.on_progress:
            self.on_progress(Progress(report.total, report.unchanged, report.tokens, report.split, merging))


class Batch(NamedTuple):
    """Documents that will be one segment.

    Attributes:
        report: what the add has done when they are committed.
        documents: those that are new or changed.
        languages: the language of each, given or identified.
        tokenized: their contents, None without an encoder.
    """

    report: AddReport
    documents: list[Document]
    languages: list[str]
    tokenized: Tokenized | None

    def encode(self, before: AddReport, writing: Writing) -> Vectors:
        """Encode the documents, telling on the way how far it is from ``before``."""
        if writing.encoder is None or self.tokenized is None:
            return Vectors(None, None)
        done, tokens = 0, max(self.tokenized.tokens, 1)
        more = self.report.total - before.total

        def on_progress(count: int) -> None:
            nonlocal done
            done += count
            if writing.on_progress and done < tokens:
                part = Progress(before.total + more * done // tokens, self.report.unchanged, before.tokens + done)
                writing.on_progress(part._replace(split=self.report.split))

        return writing.encoder.encode(self.tokenized, on_progress)


def prepare(documents: Iterable[Document], snapshot: Snapshot, writing: Writing) -> Iterator[Batch]:
    """Read documents in batches, and leave out those that the snapshot has as they are.

    Raises:
        InputError: an id twice in the input.
    """
    encoder = writing.encoder if snapshot.manifest.encoder is not None else None
    report, seen = AddReport(), set[str]()
    for batch in batches(documents):
        report = replace(report)
        fresh = _compare(batch, snapshot, seen, report)
        contents = [d.content() for d in fresh]
        identified = iter(writing.identify([c for d, c in zip(fresh, contents, strict=True) if not d.lang]))
        languages = [d.lang or next(identified) for d in fresh]
        tokenized = encoder.tokenize(contents, languages) if encoder and fresh else None
        if tokenized is not None:
            report.tokens += tokenized.tokens
            report.split += tokenized.split
        yield Batch(report, fresh, languages, tokenized)


def _compare(batch: Sequence[Document], snapshot: Snapshot, seen: set[str], report: AddReport) -> list[Document]:
    """Return the documents of a batch that are new or changed."""
    fresh = []
    for document in batch:
        if document.id in seen:
            raise InputError(f"document id {document.id!r} stands twice in the input: give every document one id")
        seen.add(document.id)
        row = snapshot.row(document.id)
        if row is None:
            report.added += 1
        elif snapshot.content_hash(row) == content_hash(document):
            report.unchanged += 1
            continue
        else:
            report.updated += 1
        fresh.append(document)
    return fresh


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Cut documents into batches of :data:`BATCH_DOCUMENTS` or :data:`BATCH_CHARACTERS`."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.title) + len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
