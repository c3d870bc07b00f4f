"""Checking a collection on disk: every file against its checksum, and files that are whole against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.errors import CollectionError
from index.manifest import Manifest
from index.snapshot import Snapshot, files, size_problem
from index.storage import checksum


def verify(folder: Path) -> list[str]:
    """Return what is wrong with a collection, one line a problem; nothing if it is whole.

    Raises:
        NotFoundError: no collection there.
        CollectionError: a manifest that cannot be read.
    """
    while True:
        manifest = Manifest.read(folder)
        wrong = _damages(folder, manifest) or _contradictions(folder, manifest)
        # A writer may have removed files of the state that was looked at.
        if not wrong or Manifest.read(folder).generation == manifest.generation:
            return wrong


def _damages(folder: Path, manifest: Manifest) -> list[str]:
    """Return which files are not what was written."""
    wrong = []
    for path, entry in files(folder, manifest):
        problem = size_problem(path, entry)
        try:
            if not problem and checksum(path) != entry["blake2b"]:
                problem = f"{path} has another checksum: its content changed after it was written"
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror or error}"
        wrong += [problem] if problem else []
    return wrong


def _contradictions(folder: Path, manifest: Manifest) -> list[str]:
    """Return what does not fit together in files that are whole."""
    try:
        snapshot = Snapshot(folder, manifest)
    except CollectionError as error:
        return [str(error)]
    wrong = []
    ids = [x for row, x in enumerate(snapshot.ids(np.arange(snapshot.rows))) if snapshot.live[row]]
    if len(set(ids)) != len(ids):
        wrong.append(f"{snapshot.folder}: {len(ids) - len(set(ids))} document ids occur twice")
    for segment, entry in zip(snapshot.segments, snapshot.manifest.segments, strict=True):
        counts = {"ids": len(segment.ids), "documents": len(segment.documents), "languages": len(segment.codes)}
        counts |= {view: len(ragged) for view, ragged in segment.vectors.items()}
        if segment.postings is not None:
            counts["bm25"] = len(segment.postings.lengths)
        ordered = [segment.ids[row] for row in segment.by_id.tolist()]
        if ordered != sorted(segment.ids):
            wrong.append(f"{segment.folder}: ids.order.npy is not the order of the ids")
        wrong += [
            f"{segment.folder}: {n} {what} for {entry['rows']} rows" for what, n in counts.items() if n != entry["rows"]
        ]
    return wrong
