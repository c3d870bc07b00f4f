"""The file formats that documents come in: JSON Lines, CSV and TSV, TREC, and folders of plain text.

Each reader yields one document at a time and holds no more than one. Which reader a path gets is decided in
:mod:`data.readers`.
"""

from __future__ import annotations

import csv
import html
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import InputError, NotFoundError
from data.lines import BOM, decode, fault, json_objects, located, numbered_lines, source_name
from data.records import Document

# The csv module's own limit, 128 KiB, is shorter than a long article. A limit there must be: a quotation mark that is
# never closed takes the rest of the file into one field.
_LONGEST_FIELD = 1 << 24


def jsonl_documents(path: Path | None) -> Iterator[Document]:
    """Yield the documents of a JSON Lines file, or of standard input where ``path`` is ``None``.

    Raises:
        InputError: a broken line or record, with file and line.
    """
    for number, record in json_objects(path):
        with located(path, number):
            document = Document.from_json(record)
        yield document


def table_documents(path: Path, delimiter: str) -> Iterator[Document]:
    """Yield the documents of a table with a header: ``_id`` or ``id``, ``text``, optional ``title`` and ``lang``.

    Other columns become metadata. Quoting is that of RFC 4180, in TSV too, as spreadsheets and pandas write it.

    Raises:
        InputError: a header or row that does not fit, broken quotes; with file and line.
    """
    header: list[str] = []
    for number, row in _rows(path, delimiter):
        if not header:
            header = [name.strip() for name in row]
            _check_header(header, path, number)
        elif len(row) != len(header):
            message = f"{len(row)} columns where the header has {len(header)}: quote fields that need it"
            raise fault(path, number, message)
        else:
            with located(path, number):
                document = _row_document(dict(zip(header, row, strict=True)))
            yield document


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every row with the number of its first line; blank lines are skipped."""
    # The limit belongs to the whole process, so it only ever grows.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    reader = csv.reader((line for _, line in numbered_lines(path)), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            advice = 'write a field with quotation marks as "a ""quoted"" word"'
            raise fault(path, start, f"a broken row ({error}): {advice}") from error
        if len(row) > 1 or "".join(row).strip():
            yield start, row


def _check_header(header: list[str], path: Path, number: int) -> None:
    found = ", ".join(header)
    for name in header:
        if header.count(name) > 1:
            raise fault(path, number, f"the header has the column {name!r} twice: rename or drop one")
    if "" in header:
        raise fault(path, number, f"column {header.index('') + 1} of the header has no name: name or drop it")
    missing = "`id` or `_id`" if not {"id", "_id"} & set(header) else "`text`" if "text" not in header else ""
    if missing:
        raise fault(path, number, f"the header has no column {missing}, only: {found}")


def _row_document(row: dict[str, str]) -> Document:
    identity = row.pop("_id") if "_id" in row else row.pop("id")
    text, title, lang = row.pop("text"), row.pop("title", ""), row.pop("lang", "")
    return Document(identity, text, title=title, lang=lang, metadata=row)


_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ELEMENT = re.compile(
    r"<(?P<name>[A-Za-z][\w.-]*)(?:\s[^<>]*)?>(?P<body>.*?)</(?P=name)\s*>", re.DOTALL | re.IGNORECASE
)
# A tag is a name with attributes or nothing: "a<b and c>d" is arithmetic and stays.
_TAG = re.compile(r"</?[A-Za-z][\w.-]*(?:\s+[\w.-]+\s*=[^<>]*|\s*/?)>")


def trec_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a TREC file: ``<DOC>`` with ``<DOCNO>``, ``<TEXT>``, optional ``<TITLE>`` and ``<LANG>``.

    Other elements become metadata under their name in lower case. Comments and tags inside an element are dropped,
    character references resolved. Several elements of one name are joined by a line feed.

    Raises:
        InputError: text outside of documents or elements, a document that is never closed or has no DOCNO or TEXT.
    """
    for number, body in elements(path, "DOC"):
        with located(path, number):
            document = _trec_document(body)
        yield document


