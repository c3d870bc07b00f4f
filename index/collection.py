"""A collection on disk and its one writer: add, delete, compact, verify.

    DIR/manifest.json            what is committed; written last, in one step
    DIR/segments/000001/...      documents and views, never changed once written
    DIR/deleted-000003.npy       rows that are gone, until the next compact
    DIR/prior.VIEW.npy           the centroids that ship with the encoder
    DIR/lock                     held while somebody writes

Every commit writes new files, flushes them, and then replaces the manifest. Files that the manifest does not name
are the rest of a killed writer, or what a commit replaced, and a writer removes them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import CollectionError, UsageError
from data.records import Document
from index.adding import AddReport, Batch, Writing, prepare
from index.coding import BITS, Coding
from index.lock import locked, writes
from index.manifest import NAME, Manifest, check_fingerprint
from index.parallel import ahead
from index.segment import VIEWS, DocumentEncoder, Vectors, describe, merge_segments, write_segment
from index.snapshot import Snapshot
from index.storage import write_array
from index.verify import verify

# With more segments than this the newest are merged: every query visits every segment, and every segment holds files
# open. See :func:`first_to_merge`.
SEGMENTS = 8
# Vectors of a view that are compared whole. With more than these its segments are made fast, at the end of an add.
WHOLE = {"late": 1 << 16, "dense": 1 << 16}


class Collection:
    """The writer of a folder. Reading is `index.snapshot.Snapshot`'s."""

    def __init__(self, folder: Path) -> None:
        """Name a folder; nothing is opened."""
        self.folder = folder

    @classmethod
    def create(
        cls, folder: Path, views: Sequence[str], encoder: DocumentEncoder[Any] | None, *, late_bits: int = 4
    ) -> Collection:
        """Make an empty collection.

        Raises:
            UsageError: unknown views or bits, a folder that holds something, or an encoder without the views asked for.
            CollectionError: somebody else is making one there.
        """
        unknown = [v for v in views if v not in VIEWS]
        if unknown or not views:
            raise UsageError(f"unknown view {', '.join(unknown) or '(none)'}: choose from {', '.join(VIEWS)}")
        if late_bits not in BITS:
            raise UsageError(f"{late_bits} bits for a dimension: choose from {', '.join(map(str, BITS))}")
        missing = [v for v in views if v != "bm25" and v not in (encoder.dims if encoder else {})]
        if missing:
            name = encoder.fingerprint["model"] if encoder else "no encoder"
            raise UsageError(f"{name} makes no {' and no '.join(missing)} vectors: leave them out of --views")
        _check_free(folder)
        with writes(folder):
            (folder / "segments").mkdir(parents=True, exist_ok=True)
        with locked(folder), writes(folder):
            _check_free(folder)
            vector_views = [v for v in VIEWS if v in views and v != "bm25"]
            priors = _write_priors(folder, vector_views, encoder)
            fingerprint = dict(encoder.fingerprint) if encoder and vector_views else None
            name = os.fsencode(folder.resolve().name).decode("utf-8", "replace")
            Manifest(
                name, tuple(v for v in VIEWS if v in views), fingerprint, priors=priors, late_bits=late_bits
            ).commit(folder)
        return cls(folder)

    def add(self, documents: Iterable[Document], writing: Writing) -> AddReport:
        """Add documents, replacing those with the same id and other content, skipping those with the same.

        Documents that were committed stay when this is killed or fails later, so running it again goes on.

        Raises:
            InputError: an id twice in the input.
            CollectionError: somebody else is writing, or the encoder is another one or missing.
        """
        report = AddReport()
        with self._writer() as snapshot:
            stored = snapshot.manifest.encoder
            if writing.encoder is not None:
                check_fingerprint(self.folder, stored, writing.encoder.fingerprint)
            elif stored is not None:
                raise CollectionError(f"{self.folder} has vectors: give the encoder that it was built with, {stored}")
            # A batch is encoded here while the next is read and the one before is written. Of a build that goes on, the
            # batches that are there make no commit, but the merge that a killed writer owed, so that it ends as if it
            # had never been killed.
            draft = _Draft(snapshot)
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
                written: Future[_Draft] = Future()
                written.set_result(draft)
                for batch in ahead(prepare(documents, draft.snapshot, writing), reader):
                    vectors = batch.encode(report, writing)
                    written = writer.submit(self._write, written.result(), batch, vectors, atomic=writing.atomic)
                    report = batch.report
                    writing.tell(report)
            writing.tell(report, merging=True)
            self._commit(written.result())
            self._code()
        return report

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents and return how many there were; unknown ids are ignored."""
        with self._writer() as snapshot:
            draft = _Draft(snapshot)
            gone = {row for x in ids if (row := snapshot.row(x)) is not None}
            draft.deleted |= gone
            draft.commit()
        return len(gone)

    def compact(self) -> None:
        """Write one segment of what is live and drop the rest; vectors are copied, never made again."""
        with self._writer() as snapshot:
            if len(snapshot.segments) > 1 or len(snapshot) < snapshot.rows or snapshot.drifted:
                self._merge(snapshot, 0)

    def verify(self) -> list[str]:
        """Return what is wrong with the files, see `index.verify`."""
        return verify(self.folder)

    @contextlib.contextmanager
    def _writer(self) -> Iterator[Snapshot]:
        """Hold the lock; give the newest state, and leave no file that the manifest does not name."""
        Manifest.read(self.folder)  # a folder without collection is told as that, and gets no lock
        with locked(self.folder):
            snapshot = Snapshot.open(self.folder)
            self._sweep(snapshot.manifest)
            try:
                yield snapshot
            finally:
                self._sweep(Manifest.read(self.folder))

    def _write(self, draft: _Draft, batch: Batch, vectors: Vectors, *, atomic: bool) -> _Draft:
        """Write a batch, commit it unless that is for later, and return the draft of what comes next."""
        draft.write(batch, vectors)
        return draft if atomic else self._commit(draft)

    def _commit(self, draft: _Draft) -> _Draft:
        draft.commit()
        return self._in_order(draft)

    def _in_order(self, draft: _Draft) -> _Draft:
        """Merge the newest segments if they have become many, and return the draft of what comes next."""
        first = first_to_merge([entry["rows"] for entry in draft.manifest.segments])
        if first == len(draft.manifest.segments):
            return draft
        self._merge(Snapshot.open(self.folder), first)
        return _Draft(Snapshot.open(self.folder))

    def _code(self) -> None:
        """Make the views of small segments fast, once there is enough in them, with segments of like size."""
        snapshot = Snapshot.open(self.folder)
        large = [waiting for view in WHOLE if sum(waiting := snapshot.waiting(view)) > WHOLE[view]]
        if not large:
            return
        sizes = [len(segment) for segment in snapshot.segments]
        first = min(next(i for i, vectors in enumerate(waiting) if vectors) for waiting in large)
        while first > 0 and sizes[first - 1] <= sum(sizes[first:]):
            first -= 1
        self._merge(snapshot, first)

    def _merge(self, snapshot: Snapshot, first: int) -> None:
        """Write one segment of what is live from segment ``first`` on; the older ones stay as they are.

        Its views are made fast where they are large, or one of the old ones was.
        """
        before, bases = snapshot.manifest, np.cumsum([0, *map(len, snapshot.segments)])
        merged = [
            (segment, snapshot.live[base : base + len(segment)])
            for segment, base in zip(snapshot.segments[first:], bases[first:-1], strict=True)
        ]
        entries = list(before.segments[:first])
        with writes(self.folder):
            if any(live.any() for _, live in merged):
                target = self.folder / "segments" / f"{before.next_segment:06d}"
                late, dense = (self._offsets(snapshot, first, view) for view in ("late", "dense"))
                coding = None if late is None else Coding(before.late_bits, late)
                entries.append(merge_segments(target, merged, coding, dense))
            after = before.next(
                segments=tuple(entries),
                deleted=_write_deleted(self.folder, before, np.flatnonzero(~snapshot.live[: bases[first]])),
                next_segment=before.next_segment + 1,
            )
            after.commit(self.folder)
        self._sweep(after)

    def _offsets(self, snapshot: Snapshot, first: int, view: str) -> dict[str, NDArray[np.float32]] | None:
        """Return the languages' offsets to make the segments from ``first`` on fast with, None if they stay whole."""
        segments, waiting = snapshot.segments[first:], snapshot.waiting(view)[first:]
        held = [int(s.vectors[view].offsets[-1]) if view in s.vectors else 0 for s in segments]
        if sum(waiting) <= WHOLE[view] and sum(waiting) == sum(held):
            return None
        centroids = snapshot.centroids(view)
        return {x: centroids.offset(x) for segment in segments for x in segment.languages}

    def _sweep(self, manifest: Manifest) -> None:
        """Remove what the manifest does not name: the rest of a killed writer, or what a commit replaced."""
        named = {entry["name"] for entry in manifest.segments}
        for folder in (self.folder / "segments").glob("*"):
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)
        named = {entry["name"] for entry in (*manifest.priors.values(), manifest.deleted or {"name": ""})}
        for pattern in ("deleted-*.npy", "prior.*.npy", "*.partial"):
            for path in self.folder.glob(pattern):
                if path.name not in named:
                    path.unlink(missing_ok=True)


