"""Errors as the world reads them: RFC 9457 ``application/problem+json``, one shape for every failure.

Which exception means which status stands in one table. What went wrong inside is logged and never told: only messages
that were written for the caller leave the process.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from urllib.parse import quote

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from data.errors import CollectionError, InputError, NotFoundError, PolyseekError, UsageError

MEDIA_TYPE = "application/problem+json"
_STATUS: dict[type[PolyseekError], HTTPStatus] = {
    UsageError: HTTPStatus.BAD_REQUEST,
    InputError: HTTPStatus.BAD_REQUEST,
    NotFoundError: HTTPStatus.NOT_FOUND,
    CollectionError: HTTPStatus.CONFLICT,
}


def problem_text(status: int, detail: str, *, instance: str, position: int | None = None) -> str:
    """Return a problem details object. ``type`` is ``about:blank``: the status says all there is to say.

    Args:
        status: the HTTP status, repeated in the object.
        detail: one line for the caller: what was wrong, where, what to do.
        instance: the path that was asked for, percent-encoded.
        position: which record of a batch was refused, from 0; an extension member.
    """
    members: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    members |= {"detail": " ".join(detail.splitlines()), "instance": instance}  # a path or an id may hold line ends
    if position is not None:
        members["position"] = position
    return json.dumps(members, ensure_ascii=False)


def problem(status: int, detail: str, *, allow: str = "", position: int | None = None) -> Response:
    """Return the problem as a response to the request at hand; ``allow`` becomes the header of a 405."""
    text = problem_text(status, detail, instance=quote(request.path), position=position)
    headers = {"Allow": allow} if allow else {}
    return Response(text, status, headers, mimetype=MEDIA_TYPE)


def install(app: Flask) -> None:
    """Make every failure of ``app``, also of its routing, a problem."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(PolyseekError, _polyseek)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error  # a redirect or a finished response is no failure
    if isinstance(error, NotFound):
        return problem(404, f"there is nothing at {request.path}: GET /docs lists what there is")
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return problem(405, f"{request.method} is not allowed at {request.path}: use {allowed}", allow=allowed)
    if isinstance(error, RequestEntityTooLarge):
        most = (request.max_content_length or 0) / 2**20
        return problem(413, f"the body is larger than {most:g} MiB: send the documents in several batches")
    return problem(error.code, error.description or HTTPStatus(error.code).phrase)


def _polyseek(error: PolyseekError) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        return _unexpected(error)
    return problem(status, str(error), position=getattr(error, "position", None))


def _unexpected(error: Exception) -> Response:
    current_app.logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, "the server failed and the request was not carried out: the server's log has the reason")