def elements(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield what is between ``<NAME>`` and ``</NAME>``, in any case, with the line of the former.

    Raises:
        InputError: text outside of them, one inside another, one that is never closed; with file and line.
    """
    pattern = re.compile(rf"(</?{name}\s*>)", re.IGNORECASE)
    body: list[str] = []
    start = 0  # the line of the open element, 0 outside
    for number, line in numbered_lines(path):
        for piece in pattern.split(line):
            tag = "" if not pattern.fullmatch(piece) else "end" if piece.startswith("</") else "begin"
            match tag, start > 0:
                case "begin", False:
                    start = number
                case "end", True:
                    yield start, "".join(body)
                    start, body = 0, []
                case "", True:
                    body.append(piece)
                case "", False:
                    if piece.strip():
                        raise fault(path, number, f"text outside of <{name}>...</{name}>: {piece.strip()[:40]!r}")
                case _:
                    raise fault(path, number, _misplaced(piece, name, start))
    if start:
        message = f"this <{name}> is never closed by </{name}>: the file is cut short, or an end tag is missing"
        raise fault(path, start, message)


def _misplaced(tag: str, name: str, start: int) -> str:
    if start:
        return f"{tag} before the <{name}> of line {start} is closed by </{name}>"
    return f"{tag} without a <{name}> before it"


def _trec_document(body: str) -> Document:
    fields: dict[str, str] = {}
    body = _COMMENT.sub("", body)
    for element in _ELEMENT.finditer(body):
        name, value = element["name"].lower(), html.unescape(_TAG.sub("", element["body"])).strip()
        fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    if "docno" not in fields:
        raise InputError("a document has no <DOCNO>...</DOCNO>")
    identity = fields.pop("docno")
    if rest := _ELEMENT.sub("", body).strip():
        raise InputError(f"document {identity!r} has text outside of its elements, or a tag not closed: {rest[:40]!r}")
    if "text" not in fields:
        raise InputError(f"document {identity!r} has no <TEXT>...</TEXT>")
    text, title, lang = fields.pop("text"), fields.pop("title", ""), fields.pop("lang", "")
    return Document(identity, text, title=title, lang=lang, metadata=fields)


def folder_documents(folder: Path) -> Iterator[Document]:
    """Yield a document for every ``*.txt`` and ``*.md`` below a folder, sorted by name within each folder.

    The id is the path below ``folder`` with forward slashes, the title the first Markdown heading of an ``.md``,
    otherwise the file's stem. Hidden files and folders are left out, and links to folders are not followed.

    Raises:
        NotFoundError: a folder with no such file.
        InputError: a file that is not UTF-8 or cannot be read.
    """
    empty = True
    for path in _text_files(folder):
        empty = False
        yield _text_document(folder, path)
    if empty:
        message = "holds no corpus.jsonl[.gz] and no *.txt or *.md file: nothing to read"
        raise NotFoundError(f"{source_name(folder)} {message}")


def _text_files(folder: Path) -> Iterator[Path]:
    """Yield the files, holding the names of one folder at each depth."""
    try:
        with os.scandir(folder) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{source_name(folder)} cannot be read: {error.strerror}") from error
    for entry in shown:
        if entry.is_dir(follow_symlinks=False):
            yield from _text_files(Path(entry.path))
        elif entry.is_file() and entry.name.lower().endswith((".txt", ".md")):
            yield Path(entry.path)


def _text_document(folder: Path, path: Path) -> Document:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{source_name(path)} cannot be read: {error.strerror}") from error
    text = decode(raw.removeprefix(BOM), path, 1).replace("\r\n", "\n")
    heading = _first_heading(text.split("\n")) if path.name.lower().endswith(".md") else ""
    with located(path, 1):
        return Document(path.relative_to(folder).as_posix(), text.strip(), title=heading or path.stem)


_UNDERLINE = re.compile(r" {0,3}=+[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def _first_heading(lines: Iterable[str]) -> str:
    """Return the first heading of CommonMark, ``# so`` or underlined by ``===``, outside of fenced code; or ``""``."""
    before, fence = "", ""
    for line in lines:
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
        elif not fence:
            if heading := _hash_heading(line):
                return heading
            if before and _UNDERLINE.fullmatch(line):
                return before
            before = line.strip()
    return ""


def _hash_heading(line: str) -> str:
    """Return the words of ``## words ##``; ``""`` for any other line, code that is indented by four among them."""
    marks, *words = line.split() or [""]
    if line.startswith(("    ", "\t")) or not 1 <= len(marks) <= 6 or marks.strip("#"):
        return ""
    if words and not words[-1].strip("#"):
        del words[-1]
    return " ".join(words)
