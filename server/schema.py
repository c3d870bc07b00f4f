"""What a request may say: every parameter is checked here, and nothing that is unknown passes in silence.

A query string is first turned into the values that a JSON body would carry; both then take the same road.
Every refusal names the parameter, what was given and what would be right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MultiDict

from data.errors import InputError, UsageError
from data.records import Document, Query, normalize_language

DEFAULT_K = 10
MAX_K = 1000
MAX_QUERIES = 1000
MAX_QUERY_CHARACTERS = 10_000
# No record nests like this; the standard JSON reader gives up at about 1000, and not everything behind it even there.
MAX_DEPTH = 32

_OPTIONS = ("k", "using", "languages", "neutral", "explain")
GET_PARAMETERS = ("q", *_OPTIONS)
POST_KEYS = ("queries", *_OPTIONS, "within")


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search that is in order. ``within`` is ``None`` for everything; an empty one allows no document."""

    queries: tuple[Query, ...]
    using: str
    k: int = DEFAULT_K
    languages: tuple[str, ...] = ()
    neutral: bool = True
    explain: bool = False
    within: tuple[str, ...] | None = None


class RecordError(InputError):
    """A record of a batch that was refused, and with it the batch. ``position`` counts the records from 0."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


def search_from_arguments(arguments: MultiDict[str, str], modes: Sequence[str]) -> SearchRequest:
    """Read ``GET /search?...``.

    Raises:
        UsageError: an unknown, repeated, missing or wrong parameter.
    """
    refuse_unknown(arguments, GET_PARAMETERS, what="parameter")
    repeated = [name for name, values in arguments.lists() if len(values) > 1]
    if repeated:
        raise UsageError(f"the parameter {repeated[0]} was given more than once")
    if "q" not in arguments:
        raise UsageError("the parameter q is missing: /search?q=your+question")
    values: dict[str, Any] = arguments.to_dict()
    if "k" in values:
        values["k"] = _number(values["k"])
    if "languages" in values:
        values["languages"] = [code for code in values["languages"].split(",") if code.strip()]
    for name in ("neutral", "explain"):
        if name in values:
            values[name] = {"true": True, "false": False}.get(values[name], values[name])
    return _search([_query(values.pop("q"), "q")], values, modes)


def search_from_json(body: object, modes: Sequence[str]) -> SearchRequest:
    """Read the body of ``POST /search``.

    Raises:
        UsageError: an unknown, missing or wrong key.
    """
    values = _object(body, POST_KEYS)
    queries = values.pop("queries", None)
    if not isinstance(queries, list) or not 1 <= len(queries) <= MAX_QUERIES:
        raise UsageError(f"queries must be a list of 1 to {MAX_QUERIES} questions")
    return _search([_query(query, f"queries[{i}]") for i, query in enumerate(queries)], values, modes)


def _search(queries: list[Query], values: dict[str, Any], modes: Sequence[str]) -> SearchRequest:
    k, using = values.get("k", DEFAULT_K), values.get("using", modes[0])
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise UsageError(f"k must be a whole number from 1 to {MAX_K}, got {_shown(k)}")
    if using not in modes:
        raise UsageError(f"using must be one of {', '.join(modes)} in this collection, got {_shown(using)}")
    for name in ("neutral", "explain"):
        if not isinstance(values.get(name, False), bool):
            raise UsageError(f"{name} must be true or false, got {_shown(values[name])}")
    within = _strings(values["within"], "within") if "within" in values else None
    codes = _strings(values.get("languages", []), "languages")
    languages = tuple(dict.fromkeys(language(code, "languages") for code in codes))
    switches = {name: values[name] for name in ("neutral", "explain") if name in values}
    return SearchRequest(tuple(queries), using, k, languages, within=within, **switches)


def _query(value: object, where: str) -> Query:
    fields = {"text": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("text"), str):
        raise UsageError(f'{where} must be a string or {{"text": ..., "lang": ...}}, got {_shown(value)}')
    refuse_unknown(fields, ("text", "lang"), what=f"key of {where}")
    text, lang = fields["text"], fields.get("lang", "")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise UsageError(f"{where} has {len(text)} characters, at most {MAX_QUERY_CHARACTERS} are allowed")
    if "\0" in text:
        raise UsageError(f"{where} has a NUL character: send text")
    return Query(text, language(lang, f"lang of {where}") if lang != "" else "")


def language(code: object, where: str) -> str:
    """Return the normalised code of a language.

    Raises:
        UsageError: what is no language code.
    """
    # 35 characters hold every well-formed tag (RFC 5646, 4.4.1).
    known = normalize_language(code) if isinstance(code, str) and len(code) <= 35 and "\0" not in code else ""
    if not known:
        raise UsageError(f"{where}: {_shown(code)} is no language code: write ISO 639 codes such as de, sw, zh")
    return known


def documents_from_json(body: object) -> list[Document]:
    """Read ``{"documents": [...]}``.

    Raises:
        UsageError: another shape.
        RecordError: a record that is no document, with its position.
    """
    records = _object(body, ("documents",)).get("documents")
    if not isinstance(records, list):
        raise UsageError('documents must be a list: {"documents": [{"id": ..., "text": ...}]}')
    return _documents((f"documents[{i}]", record) for i, record in enumerate(records))


def documents_from_lines(body: bytes) -> list[Document]:
    """Read NDJSON: one document a line, empty lines aside.

    Raises:
        RecordError: a line that is no JSON or no document, with its position.
    """
    records: list[tuple[str, object]] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            try:
                records.append((f"line {number}", parse_json(line)))
            except InputError as error:
                raise RecordError(len(records), f"line {number}: {error}") from None
    return _documents(records)


def _documents(records: Iterable[tuple[str, object]]) -> list[Document]:
    documents: list[Document] = []
    places: dict[str, str] = {}
    for position, (place, record) in enumerate(records):
        try:
            if not isinstance(record, dict):
                raise InputError(f"a document must be an object, got {_shown(record)}")
            document = Document.from_json(record)
        except InputError as error:
            raise RecordError(position, f"{place}: {error}") from None
        if document.id in places:
            message = f"{place}: the id {_shown(document.id)} is also that of {places[document.id]}: send it once"
            raise RecordError(position, message)
        places[document.id] = place
        documents.append(document)
    return documents


def parse_json(body: bytes) -> object:
    """Read JSON as RFC 8259 means it: UTF-8, finite numbers, text without lone surrogates or NUL, bounded depth.

    Raises:
        InputError: anything else.
    """
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"the text is not UTF-8 (byte {error.start}): send JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"no JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise InputError(f"the JSON is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # Python refuses integers of more than 4300 digits
        raise InputError("the JSON has a number with too many digits") from None
    _check(value)
    return value


def _check(value: object) -> None:
    level, depth = [value], 0
    while level:
        for item in level:
            if depth == MAX_DEPTH and isinstance(item, dict | list):
                raise InputError(f"the JSON is nested deeper than {MAX_DEPTH} levels")
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise InputError("the JSON has a number that is not finite: NaN and infinity are not allowed")
        level, depth = [child for item in level for child in _children(item)], depth + 1


def _check_text(text: str) -> None:
    if "\0" in text:
        raise InputError("the JSON has a NUL character: send text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise InputError(f"the JSON has a lone surrogate, {half}: send whole characters") from None


def _children(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    return item if isinstance(item, list) else ()


def refuse_unknown(given: Iterable[str], known: Sequence[str], *, what: str) -> None:
    """Refuse names that nobody reads: a typing error must not look like an answer.

    Raises:
        UsageError: names the first unknown one and all that are valid.
    """
    for name in given:
        if name not in known:
            valid = f"valid: {', '.join(known)}" if known else "this endpoint takes none"
            raise UsageError(f"unknown {what} {_shown(name)}; {valid}")


def _object(body: object, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise UsageError(f"the body must be a JSON object with {', '.join(known)}, got {_shown(body)}")
    refuse_unknown(body, known, what="key")
    return dict(body)


def _strings(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{where} must be a list of strings, got {_shown(value)}")
    return tuple(value)


def _number(text: str) -> int | str:
    # int() would also take "1_0", "٣" and " 5 "; what is no plain number stays text and is refused as such.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else text


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
