"""The packaged demo collection: its size, its languages and scripts, and the rule behind its judgements."""

import json
import unicodedata
from collections import Counter, defaultdict

import pytest
import regex

from data.readers import BeirFolder, demo_folder, read_documents

SCRIPTS = {
    "ar": "Arabic",
    "de": "Latin",
    "el": "Greek",
    "en": "Latin",
    "es": "Latin",
    "fr": "Latin",
    "he": "Hebrew",
    "hi": "Devanagari",
    "id": "Latin",
    "ja": "Hiragana",
    "ko": "Hangul",
    "ru": "Cyrillic",
    "sw": "Latin",
    "ta": "Tamil",
    "th": "Thai",
    "tr": "Latin",
    "vi": "Latin",
    "zh": "Han",
}


@pytest.fixture(scope="module")
def demo():
    return BeirFolder.open(demo_folder())


@pytest.fixture(scope="module")
def documents(demo):
    return list(demo.documents())


def languages_of(passages):
    return {passage.split("-")[0] for passage in passages}


def test_it_is_large_and_diverse_enough_to_show_something(demo, documents):
    assert demo.name == "demo"
    assert len(documents) >= 400
    assert len({document.id for document in documents}) == len(documents)
    assert {document.lang for document in documents} == set(SCRIPTS)
    assert len(set(SCRIPTS.values())) >= 8
    assert len(demo.queries()) >= 120


@pytest.mark.parametrize("lang", SCRIPTS)
def test_every_text_is_mostly_in_the_script_of_its_language(lang, demo, documents):
    texts = [d.content() for d in documents if d.lang == lang] + [q.text for q in demo.queries() if q.lang == lang]
    assert len(texts) == 24 + 7
    script = regex.compile(rf"\p{{Script={SCRIPTS[lang]}}}")
    # Japanese mixes three scripts and a bare "5 GHz" is Latin everywhere, so all texts are counted together.
    letters = [c for c in "".join(texts) if c.isalpha()]
    assert sum(bool(script.match(c)) for c in letters) > (0.5 if lang == "ja" else 0.98) * len(letters)


def test_texts_are_composed_and_hold_no_invisible_characters(demo, documents):
    for text in [d.content() for d in documents] + [q.text for q in demo.queries()]:
        assert text.strip()
        assert unicodedata.is_normalized("NFC", text)
        assert not [c for c in text if unicodedata.category(c).startswith("C")]


def test_passages_are_sorted_by_language_and_keep_their_subject(documents):
    languages = [document.lang for document in documents]
    assert languages == sorted(languages)
    assert all(d.id == f"{d.lang}-{d.metadata['subject']}" and d.title for d in documents)


def test_every_query_is_judged_and_every_judgement_names_what_exists(demo, documents):
    qrels, known = demo.qrels(), {document.id for document in documents}
    lines = (demo_folder() / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    assert [query.id for query in demo.queries()] == [json.loads(line)["_id"] for line in lines]
    assert set(qrels) == {query.id for query in demo.queries()}
    assert all(grades and set(grades) <= known and set(grades.values()) == {1} for grades in qrels.values())


def test_a_passage_is_relevant_exactly_when_the_subject_is_the_same(demo, documents):
    subjects = defaultdict(set)
    for document in documents:
        subjects[document.metadata["subject"]].add(document.id)
    lines = (demo_folder() / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    for query in map(json.loads, lines):
        assert set(demo.qrels()[query["_id"]]) == subjects[query["subject"]]
    assert Counter(len(passages) for passages in subjects.values()) == {18: 12, 8: 12, 7: 12, 1: 36}


def test_two_queries_of_every_language_are_answered_in_other_languages_only(demo):
    qrels = demo.qrels()
    foreign = Counter(query.lang for query in demo.queries() if query.lang not in languages_of(qrels[query.id]))
    assert foreign == dict.fromkeys(SCRIPTS, 2)


def test_a_swahili_question_on_malaria_has_answers_in_english_and_chinese(demo):
    assert {"sw-malaria", "en-malaria", "zh-malaria"} <= set(demo.qrels()["q-sw-malaria"])


def test_the_demo_reads_as_any_other_folder(documents):
    assert list(read_documents(str(demo_folder()))) == documents
