import json
import re
import shutil
from urllib.parse import quote

import pytest

from server.app import create_app

PROBLEM = {"type", "title", "status", "detail", "instance"}


def assert_problem(response, status, *words):
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    body = json.loads(response.data)
    assert body.keys() >= PROBLEM
    assert body["status"] == status
    assert "\n" not in body["detail"]
    for word in words:
        assert word in body["detail"]
    return body


def ids(response):
    assert response.status_code == 200, response.text
    return [hit["id"] for hit in response.json["hits"]]


def test_search_answers_with_ranks_texts_and_time(client):
    response = client.get(
        "/search", query_string={"q": "Why does a coral reef turn white when the sea is warm?", "k": 2}
    )
    body = response.json
    assert list(body) == ["query", "language", "using", "hits", "truncated", "took_ms"]
    assert (body["query"], body["language"], body["using"], body["truncated"]) == (
        "Why does a coral reef turn white when the sea is warm?",
        "en",
        "bm25",
        False,
    )
    assert body["took_ms"] > 0
    first = body["hits"][0]
    assert list(first) == ["rank", "id", "score", "title", "text", "lang", "metadata"]
    assert (first["rank"], first["id"], first["lang"], first["title"]) == (1, "en", "en", "Coral")
    assert first["metadata"] == {"year": 2021, "tags": ["sea"]}
    assert first["score"] > 0


def test_json_is_utf8_and_not_escaped(client):
    response = client.get("/search", query_string={"q": "海水"})
    assert "海水变暖时珊瑚会变白。".encode() in response.data
    assert rb"\u" not in response.data


def test_no_more_than_k_hits_best_first(client):
    everything = client.get("/search?q=coral+name&k=1000").json["hits"]
    assert [hit["rank"] for hit in everything] == list(range(1, len(everything) + 1))
    assert sorted((hit["score"] for hit in everything), reverse=True) == [hit["score"] for hit in everything]
    assert ids(client.get("/search?q=coral+name&k=1")) == [everything[0]["id"]]


@pytest.mark.parametrize("q", ["", "   ", "\u3000\n"])
def test_an_empty_question_has_no_hits(client, q):
    assert ids(client.get("/search", query_string={"q": q})) == []


def test_languages_filter_and_are_normalised(client):
    assert ids(client.get("/search?q=coral+Riff&languages=de-AT")) == ["de"]
    assert ids(client.get("/search?q=coral+珊瑚&languages=zho_Hans,sw")) == ["zh"]
    assert ids(client.get("/search?q=coral&languages=fr")) == []
    assert "en" in ids(client.get("/search?q=coral&languages="))


def test_neutral_and_explain_are_switches(client):
    plain = client.get("/search?q=coral&neutral=false").json
    assert "explain" not in plain
    explained = client.get("/search?q=coral&explain=true").json
    assert isinstance(explained["explain"], dict)
    assert [hit["id"] for hit in explained["hits"]] == [hit["id"] for hit in plain["hits"]]


def test_post_answers_many_questions_in_order(client):
    queries = ["Bahari joto", {"text": "Riff", "lang": "deu"}, "", {"text": "珊瑚"}]
    results = client.post("/search", json={"queries": queries, "k": 1}).json["results"]
    assert [[hit["id"] for hit in result["hits"]] for result in results] == [["sw"], ["de"], [], ["zh"]]
    assert results[1]["language"] == "de"
    assert [result["query"] for result in results] == ["Bahari joto", "Riff", "", "珊瑚"]


def test_post_and_get_agree(client):
    got = client.get("/search?q=coral&k=3&languages=en").json
    posted = client.post("/search", json={"queries": ["coral"], "k": 3, "languages": ["en"]}).json["results"][0]
    assert posted | {"took_ms": 0} == got | {"took_ms": 0}


