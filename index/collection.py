"""A collection on disk and its one writer: add, delete, compact, verify.

    DIR/manifest.json            what is committed; written last, in one step
    DIR/segments/000001/...      documents and views, never changed once written
    DIR/deleted-000003.npy       rows that are gone, until the next compact
    DIR/prior.VIEW.npy           the centroids that ship with the encoder
    DIR/lock                     held while somebody writes

Every commit writes new files, flushes them, and then replaces the manifest. Files that the manifest does not name
are the rest of a killed writer and go with the next commit.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from data.errors import CollectionError, InputError, PolyseekError, UsageError
from data.records import Document
from index.manifest import Manifest
from index.segment import VIEWS, DocumentEncoder, Vectors, content_hash, describe, merge_segments, write_segment
from index.snapshot import Snapshot, files
from index.storage import checksum, write_array

# A commit is due after so many documents or characters, whichever comes first: about two minutes of encoding on two
# cores, which is what a killed build loses at most.
BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 500_000
# With more segments than this an index build ends with a compact: every query visits every segment.
SEGMENTS = 8


@dataclass(slots=True)
class AddReport:
    """What an add did."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0

    @property
    def total(self) -> int:
        """All documents seen."""
        return self.added + self.updated + self.unchanged


@dataclass(frozen=True, slots=True)
class Writing:
    """What an add needs besides documents.

    Attributes:
        encoder: makes the vectors; None for a collection with bm25 alone.
        identify: texts -> language codes, for documents without ``lang``.
        atomic: one commit at the end instead of one after every batch.
        on_progress: called with the number of documents done, after every batch.
    """

    encoder: DocumentEncoder | None
    identify: Callable[[Sequence[str]], list[str]]
    atomic: bool = False
    on_progress: Callable[[int], None] | None = None


