import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from data.errors import InputError, UsageError
from data.records import Query
from server.schema import MAX_DEPTH, SearchRequest, parse_json, search_from_arguments, search_from_json

MODES = ("hybrid", "dense", "bm25")


def test_defaults():
    assert search_from_arguments(MultiDict({"q": "a"}), MODES) == SearchRequest(
        (Query("a"),), "hybrid", 10, (), True, False
    )


def test_both_forms_say_the_same():
    arguments = MultiDict({"q": "a", "k": "7", "using": "dense", "languages": "sw, zh-CN,swh,", "neutral": "false"})
    body = {"queries": ["a"], "k": 7, "using": "dense", "languages": ["sw", "zh"], "neutral": False}
    expected = SearchRequest((Query("a"),), "dense", 7, ("sw", "zh"), neutral=False)
    assert search_from_arguments(arguments, MODES) == expected == search_from_json(body, MODES)


def test_a_body_is_not_changed_by_reading_it():
    body = {"queries": ["a"], "k": 7}
    search_from_json(body, MODES)
    assert body == {"queries": ["a"], "k": 7}


def test_no_within_is_everything_and_an_empty_one_is_nothing():
    assert search_from_json({"queries": ["a"]}, MODES).within is None
    assert search_from_json({"queries": ["a"], "within": []}, MODES).within == ()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "no JSON"),
        (b"{", "line 1, column 2"),
        (b'"\xff"', "UTF-8"),
        (b"NaN", "not finite"),
        (b'{"a": [-Infinity]}', "not finite"),
        (b"1e999", "not finite"),
        (b"9" * 5000, "digits"),
        (rb'"\ud83d"', r"\ud83d"),
        (rb'{"\udc00": 1}', r"\udc00"),
        (rb'["a\u0000"]', "NUL"),
        (b"[" * 100_000, "nested"),
        (b"[" * 900 + b"]" * 900, "nested"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested"),
    ],
)
def test_what_is_no_sound_json_is_refused_in_one_line(body, word):
    with pytest.raises(InputError) as raised:
        parse_json(body)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_depth_is_counted_to_the_level():
    nested = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(nested) == json.loads(nested)
    with pytest.raises(InputError, match="nested"):
        parse_json(b"[" + nested + b"]")


def test_whole_characters_beyond_the_first_plane_are_fine():
    assert parse_json(rb'"\ud83e\udeb8"') == "🪸"


# A loaded machine is no failure.
UNHURRIED = settings(deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
@UNHURRIED
def test_any_value_is_read_or_refused(value):
    try:
        assert parse_json(json.dumps(value).encode()) == value
    except InputError:
        assert "NaN" in json.dumps(value) or "Infinity" in json.dumps(value) or "\\u" in json.dumps(value)


@given(st.binary())
@UNHURRIED
def test_any_bytes_are_read_or_refused(body):
    try:
        parse_json(body)
    except InputError as error:
        assert str(error)


KEYS = st.sampled_from(["queries", "k", "using", "languages", "neutral", "explain", "within", "other"])


@given(st.dictionaries(KEYS, JSON))
@UNHURRIED
def test_any_body_is_a_search_or_a_usage_error(body):
    try:
        asked = search_from_json(body, MODES)
    except UsageError as error:
        assert len(str(error)) < 400
    else:
        assert 1 <= asked.k <= 1000
        assert asked.using in MODES