def test_within_restricts_to_ids(client):
    def search(**more):
        return [
            hit["id"] for hit in client.post("/search", json={"queries": ["coral"], **more}).json["results"][0]["hits"]
        ]

    assert search(within=["a/b//c d?#%.txt", "nobody"]) == ["a/b//c d?#%.txt"]
    assert search(within=["nobody"]) == []
    assert search(within=[]) == []
    assert search(within=["en"], languages=["de"]) == []
    assert len(search()) == 3


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", ["q", "missing"]),
        ("k=3", ["q", "missing"]),
        ("q=a&limit=3", ['"limit"', "q, k, using, languages, neutral, explain"]),
        ("q=a&queries=b", ['"queries"']),
        ("q=a&q=b", ["q", "more than once"]),
        ("q=a&k=abc", ["k must be", "1 to 1000", '"abc"']),
        ("q=a&k=0", ["1 to 1000", "got 0"]),
        ("q=a&k=-1", ["1 to 1000"]),
        ("q=a&k=1001", ["1 to 1000", "1001"]),
        ("q=a&k=" + "9" * 5000, ["1 to 1000"]),
        ("q=a&k=1.5", ["1 to 1000"]),
        ("q=a&k=%D9%A3", ["1 to 1000"]),
        ("q=a&k=", ["1 to 1000"]),
        ("q=a&using=magic", ["bm25", '"magic"']),
        ("q=a&using=dense", ["bm25", '"dense"']),
        ("q=a&languages=de,klingonish", ['"klingonish"', "ISO 639"]),
        ("q=a&languages=" + "de" * 5000, ["ISO 639"]),
        ("q=a&neutral=yes", ["neutral", "true or false", '"yes"']),
        ("q=a&explain=1", ["explain", "true or false"]),
        ("q=a%00b", ["NUL"]),
        ("q=" + "a" * 10_001, ["10001", "10000"]),
    ],
)
def test_a_wrong_parameter_is_named(client, query, words):
    body = assert_problem(client.get(f"/search?{query}"), 400, *words)
    assert body["instance"] == "/search"
    assert len(body["detail"]) < 300


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], ["object"]),
        (None, ["object", "null"]),
        ({}, ["queries", "1 to 1000"]),
        ({"queries": "coral"}, ["queries"]),
        ({"queries": []}, ["1 to 1000"]),
        ({"queries": ["a"] * 1001}, ["1 to 1000"]),
        ({"queries": [1]}, ["queries[0]", "got 1"]),
        ({"queries": ["a", {"lang": "de"}]}, ["queries[1]"]),
        ({"queries": [{"text": "a", "language": "de"}]}, ['"language"', "queries[0]", "text, lang"]),
        ({"queries": [{"text": "a", "lang": "klingonish"}]}, ["queries[0]", '"klingonish"']),
        ({"queries": [{"text": "a", "lang": None}]}, ["lang", "null"]),
        ({"queries": ["a"], "q": "a"}, ['"q"', "queries, k, using, languages, neutral, explain, within"]),
        ({"queries": ["a"], "k": "3"}, ["k must be", '"3"']),
        ({"queries": ["a"], "k": True}, ["k must be"]),
        ({"queries": ["a"], "k": 10**400}, ["1 to 1000"]),
        ({"queries": ["a"], "k": 3.0}, ["k must be"]),
        ({"queries": ["a"], "using": ["bm25"]}, ["using", "a list"]),
        ({"queries": ["a"], "languages": "de"}, ["languages", "list of strings"]),
        ({"queries": ["a"], "languages": [3]}, ["languages"]),
        ({"queries": ["a"], "neutral": "true"}, ["neutral", "true or false"]),
        ({"queries": ["a"], "explain": None}, ["explain"]),
        ({"queries": ["a"], "within": "en"}, ["within", "list of strings"]),
        ({"queries": ["a"], "within": [{}]}, ["within"]),
    ],
)
def test_a_wrong_key_is_named(client, body, words):
    assert_problem(client.post("/search", data=json.dumps(body), content_type="application/json"), 400, *words)


