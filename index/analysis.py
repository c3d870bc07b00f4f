"""Text into terms: one lexical analysis for documents and queries, decided by script first and by language second.

The steps: compatibility normalisation and case folding, as Unicode's NFKC_Casefold; words of letters, digits and
marks, stemmed with Snowball where the language has a stemmer; overlapping bigrams for scripts written without blanks;
each emoji a term. There are no dictionaries, no segmentation models and no synonyms here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from unicodedata import decimal, normalize

import regex
import Stemmer

# What Snowball offers, by the codes of data.records.normalize_language. Bosnian and Croatian share the Serbian rules,
# which know both alphabets and both pronunciations; Nynorsk those of Bokmål.
# English, nDCG@10 on SciFact (Anserini: .679) and on 1,500 Debian synopses against 19,955 descriptions:
#   english .685 .770 | english, Lucene's 33 stop words removed .682 .770 | porter .681 .768 | porter, stop words
#   removed .678 .769 | words left whole, stop words removed .665 (SciFact)
# So stop words stay in: nothing becomes unfindable ("The Who"), and every language has the same rule.
# Words left whole against stemmed, XQuAD-R within one language: ar .682 .768, de .744 .786, el .736 .796, en .832 .848,
# es .799 .820, hi .778 .809, ru .706 .821, tr .694 .779.
ALGORITHMS = {
    "ar": "arabic",
    "bs": "serbian",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "eo": "esperanto",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hr": "serbian",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "st": "sesotho",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
# Longer words are cut into pieces of this many characters, so that nothing is lost and equal ones still meet.
LONGEST_WORD = 64

_DOTTED_AND_DOTLESS = ("tr", "az")
# More than 30 marks in a row are no text (UAX 15, stream-safe format), and sorting a million of them takes hours.
# The halfwidth voiced marks turn into marks under NFKC.
_EXCESS_MARKS = regex.compile(r"([\p{M}\uFF9E\uFF9F]{30})[\p{M}\uFF9E\uFF9F]+")
# Invisible characters, Arabic vowel signs and tatweel, Hebrew points: written or left out at will.
_OPTIONAL = regex.compile(
    r"[\p{Default_Ignorable_Code_Point}[\p{Hebrew}&&\p{Mn}]"
    r"\u0610-\u061A\u0640\u064B-\u0652\u0656-\u065F\u0670\u06D6-\u06DC\u06DF-\u06E8\u06EA-\u06ED\u08CA-\u08E1\u08E3-\u08FF]",
    regex.V1,
)
_FOREIGN_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)

# Written without blanks, so indexed as overlapping bigrams. Hangul joins them, as in Lucene's CJK analysis, because
# particles cling to Korean words: nDCG@10 .503 against .425 as words (opening of a paragraph searching for its rest).
_UNSPACED = (
    r"[[\p{Han}\p{Hiragana}\p{Katakana}\u3006\u3099\u309A\u30FC\p{Hangul}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{M}\p{Nl}]]"
)
_SPACED = rf"[[\p{{L}}\p{{N}}\p{{Mn}}\p{{Mc}}]--{_UNSPACED}]"
_TOKEN = regex.compile(
    # A word; ASCII stands first, and the looks behind stand after what they look at, for speed (3 times).
    rf"(?:[a-z0-9]++|[{_SPACED}--\p{{M}}])(?:{_SPACED}++"
    r"|[.,](?<=[0-9].)(?=[0-9])|[\"'\u05F3\u05F4](?<=\p{Hebrew}.)(?=\p{Hebrew})|'(?<=[\p{L}\p{M}].)(?=\p{L}))*+"
    rf"|[{_UNSPACED}--\p{{M}}]{_UNSPACED}*+"
    r"|\p{Regional_Indicator}{2}|\p{Extended_Pictographic}",
    regex.V1,
)
_RUN = regex.compile(_UNSPACED, regex.V1)
# These are terms of their own too: a word may be a single one, and a query for 猫 must find it inside a sentence.
# Chinese, nDCG@10 within the language, bigrams alone against both: XQuAD-R .824 .841, DRCD .952 .959. Korean and the
# South-East Asian scripts lose by it.
_IDEOGRAPH = regex.compile(r"\p{Han}")
# What one bigram takes two of: a letter with its marks, the consonants stacked under it (Khmer, Burmese), and in Thai
# and Lao the vowels written before and after it, which never stand alone (Theeramunkong et al., Character Cluster Based
# Thai Information Retrieval, 2000). Thai, XQuAD-R within the language, nDCG@10: code points .784, grapheme clusters
# .817, these .826. Grapheme clusters also change between Unicode versions, an index must not.
_UNIT = regex.compile(
    r"[เ-ไເ-ໄ]{0,2}[\p{L}\p{Nl}]\p{M}*+(?:[ะาๅະາ]\p{M}*+)?(?:(?<=[\u17D2\u1039])\p{L}\p{M}*+){0,4}",
    regex.V1,
)
# l'homme, d'Artagnan, qu'il: the elided word goes, in every language, since names travel.
_ELISION = regex.compile(r"^(?:[cdjlmnst]|qu)'(?=\p{L}{2})")
# After stemming: the marks inside words that no stemmer wanted, and the dotless ı, which Turkish stemmers need but
# capitals, other languages and keyboards do not tell from i.
_LEFT_OVER = str.maketrans("ı", "i", "'\"\u05f3\u05f4")


def terms(text: str, lang: str) -> list[str]:
    """Return the terms of ``text`` in their order, repeats included: never empty, at most some 300 characters long.

    Canonically equivalent texts (NFC, NFD) have the same terms. Of an emoji joined of several each part is a term, skin
    tones are dropped, a flag is one. The time is linear in the text.

    Args:
        text: any string; punctuation, symbols, lone surrogates, NUL and the like separate words.
        lang: a code of :func:`data.records.normalize_language`; ``""`` or one without a stemmer leaves words whole.
    """
    stem = _stemmer(lang)
    found: list[str] = []
    for token in _TOKEN.findall(_normalized(text, lang)):
        if not token.isascii() and _RUN.match(token):
            found += _bigrams(token)
            continue
        word = _ELISION.sub("", token) if "'" in token else token
        for start in range(0, len(word), LONGEST_WORD):
            found.append(stem(word[start : start + LONGEST_WORD]).translate(_LEFT_OVER))
    return [term for term in found if term]


def query_terms(text: str, languages: Iterable[str]) -> list[str]:
    """Return the terms of a query as each of several languages analyses it, each term as often as it occurs in one.

    Documents are stemmed in their own language, so a name or a loan word must be looked for in the form that each of
    those languages gives it. debian-clir (15 languages against English descriptions), nDCG@10: the query analysed in
    its own language .222, as English .266, both .294.

    Args:
        text: the query.
        languages: the query's own and those of the collection.
    """
    union: Counter[str] = Counter()
    for lang in dict.fromkeys(lang if lang in ALGORITHMS or lang in _DOTTED_AND_DOTLESS else "" for lang in languages):
        union |= Counter(terms(text, lang))
    return list(union.elements())


def _normalized(text: str, lang: str) -> str:
    text = normalize("NFKC", _EXCESS_MARKS.sub(r"\1", text))
    if lang in _DOTTED_AND_DOTLESS:
        text = text.replace("İ", "i").replace("I", "ı")
    # The last step composes what stripping and folding have brought together.
    text = normalize("NFKC", _OPTIONAL.sub("", text).casefold())
    if text.isascii():
        return text
    # İ folds to i with a dot of its own.
    text = text.replace("i\u0307", "i").replace("’", "'").replace("ʼ", "'")
    return _FOREIGN_DIGIT.sub(_digit, text)


def _digit(match: regex.Match[str]) -> str:
    # regex may know a later Unicode than Python: the digits of its new scripts stay as they are.
    return str(decimal(match.group(), match.group()))


def _bigrams(run: str) -> list[str]:
    units = _UNIT.findall(run)
    if len(units) == 1:
        return units
    alone = [unit for unit in units if _IDEOGRAPH.match(unit)]
    return [first + second for first, second in pairwise(units)] + alone


class _Stemmers(threading.local):
    """A stemmer keeps its buffers between calls, so every thread makes its own."""

    def __init__(self) -> None:
        self.by_language: dict[str, Callable[[str], str]] = {}


_STEMMERS = _Stemmers()


def _stemmer(lang: str) -> Callable[[str], str]:
    if lang not in ALGORITHMS:
        return str
    if lang not in _STEMMERS.by_language:
        _STEMMERS.by_language[lang] = Stemmer.Stemmer(ALGORITHMS[lang]).stemWord
    return _STEMMERS.by_language[lang]
