"""Text into terms: the languages that break things, canonical equivalence, and time."""

import time
from concurrent.futures import ThreadPoolExecutor
from unicodedata import normalize

import pytest
import Stemmer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.records import normalize_language
from index.analysis import ALGORITHMS, LONGEST_WORD, query_terms, terms

LANGUAGES = ("", "ar", "de", "en", "fr", "hi", "ja", "km", "th", "tr", "zh")


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        pytest.param("The runners RUNNING, again!", "en", ["the", "runner", "run", "again"], id="english"),
        pytest.param("The runners RUNNING", "", ["the", "runners", "running"], id="unknown language stays whole"),
        pytest.param("Straße STRASSE Häuser Haus", "de", ["strass", "strass", "haus", "haus"], id="German ß"),
        pytest.param("İstanbul'da ISPARTA Işık", "tr", ["istanbul", "ispar", "işik"], id="Turkish dots and apostrophe"),
        pytest.param("İstanbul INTEL intel", "", ["istanbul", "intel", "intel"], id="Turkish İ elsewhere"),
        pytest.param("ΛΌΓΟΣ λόγος", "", ["λόγοσ", "λόγοσ"], id="Greek final sigma"),
        pytest.param("كِتَابٌ الكتـــاب كتاب", "ar", ["كتاب"] * 3, id="Arabic harakat, tatweel, article"),
        pytest.param("هٰذا هذا", "", ["هذا", "هذا"], id="Arabic superscript alef"),
        pytest.param('שָׁלוֹם שלום צה"ל צה״ל', "he", ["שלום", "שלום", "צהל", "צהל"], id="Hebrew points, gershayim"),
        pytest.param("हिन्दी में क़लम", "", ["हिन्दी", "में", "क\u093cलम"], id="Hindi keeps its marks"),
        pytest.param("می\u200cخواهم", "", ["میخواهم"], id="Persian zero-width non-joiner"),
        pytest.param(
            "東京都は広い。", "ja", ["東京", "京都", "都は", "は広", "広い", "東", "京", "都", "広"], id="Japanese"
        ),
        pytest.param("我爱北京", "zh", ["我爱", "爱北", "北京", "我", "爱", "北", "京"], id="Chinese"),
        pytest.param("猫 水", "zh", ["猫", "水"], id="a single character"),
        pytest.param("ﾊﾟﾝ パン", "ja", ["パン", "パン"], id="halfwidth Katakana"),
        pytest.param("コーヒー", "ja", ["コー", "ーヒ", "ヒー"], id="the long vowel mark"),
        pytest.param("Python3入門2020年", "ja", ["python3", "入門", "入", "門", "2020", "年"], id="Latin in Japanese"),
        pytest.param("한국어 문서", "ko", ["한국", "국어", "문서"], id="Korean"),
        pytest.param("𠮷野家", "ja", ["𠮷野", "野家", "𠮷", "野", "家"], id="astral Han"),
        pytest.param("𐐀𐐁 𝕳ello", "en", ["𐐨𐐩", "hello"], id="astral letters"),
        # ป|ระ|เท|ศ: the vowels เ and ะ belong to their consonants.
        pytest.param("ประเทศ", "th", ["ประ", "ระเท", "เทศ"], id="Thai"),
        pytest.param("น้ำ", "th", [normalize("NFKC", "น้ำ")], id="one Thai cluster"),
        pytest.param("ຂ້ອຍ", "lo", ["ຂ້ອ", "ອຍ"], id="Lao"),
        # ខ្ញុំ|ស្រ|ឡា|ញ់: a consonant stacked under another stays there.
        pytest.param("ខ្ញុំស្រឡាញ់", "km", ["ខ្ញុំស្រ", "ស្រឡា", "ឡាញ់"], id="Khmer"),
        pytest.param("ខ្ញុំ\u200bស្រឡាញ់", "km", ["ខ្ញុំស្រ", "ស្រឡា", "ឡាញ់"], id="Khmer with zero-width spaces"),
        pytest.param("မြန်မာ", "my", ["မြန်", "န်မာ"], id="Burmese"),
        pytest.param("ok👍🏽👍❤️🇩🇪🇫🇷", "", ["ok", "👍", "👍", "❤", "🇩🇪", "🇫🇷"], id="emoji"),
        pytest.param("👩\u200d💻", "", ["👩", "💻"], id="a joined emoji is found by its parts"),
        pytest.param("L'homme d’Artagnan qu'il", "fr", ["homm", "artagnan", "il"], id="French elision"),
        pytest.param("l'home d'Artagnan", "oc", ["home", "artagnan"], id="elision without the stemmer's help"),
        pytest.param("don't O'Brien's dogs'", "en", ["dont", "obrien", "dog"], id="English apostrophes"),
        pytest.param("п'ять п’ять пʼять", "uk", ["пять"] * 3, id="Ukrainian apostrophes"),
        pytest.param("3.14 1,000. ٢٠٢٠ २० ２０", "", ["3.14", "1,000", "2020", "20", "20"], id="digits"),
        pytest.param(
            "co\u00adoperate zero\u200bwidth\ufeff", "", ["cooperate", "zerowidth"], id="invisible characters"
        ),
        pytest.param("foo_bar x-y a/b", "", ["foo", "bar", "x", "y", "a", "b"], id="punctuation"),
        pytest.param("\ud800abc\x00def\udfff", "", ["abc", "def"], id="lone surrogates and NUL"),
        pytest.param("ﬁne x² 1️⃣", "", ["fine", "x2", "1"], id="compatibility forms"),
        pytest.param(" \n'’\"״·-…\u0301", "en", [], id="nothing"),
        pytest.param("", "en", [], id="empty"),
    ],
)
def test_terms_of_many_languages(text, lang, expected):
    assert terms(text, lang) == expected


