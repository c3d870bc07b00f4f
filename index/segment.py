"""A segment: some documents with all their views in one folder, written once and never changed.

Rows are positions in a segment. What is deleted is masked by the collection, not here. Every file is an array or
text, and opens by mmap.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.errors import CollectionError, EncoderError
from data.records import Document
from index.centroids import NO_SUMS, LanguageSums, Prior, sum_by_language
from index.coded import CodedTokens
from index.coding import Coding, write_coded
from index.inverted import NAME as INVERTED
from index.inverted import InvertedFile, write_inverted
from index.postings import Postings, merge_postings, write_postings
from index.ragged import Ragged
from index.storage import StringArray, checksum, flush_folder, read_array, write_array, write_json, write_parts

VIEWS = ("bm25", "dense", "late")
VECTOR_VIEWS = ("dense", "late")
# Texts whose vectors are copied at a time: with 45 tokens of 128 dims 47 MB.
CHUNK = 4096


class Vectors(NamedTuple):
    """What an encoder makes of n texts: one vector and one vector per token each, unit length, or None."""

    dense: NDArray[np.float32] | None  # (n, d)
    late: Ragged | None


class Tokenized(Protocol):
    """Texts that are ready to be encoded."""

    @property
    def tokens(self) -> int:
        """How many the model will read."""
        ...

    @property
    def split(self) -> int:
        """How many texts are longer than the model takes."""
        ...


T = TypeVar("T", bound=Tokenized)


class DocumentEncoder(Protocol[T]):
    """The part of an encoder that a build needs; `retriever.encoder` has the real one."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What makes vectors comparable, JSON-able, see `index.manifest.check_fingerprint`."""
        ...

    @property
    def dims(self) -> Mapping[str, int]:
        """The vector views that this model can make, with their dimensions."""
        ...

    @property
    def priors(self) -> Mapping[str, Prior]:
        """The centroids that ship with the model, by view."""
        ...

    def tokenize(self, texts: Sequence[str], languages: Sequence[str]) -> T:
        """Make tokens of texts in their languages, whole; in a thread of its own."""
        ...

    def encode(self, tokenized: T, on_progress: Callable[[int], None] | None = None) -> Vectors:
        """Encode what :meth:`tokenize` made, telling how many tokens are done in each batch."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """An opened segment of n rows.

    Attributes:
        ids: n strings; ``by_id`` (n,) uint32 are their positions in the order of their UTF-8 bytes.
        documents: n JSON objects as text.
        hashes: (n, 16) uint8, of what the user sent.
        postings: of the lexical view, if there is one.
        languages: the codes that occur; ``codes`` (n,) uint16 points into it.
        vectors: by view, float16: a dense vector is a text with one token. The late view of a large segment is coded.
        inverted: what finds candidates in the dense view of a large segment.
        sums: by view, over all n rows.
    """

    folder: Path
    ids: StringArray
    by_id: NDArray[np.uint32]
    documents: StringArray
    hashes: NDArray[np.uint8]
    languages: tuple[str, ...]
    codes: NDArray[np.uint16]
    postings: Postings | None
    vectors: Mapping[str, Ragged | CodedTokens]
    inverted: InvertedFile | None
    sums: Mapping[str, LanguageSums]

    def __len__(self) -> int:
        """Return the number of rows, deleted ones included."""
        return len(self.hashes)

    @classmethod
    def open(cls, folder: Path) -> Segment:
        """Map a segment's files."""
        meta = json.loads((folder / "segment.json").read_text(encoding="utf-8"))
        codes, by_id = read_array(folder / "languages.npy"), read_array(folder / "ids.order.npy")
        ids = StringArray.open(folder, "ids")
        if len(by_id) != len(ids) or by_id.max(initial=0) >= max(len(ids), 1):
            raise CollectionError(
                f"{folder / 'ids.order.npy'} is damaged, it does not order {len(ids)} ids: build the collection anew"
            )
        vectors, sums = {}, {}
        for view in meta["vector_views"]:
            vectors[view] = _open_vectors(folder, view, codes)
            sums[view] = _open_sums(read_array(folder / f"{view}.sums.npy"), meta["sums"][view])
        return cls(
            folder=folder,
            ids=ids,
            by_id=by_id,
            documents=StringArray.open(folder, "documents"),
            hashes=read_array(folder / "hashes.npy"),
            languages=tuple(meta["languages"]),
            codes=codes,
            postings=Postings.open(folder) if meta["bm25"] else None,
            vectors=vectors,
            inverted=InvertedFile(folder, meta["languages"], len(codes)) if meta["inverted"] else None,
            sums=sums,
        )


