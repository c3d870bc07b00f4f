"""The description of the HTTP interface as OpenAPI 3.1, with the limits taken from where they are enforced."""

from __future__ import annotations

from typing import Any

from server import metrics, problems
from server.schema import DEFAULT_K, MAX_K, MAX_QUERIES, MAX_QUERY_CHARACTERS

# The version of this interface, raised when it changes; the package has its own.
INTERFACE = "1.0"
Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_STRINGS: Schema = {"type": "array", "items": _STRING}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}

_NOTES = {
    "k": "How many hits at most.",
    "using": "The way to look. /info lists those that this collection can do; the first is the default.",
    "neutral": "Rank all languages alike: remove what a language adds to every score. Changes nothing for bm25.",
    "explain": "Tell the rank and the score of every hit in every view; no rank where it is deep.",
    "languages": "Only documents in these languages (ISO 639 codes, any form); without it, all.",
    "within": "Only these documents. An empty list allows none; ids that do not exist are passed over.",
    "id": "The id of a document, percent-encoded. It may contain slashes.",
}
_PROBLEMS = {
    "400": "The request is wrong; the detail says where.",
    "404": "There is no such document.",
    "409": "The collection is damaged, locked, or made by another encoder.",
    "413": "The body is too large.",
    "415": "The body is of a type that is not read here.",
    "500": "The server failed; its log has the reason.",
    "503": "The engine cannot answer.",
}


def specification(title: str, modes: tuple[str, ...]) -> Schema:
    """Return the OpenAPI document of an application called ``title`` over an engine with these modes."""
    paths = _search_paths(modes) | _document_paths() | _state_paths() | _page_paths()
    about = "Find passages in any language for a question in any language. Every error is RFC 9457 problem details."
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": INTERFACE, "description": about},
        "paths": paths,
        "components": {"schemas": _schemas(modes)},
    }


def _search_paths(modes: tuple[str, ...]) -> Schema:
    options = _options(modes)
    parameters = [_parameter("q", {"type": "string", "maxLength": MAX_QUERY_CHARACTERS}, "The question.", True)]
    parameters += [_parameter(name, schema, _NOTES[name]) for name, schema in options.items() if name != "languages"]
    parameters += [_parameter("languages", _STRING | {"examples": ["de,sw"]}, _NOTES["languages"] + " With commas.")]
    batch = {"type": "object", "required": ["results"], "properties": {"results": _list_of("Answer")}}
    one, many = {"200": _json("The hits, best first.", _ref("Answer"))}, {"200": _json("Answers in order.", batch)}
    get = _operation("search", "Search for one question", one, "400")
    post = _operation("searchMany", "Search for many questions", many, "400 413 415")
    return {
        "/search": {
            "get": {**get, "parameters": parameters},
            "post": {**post, "requestBody": _body({"application/json": _ref("Search")})},
        }
    }


def _document_paths() -> Schema:
    lines = {"type": "string", "description": "One document a line, each a JSON object."}
    bodies = {"application/json": _ref("Batch"), "application/x-ndjson": lines}
    add = _operation(
        "addDocuments",
        "Add or replace documents, all or none",
        {"200": _json("What was done. A search sees all of it from now on.", _ref("Added"))},
        "400 409 413 415",
    )
    one = {"200": _json("The document.", _ref("Document"))}
    identity = _parameter("id", _STRING, _NOTES["id"], True, where="path")
    return {
        "/documents": {"post": {**add, "requestBody": _body(bodies)}},
        "/documents/{id}": {
            "parameters": [identity],
            "get": _operation("getDocument", "Read a document", one, "404"),
            "delete": _operation(
                "deleteDocument", "Delete a document", {"204": {"description": "It is gone."}}, "404 409"
            ),
        },
    }


def _state_paths() -> Schema:
    status = {"type": "object", "required": ["status"], "properties": {"status": _STRING}}
    exposition = {"description": "The text format 0.0.4.", "content": {metrics.MEDIA_TYPE: {"schema": _STRING}}}
    info = {"200": _json("The collection and what can be asked of it.", _ref("Info"))}
    return {
        "/health": {"get": _operation("health", "Is the process up?", {"200": _json("It is.", status)})},
        "/ready": {"get": _operation("ready", "Can a search be answered?", {"200": _json("It can.", status)}, "503")},
        "/info": {"get": _operation("info", "What is being searched", info)},
        "/metrics": {"get": _operation("metrics", "Counters for Prometheus", {"200": exposition})},
    }