class Collection:
    """The writer of a folder. Reading is `index.snapshot.Snapshot`'s."""

    def __init__(self, folder: Path) -> None:
        """Name a folder; nothing is opened."""
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, views: Sequence[str], encoder: DocumentEncoder | None) -> Collection:
        """Make an empty collection.

        Raises:
            UsageError: unknown views, a folder that holds something else, or an encoder without the views asked for.
        """
        unknown = [v for v in views if v not in VIEWS]
        if unknown or not views:
            raise UsageError(f"unknown view {', '.join(unknown) or '(none)'}: choose from {', '.join(VIEWS)}")
        missing = [v for v in views if v != "bm25" and v not in (encoder.dims if encoder else {})]
        if missing:
            name = encoder.fingerprint["model"] if encoder else "no encoder"
            raise UsageError(f"{name} makes no {' and no '.join(missing)} vectors: leave them out of --views")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and holds no collection: name a new or empty folder")
        with _writes(folder):
            (folder / "segments").mkdir(parents=True, exist_ok=True)
            vector_views = [v for v in views if v != "bm25"]
            priors = {}
            for view in vector_views:
                prior = encoder.priors.get(view) if encoder else None
                if prior is not None:
                    path = folder / f"prior.{view}.npy"
                    write_array(path, prior.means.astype(np.float32))
                    priors[view] = {"name": path.name, "languages": list(prior.languages), **describe(path)}
            fingerprint = dict(encoder.fingerprint) if encoder and vector_views else None
            ordered = tuple(v for v in VIEWS if v in views)
            Manifest(folder.resolve().name, ordered, fingerprint, priors=priors).commit(folder)
        return cls(folder)

    def check_encoder(self, encoder: DocumentEncoder) -> None:
        """Refuse an encoder whose vectors cannot be compared with those stored.

        Raises:
            CollectionError: with both fingerprints.
        """
        check_fingerprint(self.folder, Manifest.read(self.folder).encoder, encoder.fingerprint)

    def add(self, documents: Iterable[Document], writing: Writing) -> AddReport:
        """Add documents, replacing those with the same id and other content, skipping those with the same.

        Documents that were committed stay when this is killed or fails later, so running it again goes on.

        Raises:
            InputError: an id twice in one batch.
            CollectionError: somebody else is writing, or the encoder is another one.
        """
        report = AddReport()
        with self._lock():
            if writing.encoder is not None:
                self.check_encoder(writing.encoder)
            snapshot = Snapshot.open(self.folder)
            self._sweep(snapshot.manifest)
            draft = _Draft(snapshot)
            for batch in batches(documents):
                fresh = self._compare(batch, draft, report)
                if fresh:
                    draft.write(fresh, writing)
                if not writing.atomic:
                    draft.commit()
                if writing.on_progress:
                    writing.on_progress(report.total)
            draft.commit()
        return report

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents and return how many there were; unknown ids are ignored."""
        with self._lock():
            snapshot = Snapshot.open(self.folder)
            self._sweep(snapshot.manifest)
            draft = _Draft(snapshot)
            gone = {row for x in ids if (row := snapshot.row(x)) is not None}
            draft.deleted |= gone
            draft.commit()
        return len(gone)

    def compact(self) -> None:
        """Write one segment of what is live and drop the rest; vectors are copied, never made again."""
        with self._lock():
            snapshot = Snapshot.open(self.folder)
            self._sweep(snapshot.manifest)
            if len(snapshot.segments) < 2 and snapshot.rows == len(snapshot):
                return
            manifest, entries, bases = snapshot.manifest, [], np.cumsum([0, *map(len, snapshot.segments)])
            kept = [
                (segment, snapshot.live[base : base + len(segment)])
                for segment, base in zip(snapshot.segments, bases[:-1], strict=True)
            ]
            with _writes(self.folder):
                if len(snapshot):
                    name = f"{manifest.next_segment:06d}"
                    entries = [merge_segments(self.folder / "segments" / name, kept)]
                done = manifest.next(
                    segments=tuple(entries), deleted=None, next_segment=manifest.next_segment + len(entries)
                )
                done.commit(self.folder)
            self._sweep(done)

    def tidy(self) -> None:
        """Compact if there are more segments than a query should visit, see :data:`SEGMENTS`."""
        if len(Manifest.read(self.folder).segments) > SEGMENTS:
            self.compact()

    def verify(self) -> list[str]:
        """Check every file against its checksum and the views against each other; return what is wrong."""
        manifest = Manifest.read(self.folder)
        wrong = []
        for path, entry in files(self.folder, manifest):
            if not path.exists():
                wrong.append(f"{path} is missing")
            elif path.stat().st_size != entry["bytes"]:
                wrong.append(f"{path} has {path.stat().st_size} bytes instead of {entry['bytes']}")
            elif checksum(path) != entry["blake2b"]:
                wrong.append(f"{path} has another checksum: its content changed after it was written")
        return wrong or _contradictions(Snapshot(self.folder, manifest))

    def _compare(self, batch: Sequence[Document], draft: _Draft, report: AddReport) -> list[Document]:
        """Return the documents of a batch that are new or changed; the rows of changed ones are marked deleted."""
        fresh = []
        for document in batch:
            if document.id in draft.written:
                raise InputError(f"document id {document.id!r} stands twice in the input: give every document one id")
            draft.written.add(document.id)
            row = draft.snapshot.row(document.id)
            if row is None:
                report.added += 1
            elif draft.snapshot.content_hash(row) == content_hash(document):
                report.unchanged += 1
                continue
            else:
                report.updated += 1
                draft.deleted.add(row)
            fresh.append(document)
        return fresh

    def _lock(self) -> contextlib.AbstractContextManager[Any]:
        Manifest.read(self.folder)  # a folder without collection is told as that
        return _locked(self.folder)

    def _sweep(self, manifest: Manifest) -> None:
        """Remove what no manifest names: the rest of a killed writer, or what a commit replaced."""
        named = {entry["name"] for entry in manifest.segments}
        for folder in (self.folder / "segments").iterdir():
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
        kept = manifest.deleted["name"] if manifest.deleted else None
        for path in [*self.folder.glob("deleted-*.npy"), *self.folder.glob("*.partial")]:
            if path.name != kept:
                path.unlink(missing_ok=True)


class _Draft:
    """The next state while it is being written: segments that no manifest names yet, and rows to delete.

    Attributes:
        snapshot: the state before.
        written: the ids that this writer has seen.
        deleted: all rows that are deleted in the next state.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.written: set[str] = set()
        self.deleted: set[int] = set(np.flatnonzero(~snapshot.live).tolist())
        self._committed = len(self.deleted)
        self._manifest = snapshot.manifest
        self._folder = snapshot.folder
        self._pending: list[Mapping[str, Any]] = []

    def write(self, documents: Sequence[Document], writing: Writing) -> None:
        """Encode documents and write them as a segment."""
        identified = iter(writing.identify([d.content() for d in documents if not d.lang]))
        languages = [d.lang or next(identified) for d in documents]
        vectors = Vectors(None, None)
        if writing.encoder is not None and any(v != "bm25" for v in self._manifest.views):
            vectors = writing.encoder.encode_documents([d.content() for d in documents])
        folder = self._folder / "segments" / f"{self._manifest.next_segment + len(self._pending):06d}"
        with _writes(self._folder, folder):
            self._pending.append(write_segment(folder, documents, languages, self._manifest.views, vectors))

    def commit(self) -> None:
        """Make what was written so far the state of the collection; without anything new there is no commit."""
        before = self._manifest
        if not self._pending and len(self.deleted) == self._committed:
            return
        deleted = before.deleted
        with _writes(self._folder):
            if len(self.deleted) > self._committed:
                path = self._folder / f"deleted-{before.generation + 1:06d}.npy"
                write_array(path, np.array(sorted(self.deleted), np.int64))
                deleted = {"name": path.name, **describe(path)}
            self._manifest = before.next(
                segments=(*before.segments, *self._pending),
                deleted=deleted,
                next_segment=before.next_segment + len(self._pending),
            )
            self._manifest.commit(self._folder)
        self._pending, self._committed = [], len(self.deleted)
        if before.deleted and before.deleted != deleted:
            (self._folder / before.deleted["name"]).unlink(missing_ok=True)


