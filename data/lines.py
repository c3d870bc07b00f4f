"""Lines of UTF-8 from a file, a gzip file or standard input, with the place of every fault.

The ground under all readers. It holds one line at a time, splits at line feeds only (a U+2028 inside a text is no
end of line), drops a byte order mark, and guesses no encodings: what is not UTF-8 is an error that says where.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from data.errors import InputError, NotFoundError

BOM = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CONVERT = "convert it to UTF-8, for instance with iconv"


def source_name(path: Path | None) -> str:
    """Return how messages name a file (``None`` is standard input); names that are no Unicode come out escaped."""
    return "standard input" if path is None else str(path).encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def located(path: Path | None, line: int) -> Iterator[None]:
    """Put file and line before the message of an :class:`InputError` that a record raises."""
    try:
        yield
    except InputError as error:
        raise fault(path, line, str(error)) from error


def fault(path: Path | None, line: int, message: str) -> InputError:
    """Return the error of one line: ``FILE, line N: message``."""
    return InputError(f"{source_name(path)}, line {line}: {message}")


def numbered_lines(path: Path | None) -> Iterator[tuple[int, str]]:
    """Yield every line with its number, from 1, and with its line end; ``None`` is standard input.

    Raises:
        NotFoundError: no such file.
        InputError: a file that cannot be opened, a damaged gzip file, bytes that are not UTF-8, a NUL.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                yield number, decode(raw.removeprefix(BOM) if number == 1 else raw, path, number)
    except FileNotFoundError as error:
        raise NotFoundError(f"{source_name(path)} does not exist: check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        message = f"{source_name(path)}: no whole gzip file, broken after line {number} ({error}): copy it again"
        raise InputError(message) from error
    except OSError as error:
        raise InputError(f"{source_name(path)} cannot be read: {error.strerror or error}") from error


def _open(path: Path | None) -> AbstractContextManager[Iterable[bytes]]:
    if path is None:
        return nullcontext(sys.stdin.buffer)
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def decode(raw: bytes, path: Path | None, line: int) -> str:
    """Return the text of ``raw``, which begins at ``line``.

    Raises:
        InputError: bytes that are not UTF-8, with the line of the first of them; a NUL, the sign of UTF-16.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = raw.startswith(_UTF16_MARKS) or b"\0" in raw
        guess = "UTF-16" if wide else f"byte 0x{raw[error.start]:02x}, Latin-1 perhaps"
        line += raw.count(b"\n", 0, error.start)
        raise fault(path, line, f"the file is not UTF-8 ({guess}): {_CONVERT}") from error
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise fault(path, line, f"a NUL byte (UTF-16 without a mark, or no text file): {_CONVERT}")
    return text


def json_objects(path: Path | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object of every line of JSON Lines with the line's number; blank lines are skipped.

    Raises:
        InputError: a line that is not one JSON object, with file and line, and all that :func:`numbered_lines` raises.
    """
    first = True
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        yield number, _json_object(line, path, number, first=first)
        first = False


def _json_object(line: str, path: Path | None, number: int, *, first: bool) -> dict[str, Any]:
    if first and line.lstrip().startswith("["):
        advice = "a JSON array: write one object per line instead, for instance with jq -c '.[]'"
        raise fault(path, number, advice)
    try:
        value = json.loads(line.rstrip("\r\n"))
    except (ValueError, RecursionError) as error:
        # ValueError beside JSONDecodeError: Python refuses integers of more than 4,300 digits.
        where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise fault(path, number, f"not valid JSON ({where}): every line must be one whole object") from error
    if not isinstance(value, dict):
        raise fault(path, number, f"every line must be a JSON object, got {type(value).__name__}")
    return value
