"""Several inputs as one collection of documents, read twice: once to check every record, once to index them.

Reading takes seconds where encoding takes hours, so a broken line or an id that stands twice is found before any work
is done, and progress knows the total.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import InputError, UsageError
from data.lines import source_name
from data.readers import read_documents
from data.records import Document


class Inputs:
    """Documents of several inputs, in order. Use as a context manager: standard input is kept in a file meanwhile."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Name the inputs, each as :func:`data.readers.read_documents` takes it.

        Raises:
            UsageError: ``-`` twice: standard input can be read once.
        """
        if sources.count("-") > 1:
            raise UsageError("standard input (-) can be given once")
        self._sources = sources
        self._stack = contextlib.ExitStack()
        self._kept: Path | None = None

    def __enter__(self) -> Inputs:
        """Keep standard input, if it is asked for."""
        if "-" in self._sources:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="polyseek-stdin-"))
            self._kept = Path(folder) / "standard-input.jsonl"
            with self._kept.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        return self

    def __exit__(self, *_: object) -> None:
        """Forget standard input."""
        self._stack.close()

    def __iter__(self) -> Iterator[Document]:
        """Read all documents."""
        for source in self._sources:
            yield from self._read(source)

    def check(self) -> int:
        """Read every record once and return how many there are.

        Raises:
            InputError: a record that cannot be read, or an id that stands twice; with the file.
            NotFoundError, UsageError: an input that is not there or of an unknown kind.
        """
        seen: dict[str, str] = {}
        for source in self._sources:
            name = source_name(None if source == "-" else Path(source))
            for document in self._read(source):
                if document.id in seen:
                    where = f"twice in {name}" if seen[document.id] == name else f"in {seen[document.id]} and in {name}"
                    raise InputError(f"the document id {document.id!r} stands {where}: give every document one id")
                seen[document.id] = name
        return len(seen)

    def _read(self, source: str) -> Iterator[Document]:
        if source != "-":
            yield from read_documents(source)
            return
        try:
            yield from read_documents(str(self._kept))
        except InputError as error:  # nobody knows the file by its name
            raise InputError(str(error).replace(str(self._kept), source_name(None))) from None