class _Draft:
    """The next state while it is being written: segments that no manifest names yet, and rows to delete.

    Attributes:
        snapshot: the state before.
        deleted: all rows that are deleted in the next state.
        manifest: what was committed last.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.deleted: set[int] = set(np.flatnonzero(~snapshot.live).tolist())
        self.manifest = snapshot.manifest
        self._committed = len(self.deleted)
        self._folder = snapshot.folder
        self._pending: list[Mapping[str, Any]] = []

    def write(self, batch: Batch, vectors: Vectors) -> None:
        """Write documents as a segment; the rows that they replace are deleted."""
        if not batch.documents:
            return
        folder = self._folder / "segments" / f"{self.manifest.next_segment + len(self._pending):06d}"
        with writes(self._folder):
            entry = write_segment(folder, batch.documents, batch.languages, self.manifest.views, vectors)
        self._pending.append(entry)
        self.deleted |= {row for d in batch.documents if (row := self.snapshot.row(d.id)) is not None}

    def commit(self) -> None:
        """Make what was written so far the state of the collection; without anything new there is no commit."""
        before = self.manifest
        if not self._pending and len(self.deleted) == self._committed:
            return
        with writes(self._folder):
            deleted = before.deleted
            if len(self.deleted) > self._committed:
                deleted = _write_deleted(self._folder, before, np.array(sorted(self.deleted), np.int64))
            after = before.next(
                segments=(*before.segments, *self._pending),
                deleted=deleted,
                next_segment=before.next_segment + len(self._pending),
            )
            after.commit(self._folder)
        self.manifest, self._pending, self._committed = after, [], len(self.deleted)


def _write_priors(
    folder: Path, views: Sequence[str], encoder: DocumentEncoder[Any] | None
) -> dict[str, dict[str, Any]]:
    """Write the centroids that ship with the encoder and return their entries for the manifest, by view."""
    priors = {}
    for view in views:
        prior = encoder.priors.get(view) if encoder else None
        if prior is not None:
            path = folder / f"prior.{view}.npy"
            write_array(path, prior.means.astype(np.float32))
            priors[view] = {"name": path.name, "languages": list(prior.languages), **describe(path)}
    return priors


def _write_deleted(folder: Path, before: Manifest, rows: NDArray[np.int64]) -> dict[str, Any] | None:
    """Write which rows are deleted in the state after ``before`` and return the entry for its manifest."""
    if not len(rows):
        return None
    path = folder / f"deleted-{before.generation + 1:06d}.npy"
    write_array(path, rows)
    return {"name": path.name, **describe(path)}


def first_to_merge(sizes: Sequence[int]) -> int:
    """Return the first of the segments to merge, oldest first; ``len(sizes)`` if there is nothing to do.

    Where there are more than :data:`SEGMENTS`, those are merged that begin with one no larger than all newer ones
    together. What stays is larger than all that is newer, so there are at most about log2(rows) segments.
    """
    if len(sizes) <= SEGMENTS:
        return len(sizes)
    newer = sum(sizes)
    for first, size in enumerate(sizes[:-1]):
        newer -= size
        if size <= newer:
            return first
    return len(sizes)


def _check_free(folder: Path) -> None:
    """Refuse a folder that holds anything but the rest of a :meth:`Collection.create` that was killed."""
    try:
        held = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if "segments" in held and not any((folder / "segments").iterdir()):
            held.remove("segments")
    except OSError as error:
        raise UsageError(f"{folder} is no folder to write to ({error.strerror}): name a new or empty one") from error
    if NAME in held:
        raise UsageError(f"{folder} holds a collection already: add to it or name another folder")
    if held - {"lock", f"{NAME}.partial", *(f"prior.{view}.npy" for view in VIEWS)}:
        raise UsageError(f"{folder} exists and holds no collection: name a new or empty folder")
