"""The description is true: every route is in it, and what it says of requests and answers is what happens."""

import pytest

from server.app import create_app
from server.openapi import specification


@pytest.fixture
def described(client):
    return client.get("/openapi.json").json


def routes(app):
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            path = rule.rule.replace("<id:identity>", "{id}")
            yield from ((path, method.lower()) for method in rule.methods - {"HEAD", "OPTIONS"})


def test_every_route_is_described_and_nothing_else(app, described):
    told = {(path, method) for path, one in described["paths"].items() for method in one if method != "parameters"}
    assert told == set(routes(app))


def test_it_is_openapi_3_1_with_unique_operations(described):
    assert described["openapi"] == "3.1.0"
    operations = [o for one in described["paths"].values() for name, o in one.items() if name != "parameters"]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] and "500" in operation["responses"] for operation in operations)


def test_every_reference_leads_somewhere(described):
    def references(value):
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from references(one)

    found = set(references(described))
    assert found == {f"#/components/schemas/{name}" for name in described["components"]["schemas"]} - {
        "#/components/schemas/none"
    }


def test_parameters_and_keys_are_those_that_are_read(client, described):
    parameters = described["paths"]["/search"]["get"]["parameters"]
    refused = client.get("/search?q=a&zzz=1")
    assert ", ".join(sorted(p["name"] for p in parameters)) == ", ".join(sorted(valid(refused)))
    refused = client.post("/search", json={"queries": ["a"], "zzz": 1})
    assert set(valid(refused)) == set(described["components"]["schemas"]["Search"]["properties"])


def valid(refused):
    return refused.get_json(force=True)["detail"].partition("valid: ")[2].split(", ")


def conforms(value, schema, described):
    """A small JSON Schema, enough for what the description uses."""
    if "$ref" in schema:
        return conforms(value, described["components"]["schemas"][schema["$ref"].rpartition("/")[2]], described)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool}
    if not isinstance(value, kinds[schema["type"]]):
        return False
    if schema["type"] == "array":
        return all(conforms(one, schema["items"], described) for one in value)
    if schema["type"] == "object":
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not set(schema.get("required", ())) <= value.keys() or (rest is False and value.keys() - properties.keys()):
            return False
        return all(conforms(one, properties[name], described) for name, one in value.items() if name in properties)
    return True


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("get", "/search?q=coral&explain=true", None, 200),
        ("get", "/search?k=0", None, 400),
        ("post", "/search", {"queries": ["coral", {"text": "Riff", "lang": "de"}], "within": ["en"]}, 200),
        ("post", "/search", {"queries": 1}, 400),
        ("post", "/documents", {"documents": [{"id": "n", "text": "t", "more": 1}]}, 200),
        ("post", "/documents", {"documents": [{"id": "n"}]}, 400),
        ("get", "/documents/{id}", None, 200),
        ("get", "/health", None, 200),
        ("get", "/ready", None, 200),
        ("get", "/info", None, 200),
    ],
)
def test_answers_are_as_described(client, described, method, path, body, status):
    response = client.open(path.replace("{id}", "en"), method=method.upper(), json=body)
    assert response.status_code == status
    answers = described["paths"][path.partition("?")[0]][method]["responses"]
    schema = answers[str(status)]["content"][response.mimetype]["schema"]
    assert conforms(response.get_json(force=True), schema, described)


def test_title_and_modes_are_those_of_the_application(small_engine):
    spec = create_app(small_engine, title="Mine").test_client().get("/openapi.json").json
    assert spec["info"]["title"] == "Mine"
    assert spec == specification("Mine", small_engine.modes)