def test_every_stemmer_exists_and_every_code_is_the_normalised_one():
    assert set(ALGORITHMS.values()) <= set(Stemmer.algorithms())
    assert all(normalize_language(code) == code for code in ALGORITHMS)


@pytest.mark.parametrize("lang", sorted(ALGORITHMS))
def test_every_stemmed_language_gives_terms(lang):
    assert all(terms("information کتاب слово λόγος किताब", lang))


TEXTS = st.text(st.characters(exclude_categories=()), max_size=60)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(LANGUAGES))
@example("\U0001e4f0", "")  # a digit since Unicode 15, which Python 3.11 does not know
def test_terms_are_never_empty_and_hold_no_white_space(text, lang):
    for term in terms(text, lang):
        assert term
        assert not any(character.isspace() for character in term)
        term.encode("utf-8")


@settings(deadline=None)
@given(st.text(max_size=25), st.sampled_from(LANGUAGES))
def test_canonically_equivalent_texts_have_the_same_terms(text, lang):
    assert terms(normalize("NFC", text), lang) == terms(normalize("NFD", text), lang) == terms(text, lang)


@settings(deadline=None)
@given(st.text("กขเแะาำ้ิๆກເະາຳ້កខ្ញុំး်္မနာ", max_size=20))
def test_no_letter_of_a_run_is_lost(text):
    # Every unit stands in two neighbouring bigrams, or alone, so the terms hold every letter of the runs; a mark at the
    # very beginning belongs to nothing.
    letters = {character for character in normalize("NFKC", text) if character.isalpha()}
    assert letters <= set("".join(terms(text, "th")))


def test_long_words_are_cut_into_pieces_and_nothing_is_lost():
    word = "x1" * 100
    assert terms(word, "") == [word[:64], word[64:128], word[128:192], word[192:]]
    assert max(map(len, terms("e\u0316\u0300" + "\u0316\u0300" * 5000, ""))) <= LONGEST_WORD


@pytest.mark.parametrize(
    "text", ["The fox's 3.14 ", "ประเทศไทย", "Pythonで食べる ", "\u0300\u0316", "ｶﾞ\u0300", "1.", "a'"]
)
def test_time_is_linear(text):
    def seconds(characters):
        began = time.process_time()
        terms(text * (characters // len(text)), "en")
        return time.process_time() - began

    seconds(1000)
    # Eight times the text: 8 if linear, 64 if quadratic. Half a second of slack for a busy machine.
    assert seconds(400_000) <= 24 * seconds(50_000) + 0.5


def test_threads_do_not_disturb_each_other():
    words = [f"running houses {i} nationalities" for i in range(300)]
    expected = [terms(text, lang) for text in words for lang in ("en", "de")]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pair: terms(*pair), [(text, lang) for text in words for lang in ("en", "de")]))
    assert found == expected


def test_a_query_is_analysed_in_every_language_once():
    # English stems "universities" to "universiti", German leaves it. "the" stays twice: shared terms do not add up.
    found = query_terms("the the universities", ["de", "en", "sw"])
    assert sorted(found) == ["the", "the", "universiti", "universities"]