def test_post_takes_nothing_from_the_query_string(client):
    assert_problem(client.post("/search?k=3", json={"queries": ["coral"]}), 400, '"k"')


def test_documents_are_added_replaced_and_searchable_at_once(client):
    batch = {
        "documents": [
            {"id": "new", "text": "a lagoon", "colour": "blue"},
            {"_id": "de", "text": "Lagune", "lang": "deu"},
        ]
    }
    assert client.post("/documents", json=batch).json == {"added": 1, "updated": 1, "unchanged": 0}
    assert client.post("/documents", json=batch).json == {"added": 0, "updated": 0, "unchanged": 2}
    assert ids(client.get("/search?q=lagoon")) == ["new"]
    assert ids(client.get("/search?q=Riff")) == []
    assert client.get("/documents/new").json["metadata"] == {"colour": "blue"}


def test_ndjson_is_read_line_by_line(client):
    lines = '\ufeff{"id": "n1", "text": "première ligne"}\r\n\n{"id": 2, "text": "第二行\u2028也是"}\n'
    response = client.post("/documents", data=lines.encode(), content_type="application/x-ndjson; charset=utf-8")
    assert response.json == {"added": 2, "updated": 0, "unchanged": 0}
    assert client.get("/documents/2").json["text"] == "第二行\u2028也是"


def test_nothing_to_add_is_fine(client):
    nothing = {"added": 0, "updated": 0, "unchanged": 0}
    assert client.post("/documents", json={"documents": []}).json == nothing
    assert client.post("/documents", data=b"", content_type="application/x-ndjson").json == nothing


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "no id"}, ["no id"]),
        ({"id": "x"}, ["no text"]),
        ({"id": "", "text": "a"}, ["empty id"]),
        ({"id": 1.5, "text": "a"}, ["id must be a string"]),
        ({"id": "x", "text": None}, ["text must be a string"]),
        ({"id": "x", "text": "a", "metadata": [1]}, ["metadata must be an object"]),
        ({"id": "x", "text": "a", "lang": ["de"]}, ["lang must be a string"]),
        ("text alone", ["object"]),
        ({"id": "ok", "text": "again"}, ['"ok"', "once"]),
    ],
)
def test_one_bad_record_refuses_the_batch_and_tells_its_position(client, small_engine, record, words):
    before = small_engine.snapshot
    good = {"id": "ok", "text": "fine"}
    body = assert_problem(client.post("/documents", json={"documents": [good, record]}), 400, "documents[1]", *words)
    assert body["position"] == 1
    lines = "\n".join(json.dumps(one) for one in (good, record)).encode()
    response = client.post("/documents", data=b"\n" + lines, content_type="application/x-ndjson")
    assert assert_problem(response, 400, "line 3", *words)["position"] == 1
    assert small_engine.snapshot is before
    assert_problem(client.get("/documents/ok"), 404)


def test_a_line_that_is_no_json_is_named(client):
    response = client.post("/documents", data=b'{"id": "a", "text": "b"}\n{"id": ', content_type="application/x-ndjson")
    assert assert_problem(response, 400, "line 2", "no JSON")["position"] == 1


@pytest.mark.parametrize("body", [{}, {"documents": {}}, {"documents": [], "more": 1}, [{"id": "a", "text": "b"}]])
def test_documents_of_another_shape_are_refused(client, body):
    assert_problem(client.post("/documents", json=body), 400, "documents")


@pytest.mark.parametrize("identity", ["en", "a/b//c d?#%.txt", "/ключ/🪸\n"])
def test_ids_may_hold_anything(client, identity):
    path = f"/documents/{quote(identity, safe='/')}"
    body = client.get(path).json
    assert body["id"] == identity
    assert body.keys() == {"id", "title", "text", "lang", "metadata"}
    assert client.get(f"/documents/{quote(identity, safe='')}").json == body
    assert client.delete(path).status_code == 204
    assert_problem(client.get(path), 404)
    assert_problem(client.delete(path), 404)


