import json
import logging

import pytest
from flask import Flask, abort, redirect

from data.errors import CollectionError, EncoderError, InputError, NotFoundError, PolyseekError, UsageError
from server import problems
from server.schema import RecordError


def client_that_raises(error):
    app = Flask("test")
    problems.install(app)

    @app.get("/fail")
    def fail():
        raise error

    return app.test_client()


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (UsageError("k is wrong"), 400, "Bad Request"),
        (InputError("line 3 is wrong"), 400, "Bad Request"),
        (NotFoundError("no such id"), 404, "Not Found"),
        (CollectionError("it is locked"), 409, "Conflict"),
    ],
)
def test_our_errors_have_a_status_and_say_what_is_wrong(error, status, title):
    response = client_that_raises(error).get("/fail")
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    assert json.loads(response.data) == {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": str(error),
        "instance": "/fail",
    }


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), EncoderError("secret"), PolyseekError("secret"), OSError("secret")]
)
def test_what_fails_inside_is_logged_and_not_told(error, caplog):
    with caplog.at_level(logging.ERROR):
        response = client_that_raises(error).get("/fail")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert "secret" in caplog.text


def test_the_position_of_a_record_is_told():
    response = client_that_raises(RecordError(7, "documents[7]: no text")).get("/fail")
    assert json.loads(response.data)["position"] == 7


def test_instance_is_a_uri():
    app = Flask("test")
    problems.install(app)
    body = json.loads(app.test_client().get("/wo ist/海?x=1").data)
    assert body["instance"] == "/wo%20ist/%E6%B5%B7"


def test_a_redirect_is_no_problem():
    app = Flask("test")
    problems.install(app)
    app.add_url_rule("/here", view_func=lambda: abort(redirect("/there")))
    assert app.test_client().get("/here").status_code == 302
