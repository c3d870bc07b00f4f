"""Nothing that comes in makes the server fail: every answer is below 500, and every error is a problem."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import Document
from server.app import create_app

NAMES = st.sampled_from(["q", "k", "using", "languages", "neutral", "explain", "queries", "within", "documents", "id"])
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
# A loaded machine is no failure.
UNHURRIED = settings(deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXTS, inner, max_size=5),
    max_leaves=12,
)
RECORDS = st.fixed_dictionaries(
    {"id": TEXTS | JSON, "text": TEXTS | JSON}, optional={"lang": TEXTS, "title": JSON, "metadata": JSON, "x": JSON}
)


@pytest.fixture(scope="module")
def still(make_engine):
    return create_app(make_engine()).test_client()


def assert_clean(response):
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.mimetype == "application/problem+json"
    json.loads(response.data, parse_constant=pytest.fail)


@given(query=st.lists(st.tuples(NAMES | st.text(), st.text() | st.sampled_from(["1", "true", "bm25", "de"]))))
@UNHURRIED
def test_any_query_string(still, query):
    assert_clean(still.get("/search", query_string=query))


@given(query=st.binary())
@UNHURRIED
def test_any_bytes_as_query_string(still, query):
    assert_clean(still.get("/search", environ_overrides={"QUERY_STRING": query.decode("latin-1")}))


@given(text=st.text(max_size=200))
@UNHURRIED
def test_any_question(still, text):
    response = still.post("/search", json={"queries": [text]})
    assert_clean(response)
    assert response.status_code == (400 if "\0" in text else 200)


@given(body=st.dictionaries(NAMES, JSON) | JSON)
@UNHURRIED
def test_any_json(still, body):
    assert_clean(still.post("/search", data=json.dumps(body), content_type="application/json"))


@given(body=st.binary(), path=st.sampled_from(["/search", "/documents"]), lines=st.booleans())
@UNHURRIED
def test_any_bytes(still, body, path, lines):
    kind = "application/x-ndjson" if lines else "application/json"
    assert_clean(still.post(path, data=body, content_type=kind))


@given(records=st.lists(RECORDS, max_size=3))
@settings(UNHURRIED, max_examples=40)
def test_any_records(still, records):
    response = still.post("/documents", data=json.dumps({"documents": records}), content_type="application/json")
    assert_clean(response)
    if response.status_code == 200:
        assert sum(response.json.values()) == len(records)


@given(identity=st.text(min_size=1))
@UNHURRIED
def test_any_id(still, identity):
    response = still.get(f"/documents/{identity}")
    if response.status_code == 200:
        assert_clean(response)
    else:
        assert response.status_code < 500


def test_bombs(still):
    for body in (b"[" * 10**6, b'{"a":' * 10**5, b'{"queries": [' + b'"a",' * 10**5 + b'"a"]}', b"9" * 10**6):
        for kind in ("application/json", "application/x-ndjson"):
            assert_clean(still.post("/documents", data=body, content_type=kind))
        assert_clean(still.post("/search", data=body, content_type="application/json"))


def test_every_answer_is_of_one_generation_while_documents_change(make_engine):
    """One thread replaces all documents at once, eight search: no answer may mix two generations."""
    size, generations = 12, 5

    def batch(generation):
        return [{"id": f"d{i}", "text": f"beacon {i}", "generation": generation} for i in range(size)]

    engine = make_engine([Document.from_json(record) for record in batch(0)])
    app, done = create_app(engine), threading.Event()

    def write():
        client = app.test_client()
        for generation in range(1, generations + 1):
            assert client.post("/documents", json={"documents": batch(generation)}).json["updated"] == size
        done.set()

    def read():
        client, seen = app.test_client(), []
        while not done.is_set() or not seen:
            hits = client.get(f"/search?q=beacon&k={size}").json["hits"]
            assert len(hits) == size
            (generation,) = {hit["metadata"]["generation"] for hit in hits}
            seen.append(generation)
        assert seen == sorted(seen)

    with ThreadPoolExecutor(9) as pool:
        work = [pool.submit(write), *(pool.submit(read) for _ in range(8))]
        for one in work:
            one.result()


def test_no_search_fails_while_documents_come_and_go(make_engine):
    app, done = create_app(make_engine()), threading.Event()

    def write():
        client = app.test_client()
        for _ in range(4):
            assert client.delete("/documents/en").status_code == 204
            assert client.post("/documents", json={"documents": [{"id": "en", "text": "coral"}]}).json["added"] == 1
        done.set()

    def read():
        client = app.test_client()
        while not done.is_set():
            hits = client.get("/search?q=coral&languages=en").json["hits"]
            assert len(hits) in (2, 3)

    with ThreadPoolExecutor(9) as pool:
        for one in [pool.submit(write), *(pool.submit(read) for _ in range(8))]:
            one.result()
