"""The HTTP interface: an application over one engine. Parsing is in ``schema``, failures are in ``problems``.

Nothing is global: two applications in one process know nothing of each other.
"""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, Response, render_template, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.routing import PathConverter

from data.errors import NotFoundError, UsageError
from data.records import Query
from retriever.engine import Engine
from server import metrics, openapi, problems, schema
from server.answers import answer, document_json

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_JSON, _LINES = "application/json", "application/x-ndjson"


def create_app(engine: Engine, *, max_body_mb: int = 16, title: str = "Polyseek") -> Flask:
    """Return a WSGI application that answers for ``engine``.

    Args:
        engine: what searches; the application does not close it.
        max_body_mb: a larger body is refused with status 413.
        title: the name that the pages and the description carry.
    """
    app = Flask("server")
    app.config["MAX_CONTENT_LENGTH"] = max_body_mb * 2**20
    app.json = _Json(app)
    app.url_map.merge_slashes = False  # "a//b" is an id of its own
    app.url_map.converters["id"] = _IdConverter
    counters = metrics.Metrics()
    problems.install(app)
    _add_search(app, engine, counters)
    _add_documents(app, engine)
    _add_state(app, engine, counters)
    _add_pages(app, engine, title)

    @app.after_request
    def finish(response: Response) -> Response:
        counters.count(request.endpoint or "none", response.status_code)
        response.headers.update(_HEADERS)
        return response

    return app


def _add_search(app: Flask, engine: Engine, counters: metrics.Metrics) -> None:
    def timed(asked: schema.SearchRequest) -> list[dict[str, Any]]:
        start = time.perf_counter()
        answers = answer(engine, asked)
        seconds = time.perf_counter() - start
        counters.observe(seconds)
        return [{**told, "took_ms": round(1000 * seconds, 3)} for told in answers]

    @app.get("/search")
    def search() -> dict[str, Any]:
        return timed(schema.search_from_arguments(_arguments(), engine.modes))[0]

    @app.post("/search")
    def search_many() -> dict[str, Any]:
        body = schema.parse_json(_body(_JSON))
        return {"results": timed(schema.search_from_json(body, engine.modes))}


def _add_documents(app: Flask, engine: Engine) -> None:
    @app.post("/documents")
    def add_documents() -> dict[str, int]:
        body = _body(_JSON, _LINES)
        if request.mimetype == _LINES:
            documents = schema.documents_from_lines(body)
        else:
            documents = schema.documents_from_json(schema.parse_json(body))
        report = engine.add(documents)
        return {"added": report.added, "updated": report.updated, "unchanged": report.unchanged}

    @app.get("/documents/<id:identity>")
    def get_document(identity: str) -> dict[str, Any]:
        snapshot = engine.snapshot
        row = snapshot.row(identity)
        if row is None:
            raise NotFoundError(f"there is no document with the id {identity}")
        return document_json(snapshot.document(row))

    @app.delete("/documents/<id:identity>")
    def delete_document(identity: str) -> Response:
        if not engine.delete([identity]):
            raise NotFoundError(f"there is no document with the id {identity}")
        return Response(status=204)


def _add_state(app: Flask, engine: Engine, counters: metrics.Metrics) -> None:
    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "up"}

    @app.get("/ready")
    def ready() -> dict[str, str] | Response:
        try:
            engine.retriever(engine.modes[0]).search([Query("ready?", "en")], 1)
            engine.info()  # looks at the files: without them it answers from memory, but takes nothing new
        except Exception:  # whatever it is, the engine cannot answer
            app.logger.exception("the engine cannot answer")
            return problems.problem(503, "the engine cannot answer: the server's log has the reason")
        return {"status": "ready"}

    @app.get("/info")
    def info() -> dict[str, Any]:
        return engine.info()

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(counters.render(len(engine.snapshot)), content_type=metrics.MEDIA_TYPE)


def _add_pages(app: Flask, engine: Engine, title: str) -> None:
    @app.get("/")
    def page() -> str:
        return render_template("index.html", title=title)

    @app.get("/docs")
    def docs() -> str:
        return render_template("docs.html", title=title)

    @app.get("/openapi.json")
    def description() -> dict[str, Any]:
        return openapi.specification(title, engine.modes)


def _body(*accepted: str) -> bytes:
    """Return the body of the request if it is of an accepted type and all that the request says."""
    if request.mimetype not in accepted or request.content_encoding:
        raise UnsupportedMediaType(f"send {' or '.join(accepted)}, not compressed, and say so in Content-Type")
    schema.refuse_unknown(_arguments(), (), what="query parameter")
    return request.get_data()


def _arguments() -> MultiDict[str, str]:
    try:
        return request.args
    except UnicodeDecodeError:
        raise UsageError("the query string is not UTF-8: percent-encode it") from None


class _IdConverter(PathConverter):
    """A document's id: any characters, slashes and line ends included, also at its start."""

    regex = r"(?s:.+)"
    part_isolating = False


class _Json(DefaultJSONProvider):
    """JSON in UTF-8 as it is written, in the order in which it was made; a NaN would be an error."""

    ensure_ascii = False
    sort_keys = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:  # noqa: ANN401
        return super().dumps(obj, allow_nan=False, **kwargs)