def check_fingerprint(folder: Path, stored: Mapping[str, Any] | None, given: Mapping[str, Any]) -> None:
    """Refuse vectors of another encoder. The name alone may differ: the same model can lie elsewhere.

    Raises:
        CollectionError: with both fingerprints in full.
    """
    if stored is None:
        return
    if {**stored, "model": ""} != {**given, "model": ""}:
        raise CollectionError(
            f"{folder} was built with the encoder {dict(stored)} and this is {dict(given)}: "
            f"open it with `--encoder {stored['model']}` or build it anew"
        )


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


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the writer's lock; the system releases it when the process ends, however it ends."""
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise CollectionError(f"somebody else is writing to {folder}: try again when that is done") from None


@contextlib.contextmanager
def _writes(folder: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn what the disk refuses into one line; the manifest was not touched, so nothing has changed."""
    try:
        yield
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else (error.strerror or str(error))
        remedy = "free some space" if full else "check the folder's permissions"
        raise PolyseekError(
            f"cannot write to {folder}: {why}; nothing was changed; {remedy} and run it again"
        ) from error


def _contradictions(snapshot: Snapshot) -> list[str]:
    """Return what does not fit together in files that are whole."""
    wrong = []
    ids = [x for row, x in enumerate(snapshot.ids(np.arange(snapshot.rows))) if snapshot.live[row]]
    if len(set(ids)) != len(ids):
        wrong.append(f"{snapshot.folder}: {len(ids) - len(set(ids))} document ids occur twice")
    for segment, entry in zip(snapshot.segments, snapshot.manifest.segments, strict=True):
        counts = {"ids": len(segment.ids), "documents": len(segment.documents), "languages": len(segment.codes)}
        counts |= {view: len(ragged) for view, ragged in segment.vectors.items()}
        wrong += [
            f"{segment.folder}: {n} {what} for {entry['rows']} rows" for what, n in counts.items() if n != entry["rows"]
        ]
    return wrong
