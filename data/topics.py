"""Topics, as TREC calls queries: ``id<TAB>query`` lines, and the ``<top>`` elements of its ad hoc tracks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from data.errors import InputError
from data.formats import elements
from data.lines import fault, located, numbered_lines
from data.records import Query

_TAG = re.compile(r"</?([A-Za-z][\w-]*)(?:\s[^<>]*)?>")
# What older topics write before a field: "<num> Number: 051", "<title> Topic: Airbus Subsidies".
_LABEL = re.compile(r"^(?:Number|Topic|Description)\s*:\s*")


def read_topics(path: Path, language: str = "") -> list[Query]:
    """Read topics, all in one language: ``id<TAB>query`` lines, or ``<top>`` with ``<num>`` and ``<title>``.

    Fields of a ``<top>`` need not be closed. The query is the title or, where there is none (TREC 4), the description.

    Raises:
        NotFoundError: no such file.
        InputError: a line or ``<top>`` of another form, an id that comes twice; with file and line.
    """
    queries: list[Query] = []
    lines: dict[str, int] = {}
    for number, name, text in _tops(path) if _has_tags(path) else _rows(path):
        if name in lines:
            raise fault(path, number, f"the topic {name!r} is already that of line {lines[name]}")
        lines[name] = number
        queries.append(Query(text, lang=language, id=name))
    return queries


def _has_tags(path: Path) -> bool:
    return next((line.lstrip().startswith("<") for _, line in numbered_lines(path) if line.strip()), False)


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(path):
        name, tab, text = line.rstrip("\r\n").partition("\t")
        if tab and name.strip():
            yield number, name.strip(), text
        elif line.strip():
            raise fault(path, number, f"an id, a tab and a query are needed, got {line[:80].strip()!r}")


def _tops(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, body in elements(path, "top"):
        fields: dict[str, str] = {}
        _, *pieces = _TAG.split(body)
        for name, text in zip(pieces[::2], pieces[1::2], strict=True):
            fields[name.lower()] = f"{fields.get(name.lower(), '')} {text}"
        with located(path, number):
            name, title, description = (_field(fields, field) for field in ("num", "title", "desc"))
            if not name or not (title or description):
                raise InputError("a <top> needs a <num>, and a <title> or a <desc>, with something in them")
        yield number, name, title or description


def _field(fields: dict[str, str], name: str) -> str:
    return _LABEL.sub("", " ".join(html.unescape(fields.get(name, "")).split()))
