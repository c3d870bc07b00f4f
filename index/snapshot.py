"""A snapshot: one committed state of a collection, opened for reading. It never changes; many threads may use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import CollectionError
from data.records import Document
from index.bm25 import Bm25View
from index.centroids import NO_SUMS, Centroids, LanguageSums, Prior, sum_by_language
from index.coded import CodedTokens
from index.coding import DRIFT
from index.dense import DenseView
from index.late import LateView
from index.manifest import Manifest
from index.ranking import Rows
from index.segment import Segment
from index.storage import StringArray, read_array
from index.vectors import VectorRows


class Snapshot:
    """One committed state. Rows number the documents of all segments, oldest first; deleted rows stay numbered."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Map every file that the manifest names.

        Raises:
            CollectionError: a file is missing, cannot be read, or is not what the manifest says.
        """
        self.folder = folder
        self.manifest = manifest
        self._views = threading.Lock()  # or every thread that comes first would make a view of its own
        self._bm25: Bm25View | None = None
        self._dense: DenseView | None = None
        self._late: LateView | None = None
        for path, entry in files(folder, manifest):
            problem = size_problem(path, entry)
            if problem:
                raise CollectionError(f"{problem}: restore it from a copy or build the collection anew")
        try:
            self._map()
        except CollectionError:
            raise
        except OSError as error:
            raise CollectionError(
                f"cannot read {error.filename or folder}: {error.strerror or error}. `polyseek verify {folder}` names"
                " every file that is damaged"
            ) from error
        except Exception as error:  # a flipped byte in a header fails in as many ways as there are parsers
            raise CollectionError(
                f"{folder} is damaged ({error}): `polyseek verify {folder}` names the file"
            ) from error

    def _map(self) -> None:
        """Map all that a search reads: a later commit removes files, and only what is mapped stays readable."""
        self.segments = [Segment.open(self.folder / "segments" / e["name"]) for e in self.manifest.segments]
        self._bases = np.cumsum([0, *map(len, self.segments)], dtype=np.int64)
        self._live = np.ones(int(self._bases[-1]), np.bool_)
        if self.manifest.deleted is not None:
            self._live[read_array(self.folder / self.manifest.deleted["name"])] = False
        self._live.setflags(write=False)
        self._priors = {
            view: Prior(tuple(entry["languages"]), read_array(self.folder / entry["name"]))
            for view, entry in self.manifest.priors.items()
        }

    @classmethod
    def open(cls, folder: Path) -> Snapshot:
        """Open the newest committed state; where a writer removes its files meanwhile, the next one."""
        while True:
            manifest = Manifest.read(folder)
            try:
                return cls(folder, manifest)
            except CollectionError:
                if Manifest.read(folder).generation == manifest.generation:
                    raise

    def __len__(self) -> int:
        """Return the number of live documents."""
        return int(np.count_nonzero(self._live))

    @property
    def live(self) -> NDArray[np.bool_]:
        """Which rows are not deleted, (rows,)."""
        return self._live

    @property
    def rows(self) -> int:
        """The number of rows, deleted ones included."""
        return len(self._live)

    def ids(self, rows: Rows) -> list[str]:
        """Return the ids of rows."""
        return [self.segments[segment].ids[local] for segment, local in self._places(rows)]

    def row(self, identity: str) -> int | None:
        """Return the row of a live document, or None."""
        (row,) = self.find([identity]).tolist()
        return None if row < 0 else row

    def find(self, ids: Sequence[str]) -> Rows:
        """Return the rows of live documents, -1 where there is none."""
        rows = np.full(len(ids), -1, np.int64)
        for segment, base in zip(self.segments, self._bases.tolist(), strict=False):
            local = segment.ids.find(ids, segment.by_id)
            here = (local >= 0) & self._live[np.maximum(local, 0) + base] if len(segment) else local >= 0
            rows[here] = local[here] + base
        return rows

    def document(self, row: int) -> Document:
        """Read the document of a row; ``lang`` is the language it was indexed in."""
        ((segment, local),) = self._places(np.array([row]))
        stored = Document.from_json(json.loads(self.segments[segment].documents[local]))
        return Document(stored.id, stored.text, stored.title, self.language(row), stored.metadata)

    def content_hash(self, row: int) -> bytes:
        """Return the 16 bytes of `index.segment.content_hash` of the document of a row."""
        ((segment, local),) = self._places(np.array([row]))
        return bytes(self.segments[segment].hashes[local])

    def language(self, row: int) -> str:
        """Return the language that a row was indexed in, "" for unknown."""
        return self._languages[int(self._codes[row])]

    def select(self, ids: Sequence[str] = (), languages: Sequence[str] = ()) -> Rows | None:
        """Return the sorted live rows with one of the ids and in one of the languages; an empty list allows all.

        Unknown ids and languages select nothing. None means every row.
        """
        if not ids and not languages:
            return None
        chosen = self._live.copy()
        if ids:
            named = np.zeros(self.rows, np.bool_)
            found = self.find(ids)
            named[found[found >= 0]] = True
            chosen &= named
        if languages:
            wanted = set(languages)
            chosen &= np.isin(self._codes, [i for i, x in enumerate(self._languages) if x in wanted])
        return np.flatnonzero(chosen)

    @cached_property
    def language_counts(self) -> dict[str, int]:
        """The number of live documents by language, most first."""
        counts = np.bincount(self._codes[self._live], minlength=len(self._languages))
        pairs = [(x, int(n)) for x, n in zip(self._languages, counts, strict=True) if n]
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    @property
    def bm25(self) -> Bm25View:
        """The lexical view."""
        if "bm25" not in self.manifest.views:
            raise self._without("bm25")
        with self._views:
            postings = [s.postings for s in self.segments if s.postings is not None]
            self._bm25 = self._bm25 or Bm25View(postings, self._live, self.id_order)
            return self._bm25

    @property
    def dense(self) -> DenseView:
        """The view with one vector a document."""
        with self._views:
            self._dense = self._dense or DenseView(self._vector_rows("dense"), [s.inverted for s in self.segments])
            return self._dense

    @property
    def late(self) -> LateView:
        """The view with one vector a token."""
        with self._views:
            self._late = self._late or LateView(self._vector_rows("late"))
            return self._late

    def waiting(self, view: str) -> list[int]:
        """Return how many vectors of a view each segment holds that are compared whole."""
        vectors = [(s, s.vectors.get(view)) for s in self.segments]
        return [
            0
            if x is None or isinstance(x, CodedTokens) or (view == "dense" and s.inverted is not None)
            else int(x.offsets[-1])
            for s, x in vectors
        ]

    @property
    def drifted(self) -> bool:
        """Whether languages lie elsewhere than when their vectors were coded or put into an inverted file."""
        coded = [(s, x.frame) for s in self.segments if isinstance(x := s.vectors.get("late"), CodedTokens)]
        inverted = [(s, s.inverted.frame) for s in self.segments if s.inverted is not None]
        for view, frames in (("late", coded), ("dense", inverted)):
            centroids = self.centroids(view) if frames else None
            for segment, frame in frames:
                now = [centroids.offset(name) for name in segment.languages] if centroids else []
                if np.any(np.linalg.norm(np.stack(now) - frame, axis=1) > DRIFT):
                    return True
        return False

    def centroids(self, view: str) -> Centroids:
        """Return the language centroids of the live documents in a vector view."""
        sums = NO_SUMS
        for segment, base in zip(self.segments, self._bases[:-1], strict=True):
            sums = sums.plus(segment.sums[view])
            gone = np.flatnonzero(~self._live[base : base + len(segment)])
            if len(gone):
                sums = sums.plus(_sums_of(segment, view, gone), sign=-1)
        return Centroids(sums, self._priors.get(view), self._dims(view))

    def info(self) -> dict[str, Any]:
        """Describe the collection for people and programs."""
        size = (self.folder / "manifest.json").stat().st_size
        return {
            "name": self.manifest.name,
            "documents": len(self),
            "deleted_rows": self.rows - len(self),
            "languages": {x or "und": n for x, n in self.language_counts.items()},
            "views": list(self.manifest.views),
            "encoder": self.manifest.encoder,
            "segments": len(self.segments),
            "generation": self.manifest.generation,
            "bytes": size + sum(entry["bytes"] for _, entry in files(self.folder, self.manifest)),
        }

    @cached_property
    def _languages(self) -> list[str]:
        return sorted({x for s in self.segments for x in s.languages})

    @cached_property
    def _codes(self) -> NDArray[np.int64]:
        position = {x: i for i, x in enumerate(self._languages)}
        parts = [np.array([position[x] for x in s.languages], np.int64)[s.codes] for s in self.segments if len(s)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    @cached_property
    def id_order(self) -> NDArray[np.int64]:
        """The position of each row's id among all ids, ascending, (rows,): ties go to the greater."""
        runs = [segment.by_id + base for segment, base in zip(self.segments, self._bases.tolist(), strict=False)]
        order = np.empty(self.rows, np.int64)
        order[StringArray.join([segment.ids for segment in self.segments]).merge(runs)] = np.arange(self.rows)
        return order

    def _vector_rows(self, view: str) -> VectorRows:
        if view not in self.manifest.views:
            raise self._without(view)
        return VectorRows(
            parts=[s.vectors[view] for s in self.segments],
            live=self._live,
            languages=self._languages,
            codes=self._codes,
            centroids=self.centroids(view),
            id_order=self.id_order,
        )

    def _without(self, view: str) -> CollectionError:
        has = ",".join(self.manifest.views)
        return CollectionError(f"{self.folder} has no {view} view, only {has}: build it with `--views {has},{view}`")

    def _dims(self, view: str) -> int:
        return int((self.manifest.encoder or {}).get("dims", {}).get(view, 1))

    def _places(self, rows: Rows) -> list[tuple[int, int]]:
        """Return the segment of each row, and which row of it that is."""
        segment = np.searchsorted(self._bases, rows, side="right") - 1
        return list(zip(segment.tolist(), (rows - self._bases[segment]).tolist(), strict=True))


def size_problem(path: Path, entry: Mapping[str, Any]) -> str:
    """Return what is wrong with a file's presence or size, "" if nothing."""
    try:
        found = path.stat().st_size
    except OSError:
        return f"{path} is missing"
    return "" if found == entry["bytes"] else f"{path} has {found} bytes instead of {entry['bytes']}"


def files(folder: Path, manifest: Manifest) -> list[tuple[Path, dict[str, Any]]]:
    """Return every file that a manifest names, with its size and checksum."""
    found = [
        (folder / "segments" / segment["name"] / name, entry)
        for segment in manifest.segments
        for name, entry in segment["files"].items()
    ]
    found += [(folder / entry["name"], dict(entry)) for entry in manifest.priors.values()]
    if manifest.deleted is not None:
        found.append((folder / manifest.deleted["name"], dict(manifest.deleted)))
    return found


def _sums_of(segment: Segment, view: str, rows: Rows) -> LanguageSums:
    taken = segment.vectors[view].take(rows)
    return sum_by_language(taken.values, taken.offsets, segment.codes[rows], segment.languages)