def _page_paths() -> Schema:
    page = {"description": "A page.", "content": {"text/html": {"schema": _STRING}}}
    described = {"200": _json("An OpenAPI 3.1 document.", _ANY_OBJECT)}
    return {
        "/": {"get": _operation("page", "The search page", {"200": page})},
        "/docs": {"get": _operation("docs", "This description as a page", {"200": page})},
        "/openapi.json": {"get": _operation("openapi", "This description", described)},
    }


def _schemas(modes: tuple[str, ...]) -> Schema:
    texts = {name: _STRING for name in ("id", "title", "text", "lang")}
    document = texts | {"metadata": _ANY_OBJECT}
    asked = _object({"text": _STRING, "lang": _STRING}, "text")
    queries = {"type": "array", "minItems": 1, "maxItems": MAX_QUERIES, "items": {"anyOf": [_STRING, asked]}}
    within = {**_STRINGS, "description": _NOTES["within"]}
    options = {name: {**schema, "description": _NOTES[name]} for name, schema in _options(modes).items()}
    problem: Schema = {
        "type": _STRING,
        "title": _STRING,
        "status": {"type": "integer"},
        "detail": _STRING,
        "instance": _STRING,
    }
    position = {**_COUNT, "description": "Which record of a batch was refused, from 0."}
    score = {"type": "number", "description": "Higher is better; of hybrid, deviations above the mean of candidates."}
    hit = {"rank": {"type": "integer", "minimum": 1}, "id": _STRING, "score": score, **document}
    given = {"type": "object", "required": ["id", "text"], "properties": document, "additionalProperties": True}
    return {
        "Search": _object({"queries": queries, **options, "within": within}, "queries"),
        "Answer": _answer(),
        "Hit": _object(hit, *hit),
        "Document": _object(document, *document),
        "NewDocument": {**given, "description": "`_id` is read as `id`; keys of other names become metadata."},
        "Batch": _object({"documents": _list_of("NewDocument")}, "documents"),
        "Added": _object({name: _COUNT for name in ("added", "updated", "unchanged")}, "added", "updated", "unchanged"),
        "Info": _info(),
        "Problem": _object({**problem, "position": position}, *problem),
    }


def _answer() -> Schema:
    took = {"type": "number", "minimum": 0, "description": "Milliseconds; for a batch, those of the whole batch."}
    cut = {
        "type": "boolean",
        "description": "Whether a part of the question was not read; long ones are read in windows.",
    }
    language = {**_STRING, "description": "The language that was given or identified; empty if neither could be."}
    told = {"query": _STRING, "language": language, "using": _STRING, "took_ms": took}
    told |= {"hits": _list_of("Hit"), "truncated": cut}
    return _object({**told, "explain": {**_ANY_OBJECT, "description": "Only where it was asked for."}}, *told)


def _info() -> Schema:
    languages = {"type": "object", "additionalProperties": _COUNT, "description": "Documents in each language."}
    known = {"name": _STRING, "documents": _COUNT, "languages": languages, "views": _STRINGS, "modes": _STRINGS}
    return {"type": "object", "required": list(known), "properties": known, "additionalProperties": True}


def _options(modes: tuple[str, ...]) -> dict[str, Schema]:
    return {
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": DEFAULT_K},
        "using": {"type": "string", "enum": list(modes), "default": modes[0]},
        "languages": _STRINGS,
        "neutral": {"type": "boolean", "default": True},
        "explain": {"type": "boolean", "default": False},
    }


def _operation(name: str, summary: str, responses: Schema, failures: str = "") -> Schema:
    content = {problems.MEDIA_TYPE: {"schema": _ref("Problem")}}
    failed = {code: {"description": _PROBLEMS[code], "content": content} for code in (*failures.split(), "500")}
    return {"operationId": name, "summary": summary, "responses": responses | failed}


def _parameter(name: str, schema: Schema, note: str, required: bool = False, *, where: str = "query") -> Schema:
    return {"name": name, "in": where, "required": required, "description": note, "schema": schema}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _body(schemas: dict[str, Schema]) -> Schema:
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in schemas.items()}}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
