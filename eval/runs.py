"""TREC run files, ``qid Q0 docid rank score tag``: written while evaluating, read back in trec_eval's order.

Not here: what is computed from a run (:mod:`eval.measures`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from data.errors import InputError, NotFoundError, UsageError
from data.records import Hit


class RunWriter:
    """A run file that appears when it is complete: written as ``NAME.partial`` and then moved into place.

    Use as a context manager. An error inside leaves an older file as it was and removes the partial one.
    """

    def __init__(self, path: Path, tag: str) -> None:
        """Name the file and the system; nothing is opened before ``with``.

        Args:
            path: where the run will stand; its folder is made.
            tag: the last column.

        Raises:
            InputError: a tag that is empty or holds whitespace.
        """
        _require_token("run tag", tag)
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._tag = tag
        self._file: TextIO | None = None

    def __enter__(self) -> RunWriter:
        """Open the partial file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise UsageError(f"cannot write runs to {self._path.parent}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Move the file into place, or remove it where writing failed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, query_id: str, hits: Sequence[Hit]) -> None:
        """Write the hits of one query, best first, ranks from 1. A query without hits leaves no line.

        Raises:
            InputError: an id that is empty or holds whitespace, which the format cannot express.
        """
        if self._file is None:
            raise ValueError(f"{self._path} is not open: write inside `with`")
        _require_token("query id", query_id)
        lines = []
        for rank, hit in enumerate(hits, 1):
            _require_token("document id", hit.id)
            # repr of a float reads back as the same float, whatever its size.
            lines.append(f"{query_id} Q0 {hit.id} {rank} {float(hit.score)!r} {self._tag}\n")
        self._file.writelines(lines)


def _require_token(what: str, text: str) -> None:
    # split() without arguments, as all readers do: it also splits at no-break spaces and U+2028.
    if text.split() != [text]:
        raise InputError(
            f"{what} {text!r} is empty or holds whitespace, which a TREC run cannot: rename it, or no runs"
        )


def read_run(path: Path) -> dict[str, list[Hit]]:
    """Read a run: query id -> hits by score descending, then id descending, as trec_eval sorts; ranks are not trusted.

    Raises:
        NotFoundError: no such file.
        InputError: a line that has not six columns or no finite score, a document twice for a query, or text that is
            not UTF-8; the message names file and line.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        where, columns = f"{path}, line {number}", line.split()
        if not columns:
            continue
        if len(columns) != 6:
            raise InputError(f"{where}: {len(columns)} columns, a run has 6 (qid Q0 docid rank score tag)")
        query, _, document, _, score, _ = columns
        scores = run.setdefault(query, {})
        if document in scores:
            raise InputError(f"{where}: document {document!r} stands twice for query {query!r}")
        scores[document] = _score(score, where)
    return {query: [Hit(d, scores[d]) for d in _ordered(scores)] for query, scores in run.items()}


def _ordered(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda document: (scores[document], document), reverse=True)


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{where}: the score {text!r} is not a finite number")
    return score


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers, from 1, and lines. Bytes are split first, so that only line feeds end a line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFoundError(f"cannot read the run {path}: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