def test_a_document_that_was_read_can_be_sent_back(client):
    document = client.get("/documents/ar").json
    assert client.post("/documents", json={"documents": [document]}).json["unchanged"] == 1


def test_state(client):
    assert client.get("/health").json == {"status": "up"}
    assert client.get("/ready").json == {"status": "ready"}
    info = client.get("/info").json
    assert info["documents"] == 8
    assert info["languages"] == {"en": 3, "de": 1, "ar": 1, "zh": 1, "sw": 1, "th": 1}
    assert info["modes"] == ["bm25"]


def test_an_engine_whose_files_are_gone_is_not_ready(client, small_engine):
    shutil.rmtree(small_engine.folder)
    assert_problem(client.get("/ready"), 503, "cannot answer")
    assert client.get("/health").status_code == 200


def test_metrics_count(client):
    for path in ("/search?q=coral", "/search?q=coral", "/search?k=0", "/nowhere", "/documents/en"):
        client.get(path)
    response = client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.text.splitlines()
    assert 'polyseek_requests_total{endpoint="search",status="200"} 2' in lines
    assert 'polyseek_requests_total{endpoint="search",status="400"} 1' in lines
    assert 'polyseek_requests_total{endpoint="none",status="404"} 1' in lines
    assert "polyseek_search_seconds_count 2" in lines
    assert "polyseek_documents 8" in lines


def test_unknown_paths_and_methods_are_problems(client):
    assert_problem(client.get("/nowhere/é"), 404, "/nowhere/é", "/docs")
    response = client.put("/search")
    assert_problem(response, 405, "PUT", "GET, HEAD, OPTIONS, POST")
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert client.get("/documents").headers["Allow"] == "OPTIONS, POST"
    assert_problem(client.get("/documents/"), 404)


def test_head_and_options(client):
    head = client.head("/search?q=coral")
    assert (head.status_code, head.data) == (200, b"")
    assert client.head("/search?k=0").status_code == 400
    options = client.options("/documents/en")
    assert options.status_code == 200
    assert set(options.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "DELETE"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/search", {"Content-Type": "text/plain"}),
        ("/search", {"Content-Type": "application/x-ndjson"}),
        ("/search", {}),
        ("/documents", {"Content-Type": "application/x-www-form-urlencoded"}),
        ("/documents", {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    ],
)
def test_other_types_are_refused(client, path, headers):
    assert_problem(client.post(path, data=b"{}", headers=headers), 415, "application/json")


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_too_large_a_body_is_refused(make_engine, kind):
    client = create_app(make_engine(), max_body_mb=1).test_client()
    assert_problem(client.post("/documents", data=b" " * (2**20 + 1), content_type=kind), 413, "1 MiB")
    assert (
        client.post("/documents", data=b'{"documents": []}'.ljust(2**20), content_type="application/json").status_code
        == 200
    )


def test_every_answer_carries_the_security_headers(client):
    for path in ("/", "/static/app.js", "/search?q=a", "/nowhere", "/openapi.json"):
        with client.get(path) as response:
            headers = response.headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(small_engine, path):
    page = create_app(small_engine, title="<b>Mine").test_client().get(path)
    assert page.mimetype == "text/html"
    assert "&lt;b&gt;Mine" in page.text
    assert not re.search(r"https?://|//[a-z]|<script>|<style|\sstyle=|\son\w+=", page.text)
    client = create_app(small_engine).test_client()
    for linked in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        with client.get(f"/{linked}") as response:
            text = response.text
        assert text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|@import|url\(", text)


def test_applications_know_nothing_of_each_other(make_engine):
    first, second = (create_app(make_engine()).test_client() for _ in range(2))
    first.get("/search?q=coral")
    first.delete("/documents/en")
    assert "polyseek_search_seconds_count 0" in second.get("/metrics").text
    assert second.get("/documents/en").status_code == 200
