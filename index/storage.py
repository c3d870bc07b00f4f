"""Arrays and strings on disk: plain files that open by mmap, written once, flushed before they are named anywhere.

Nothing here is pickled. Files are written with ordinary writes and never through a memory map: a full disk is then
an ``OSError`` and not a bus error.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from index import lexical

# Smaller files are read: a mapped one holds a file descriptor, of which a process has 1024 by default, and a collection
# that grows by single documents has many small files.
MAPPED = 1 << 16
# NumPy reads headers with ast.literal_eval, which in CPython 3.11 now and then fails where threads use it at once
# ("AST constructor recursion depth mismatch", python/cpython#106905).
_HEADERS = threading.Lock()
IN_ORDER = np.empty(0, np.uint32)


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array as ``.npy`` and flush it to the disk."""
    write_parts(path, [values], values.shape, values.dtype)


def write_parts(path: Path, parts: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write arrays one after another as one ``.npy`` of ``shape`` and flush it to the disk."""
    with ArrayFile(path, shape, dtype) as file:
        for part in parts:
            file.append(part)


class ArrayFile:
    """A ``.npy`` that is written part by part; leaving the ``with`` flushes it to the disk."""

    def __init__(self, path: Path, shape: tuple[int, ...] | None, dtype: DTypeLike) -> None:
        """Write the header of an array of ``shape``; None for one dimension, as long as what is appended."""
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._length = 0
        self._grows = shape is None
        self._header(shape or (0,))

    def _header(self, shape: tuple[int, ...]) -> None:
        # NumPy leaves room in it for a longer first dimension, so that it may be written again.
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> ArrayFile:
        """Return this."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Flush the file, unless writing it has failed, and close it."""
        with self._file:
            if kind is None:
                if self._grows:
                    self._file.seek(0)
                    self._header((self._length,))
                self._file.flush()
                os.fsync(self._file.fileno())

    def append(self, part: NDArray[Any]) -> None:
        """Write the next part."""
        # Not ndarray.tofile, whose error on a full disk carries no errno.
        self._file.write(np.ascontiguousarray(part, self._dtype).data)
        self._length += len(part)


def read_array(path: Path, *, scattered: bool = False) -> NDArray[Any]:
    """Open an array read-only: by mmap, or read where it is small.

    Args:
        path: a ``.npy``.
        scattered: little of it will be read, here and there. The system then reads no more than is asked for: with 160
            MB of memory for 383 MB of token vectors and the process, .13 s a query instead of 1.2 s. With enough memory
            it takes longer until all of a cold file is there (190 queries: 9 s instead of 2 s).
    """
    with _HEADERS:
        loaded = np.load(path, mmap_mode="r" if path.stat().st_size > MAPPED else None, allow_pickle=False)
    loaded.setflags(write=False)
    if scattered and isinstance(loaded.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        loaded.base.madvise(mmap.MADV_RANDOM)
    return np.asarray(loaded)  # a plain view of the mapped file: slicing np.memmap costs half of a BM25 query


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Write JSON beside ``path``, flush it, and move it into place in one step: a reader sees the old or the new."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """Return the BLAKE2b digest (16 bytes, hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class StringArray:
    """Strings in one UTF-8 blob with offsets: opens at once whatever its size, reads one string at a time."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """Wrap a blob and its offsets, (n + 1,), as :meth:`open` finds them."""
        if len(offsets) == 0 or offsets[-1] != len(blob):
            raise ValueError(f"offsets end at {offsets[-1:]} but the blob has {len(blob)} bytes")
        self._blob = blob
        self._offsets = offsets

    @staticmethod
    def write(folder: Path, name: str, strings: Iterable[str]) -> None:
        """Write ``NAME.blob.npy`` and ``NAME.offsets.npy``."""
        ends = array("q", [0])
        with ArrayFile(folder / f"{name}.blob.npy", None, np.uint8) as blob:
            for string in strings:
                encoded = string.encode("utf-8")
                blob.append(np.frombuffer(encoded, np.uint8))
                ends.append(ends[-1] + len(encoded))
        write_array(folder / f"{name}.offsets.npy", np.asarray(ends, np.int64))

    @classmethod
    def join(cls, parts: Sequence[StringArray]) -> StringArray:
        """Return the strings of all parts, one after another; of several parts a copy."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([0, *(len(part._blob) for part in parts)])
        offsets = [part._offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        blobs = [part._blob for part in parts]
        empty = np.empty(0, np.uint8)
        return cls(np.concatenate([empty, *blobs]), np.concatenate([np.zeros(1, np.int64), *offsets]))

    @classmethod
    def open(cls, folder: Path, name: str) -> StringArray:
        """Map what :meth:`write` wrote."""
        return cls(read_array(folder / f"{name}.blob.npy"), read_array(folder / f"{name}.offsets.npy"))

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> str:
        """Return string ``i``."""
        return self._blob[self._offsets[i] : self._offsets[i + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        """Yield every string; a quarter of the time of asking one by one."""
        blob, ends = self._blob.tobytes(), self._offsets.tolist()
        for start, end in pairwise(ends):
            yield blob[start:end].decode("utf-8")

    def find(self, keys: Sequence[str], order: NDArray[np.uint32] = IN_ORDER) -> NDArray[np.int64]:
        """Return the position of every key, or -1.

        Args:
            keys: what to look for.
            order: the positions of the strings in the order of their UTF-8 bytes; left out where they stand in it.
        """
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys]  # half a character is in no string
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        found = np.empty(len(keys), np.int64)
        lexical.find(self._blob, self._offsets, order, np.frombuffer(b"".join(encoded), np.uint8), ends, found)
        return found

    def merge(self, runs: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
        """Return the positions in all runs, each of which is in the order of its strings' UTF-8 bytes, as one such run.

        The last are merged first, for segments are the smaller the younger they are.
        """
        left = [np.asarray(run, np.int64) for run in runs]
        while len(left) > 1:
            b, a = left.pop(), left.pop()
            left.append(np.empty(len(a) + len(b), np.int64))
            lexical.merge(self._blob, self._offsets, a, b, left[-1])
        return left[0] if left else np.empty(0, np.int64)