def content_hash(document: Document) -> bytes:
    """Return 16 bytes that change with anything the user sent for this document."""
    canonical = json.dumps(document.to_json(), ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(canonical.encode("utf-8"), digest_size=16).digest()


def write_segment(
    folder: Path, documents: Sequence[Document], languages: Sequence[str], views: Sequence[str], vectors: Vectors
) -> dict[str, Any]:
    """Write a segment and return its entry for the manifest.

    Args:
        folder: does not exist yet, or holds the rest of a build that was killed, which goes.
        documents: as the user sent them.
        languages: each document's language, given or identified, "" where unknown.
        views: which views to write.
        vectors: what the encoder made of the documents' contents.

    Raises:
        EncoderError: vectors that are missing, or not finite, or not of as many texts.
    """
    chosen = {view: _stored(view, vectors, documents) for view in VECTOR_VIEWS if view in views}
    _fresh(folder)
    if "bm25" in views:
        pairs = ((d.content(), language) for d, language in zip(documents, languages, strict=True))
        write_postings(folder, pairs)
    StringArray.write(folder, "ids", (d.id for d in documents))
    by_id = sorted(range(len(documents)), key=lambda i: documents[i].id)  # code points go as UTF-8 does
    write_array(folder / "ids.order.npy", np.array(by_id, np.uint32))
    StringArray.write(folder, "documents", (json.dumps(d.to_json(), ensure_ascii=False) for d in documents))
    hashes = np.frombuffer(b"".join(content_hash(d) for d in documents), np.uint8).reshape(-1, 16)
    write_array(folder / "hashes.npy", hashes)
    for view, ragged in chosen.items():
        write_array(folder / f"{view}.values.npy", ragged.values)
        write_array(folder / f"{view}.offsets.npy", ragged.offsets)
    return _finish(folder, list(languages), chosen)


def _stored(view: str, vectors: Vectors, documents: Sequence[Document]) -> Ragged:
    """Return the vectors of a view as they are stored, float16; one that is not finite would spoil all centroids."""
    made = vectors.late if view == "late" else None
    if view == "dense" and vectors.dense is not None:
        made = Ragged(vectors.dense, np.arange(len(vectors.dense) + 1, dtype=np.int64))
    if made is None or len(made) != len(documents):
        found = 0 if made is None else len(made)
        raise EncoderError(f"the encoder made {view} vectors of {found} texts, not of {len(documents)}")
    with np.errstate(over="ignore"):  # told below
        values = made.values.astype(np.float16)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        document = documents[int(np.searchsorted(made.offsets, wrong[0], side="right")) - 1]
        raise EncoderError(f"a {view} vector of document {document.id!r} is not finite: check the encoder's precision")
    return Ragged(values, made.offsets)


def merge_segments(
    folder: Path,
    sources: Sequence[tuple[Segment, NDArray[np.bool_]]],
    coding: Coding | None = None,
    inverting: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, Any]:
    """Write the kept rows of several segments as one segment and return its entry; nothing is encoded again.

    Args:
        folder: as in :func:`write_segment`.
        sources: segments with the same views, each with the rows to keep, (n,) bool.
        coding: how to code the late view, where it is to be coded; a source that is coded needs it.
        inverting: what a dense vector of each language loses, where the dense view is to have an inverted file.
    """
    _fresh(folder)
    first = sources[0][0]
    if first.postings is not None:
        merge_postings(folder, [(segment.postings, keep) for segment, keep in sources if segment.postings is not None])
    kept = [(segment, np.flatnonzero(keep)) for segment, keep in sources]
    _merge_ids(folder, sources)
    StringArray.write(folder, "documents", (s.documents[i] for s, rows in kept for i in rows.tolist()))
    write_array(folder / "hashes.npy", np.concatenate([s.hashes[rows] for s, rows in kept]))
    languages = [s.languages[code] for s, rows in kept for code in s.codes[rows]]
    names, codes = _numbered(languages)
    chosen: dict[str, Ragged | CodedTokens] = {}
    for view in first.vectors:
        if view == "late" and coding is not None:
            write_coded(folder, [(s.vectors[view], s.codes, s.languages, rows) for s, rows in kept], names, coding)
        else:
            _merge_vectors(folder, view, kept)
        chosen[view] = found = _open_vectors(folder, view, codes)
        if isinstance(found, CodedTokens):
            found.warm()
        elif view == "dense" and inverting is not None:
            write_inverted(folder, found, codes, names, inverting)
    return _finish(folder, languages, chosen)


def _merge_ids(folder: Path, sources: Sequence[tuple[Segment, NDArray[np.bool_]]]) -> None:
    """Write the ids of the kept rows and their order."""
    StringArray.write(folder, "ids", (x for s, keep in sources for x in compress(s.ids, keep)))
    runs, first = [], 0
    for segment, keep in sources:
        runs.append((np.cumsum(keep) - 1 + first)[segment.by_id[keep[segment.by_id]]])
        first += int(np.count_nonzero(keep))
    write_array(folder / "ids.order.npy", StringArray.open(folder, "ids").merge(runs).astype(np.uint32))


def _merge_vectors(folder: Path, view: str, kept: Sequence[tuple[Segment, NDArray[np.int64]]]) -> None:
    """Copy the vectors of the kept rows, :data:`CHUNK` texts at a time."""
    lengths = [np.diff(s.vectors[view].offsets)[rows] for s, rows in kept]
    offsets = np.zeros(sum(len(n) for n in lengths) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    write_array(folder / f"{view}.offsets.npy", offsets)
    dims = kept[0][0].vectors[view].dims
    parts = (
        segment.vectors[view].take(rows[start : start + CHUNK]).values
        for segment, rows in kept
        for start in range(0, len(rows), CHUNK)
    )
    write_parts(folder / f"{view}.values.npy", parts, (int(offsets[-1]), dims), np.float16)


def _fresh(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _numbered(languages: Sequence[str]) -> tuple[list[str], NDArray[np.uint16]]:
    """Return the codes that occur, sorted, and each text's position among them."""
    names = sorted(set(languages))
    positions = {name: i for i, name in enumerate(names)}
    return names, np.array([positions[x] for x in languages], np.uint16)


def _open_vectors(folder: Path, view: str, codes: NDArray[np.uint16]) -> Ragged | CodedTokens:
    """Map the vectors of a view."""
    if (folder / f"{view}.codes.npy").exists():
        return CodedTokens(folder, codes)
    return Ragged(read_array(folder / f"{view}.values.npy"), read_array(folder / f"{view}.offsets.npy"))


def _finish(folder: Path, languages: Sequence[str], vectors: Mapping[str, Ragged | CodedTokens]) -> dict[str, Any]:
    """Write languages, sums and ``segment.json``, flush the folder, and describe every file."""
    names, codes = _numbered(languages)
    write_array(folder / "languages.npy", codes)
    held = {"bm25": (folder / "bm25.lengths.npy").exists(), "inverted": (folder / INVERTED).exists()}
    meta: dict[str, Any] = {"languages": names, "vector_views": sorted(vectors), **held, "sums": {}}
    for view, found in vectors.items():
        sums = NO_SUMS
        for first, ragged in found.spans():
            sums = sums.plus(sum_by_language(ragged.values, ragged.offsets, codes[first : first + len(ragged)], names))
        write_array(folder / f"{view}.sums.npy", np.array([sums.sums[x] for x in sorted(sums.sums)]))
        meta["sums"][view] = {x: [sums.vectors[x], sums.documents[x]] for x in sums.sums}
    write_json(folder / "segment.json", meta)
    flush_folder(folder)
    flush_folder(folder.parent)
    files = {f.name: describe(f) for f in sorted(folder.iterdir())}
    return {"name": folder.name, "rows": len(codes), "files": files}


def describe(path: Path) -> dict[str, Any]:
    """Return a file's size and checksum, as the manifest keeps them."""
    return {"bytes": path.stat().st_size, "blake2b": checksum(path)}


def _open_sums(values: NDArray[np.float64], counts: Mapping[str, Sequence[int]]) -> LanguageSums:
    if not counts:
        return NO_SUMS
    return LanguageSums(
        dict(zip(sorted(counts), np.asarray(values), strict=True)),
        {x: n[0] for x, n in counts.items()},
        {x: n[1] for x, n in counts.items()},
    )
