"""Documents, queries and language codes: what is refused, what is normalised, what survives a round trip."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.records import Document, check_string, normalize_language

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | UNICODE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(UNICODE, inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.builds(
    Document,
    id=UNICODE.filter(bool),
    text=UNICODE,
    title=UNICODE,
    lang=st.sampled_from(["", "en", "zh-CN", "swh", "klingonish", "nb"]),
    metadata=st.dictionaries(UNICODE, JSON_VALUES, max_size=3),
)


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("zh-CN", "zh"),
        ("zho_Hans", "zh"),
        ("cmn", "zh"),
        ("zh-Hant-TW", "zh"),
        ("yue", "yue"),
        ("pt-BR", "pt"),
        ("deu", "de"),
        ("ger", "de"),
        ("de-1996", "de"),
        ("EN", "en"),
        (" en ", "en"),
        ("en_US", "en"),
        ("swh", "sw"),
        ("arb", "ar"),
        ("pes", "fa"),
        ("iw", "he"),
        ("in", "id"),
        ("zsm", "ms"),
        ("ekk", "et"),
        ("nb", "no"),
        ("nob", "no"),
        ("nn", "nn"),
        ("hr", "hr"),
        ("sr-Latn", "sr"),
    ],
)
def test_codes_of_one_language_meet(code, language):
    assert normalize_language(code) == language


@pytest.mark.parametrize(
    "code",
    [
        "",
        " ",
        "und",
        "mul",
        "mis",
        "zxx",
        "english",
        "Deutsch",
        "中文",
        "xx",
        "x-twain",
        "e",
        "a b",
        "\ud800",
        "-",
        "12",
    ],
)
def test_what_names_no_language_is_unknown(code):
    assert normalize_language(code) == ""


@given(st.text(max_size=12) | st.from_regex(r"[a-z]{2,3}(-[A-Za-z]{2,4})?", fullmatch=True))
def test_normalising_twice_changes_nothing(code):
    once = normalize_language(code)
    assert normalize_language(once) == once


def test_content_is_the_title_and_the_text():
    assert Document("1", "text", title="Title").content() == "Title text"
    assert Document("1", "text").content() == "text"
    assert Document("1", "", title="Title").content() == "Title"
    assert Document("1", "").content() == ""


def test_a_document_normalises_its_language():
    assert Document("1", "你好", lang="zho_Hans").lang == "zh"
    assert Document("1", "你好", lang="zho_Hans") == Document("1", "你好", lang="zh")
    assert Document("1", "?", lang="und").lang == ""


def test_a_record_of_every_known_field():
    record = {"_id": "1", "text": "Text", "title": "Title", "lang": "de-AT", "year": 1999, "metadata": {"url": "u"}}
    assert Document.from_json(record) == Document("1", "Text", "Title", "de", {"year": 1999, "url": "u"})
    assert record["_id"] == "1", "the caller's object is left alone"


def test_metadata_of_the_object_wins_over_a_key_beside_it():
    record = {"_id": "1", "text": "", "year": 1999, "metadata": {"year": 2000}}
    assert Document.from_json(record).metadata == {"year": 2000}


@pytest.mark.parametrize(
    ("record", "identity", "metadata"),
    [
        ({"_id": "a", "text": ""}, "a", {}),
        ({"id": "b", "text": ""}, "b", {}),
        ({"_id": "a", "id": "b", "text": ""}, "a", {"id": "b"}),
        ({"_id": None, "id": "b", "text": ""}, "b", {}),
        ({"_id": 17, "text": ""}, "17", {}),
        ({"_id": 0, "text": ""}, "0", {}),
    ],
)
def test_the_id_and_what_becomes_of_a_second_one(record, identity, metadata):
    document = Document.from_json(record)
    assert (document.id, document.metadata) == (identity, metadata)


def test_null_is_an_absent_field():
    record = {"_id": "1", "text": "t", "title": None, "lang": None, "metadata": None}
    assert Document.from_json(record) == Document("1", "t")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "t"}, "no id"),
        ({"_id": None, "text": "t"}, "no id"),
        ({"_id": "", "text": "t"}, "empty id"),
        ({"_id": True, "text": "t"}, "id must be a string, got bool"),
        ({"_id": 1.5, "text": "t"}, "id must be a string, got float"),
        ({"_id": ["1"], "text": "t"}, "id must be a string, got list"),
        ({"_id": "1"}, "document '1' has no text"),
        ({"_id": "1", "text": None}, "document '1': text must be a string, got NoneType"),
        ({"_id": "1", "text": 5}, "document '1': text must be a string, got int"),
        ({"_id": "1", "text": "t", "title": 0}, "document '1': title must be a string, got int"),
        ({"_id": "1", "text": "t", "title": []}, "document '1': title must be a string, got list"),
        ({"_id": "1", "text": "t", "lang": False}, "document '1': lang must be a string, got bool"),
        ({"_id": "1", "text": "t", "metadata": []}, "document '1': metadata must be an object, got list"),
        ({"_id": "1", "text": "t", "metadata": "x"}, "document '1': metadata must be an object, got str"),
        ({"_id": "1", "text": "t", "score": float("nan")}, "document '1': metadata cannot be written as JSON"),
        ({"_id": "1", "text": "t", "when": {1, 2}}, "document '1': metadata cannot be written as JSON"),
        (["_id", "text"], "must be a JSON object, got list"),
        ("text", "must be a JSON object, got str"),
    ],
)
def test_a_wrong_record_is_refused_with_its_id_and_reason(record, message):
    with pytest.raises(InputError, match=message) as caught:
        Document.from_json(record)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"_id": "\ud800", "text": "t"},
        {"_id": "1", "text": "a\udfffb"},
        {"_id": "1", "text": "t", "title": "\ud83d"},
        {"_id": "1", "text": "t", "nested": {"list": ["\ud800"]}},
        {"_id": "1", "text": "t", "\ud800": 1},
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_is(record):
    with pytest.raises(InputError, match="lone surrogate") as caught:
        Document.from_json(record)
    str(caught.value).encode("utf-8")


def test_check_string_returns_what_utf8_can_hold():
    assert check_string("ภาษาไทย 😀 é", "text") == "ภาษาไทย 😀 é"
    with pytest.raises(InputError, match=r"^the text must be a string, got bytes$"):
        check_string(b"t", "the text")


@given(DOCUMENTS)
def test_a_document_survives_json(document):
    written = json.dumps(document.to_json(), ensure_ascii=False).encode("utf-8")
    assert Document.from_json(json.loads(written)) == document


def test_metadata_named_like_fields_stay_metadata():
    document = Document("1", "t", metadata={"_id": "x", "text": "y", "lang": "z", "metadata": {"a": 1}})
    assert Document.from_json(document.to_json()) == document
