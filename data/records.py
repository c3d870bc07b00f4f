"""The records that cross every border: documents, queries and hits.

One function, :meth:`Document.content`, says which text is indexed. Language codes are normalised here
and nowhere else, so that ``zh-CN``, ``zho_Hans`` and ``zh`` meet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import langcodes

from data.errors import InputError

_SURROGATE = r"a lone surrogate (half of a \uXXXX pair), which UTF-8 cannot hold: repair or drop that character"

# Made once: json.dumps makes an encoder at every call that has options.
_STRICT_JSON = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False)


def check_string(value: object, what: str) -> str:
    """Return ``value`` if it is a string that UTF-8 can hold; ``what`` names it in the message.

    Raises:
        InputError: another type, or a lone surrogate.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} must be a string, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what} holds {_SURROGATE}") from None
    return value


class Hit(NamedTuple):
    """What a search returns. Higher scores are better; the rank is the position in the list."""

    id: str
    score: float


class Query(NamedTuple):
    """A question. ``lang`` overrides identification when it is not empty; ``id`` names it in a run."""

    text: str
    lang: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """What a user stores. ``lang`` is normalised here; it is empty where it is to be identified.

    Raises:
        InputError: an id that is not a non-empty string; a text, title or lang that is not a string; a string that
            UTF-8 cannot hold (a lone surrogate); metadata that JSON cannot hold.
    """

    id: str
    text: str
    title: str = ""
    lang: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be stored and found again: positions and numbers are no ids."""
        for name in ("id", "text", "title", "lang"):
            check_string(getattr(self, name), f"document {self.id!r}: {name}")
        if not self.id:
            raise InputError("a document has an empty id: give every document a non-empty `_id` or `id`")
        if self.metadata:
            self._check_metadata()
        if self.lang:
            object.__setattr__(self, "lang", normalize_language(self.lang))

    def _check_metadata(self) -> None:
        """Metadata are stored and answered as JSON, so what JSON cannot say is refused where it comes in."""
        try:
            _STRICT_JSON.encode(dict(self.metadata)).encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"document {self.id!r}: metadata holds {_SURROGATE}") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"document {self.id!r}: metadata cannot be written as JSON: {error}") from error

    def content(self) -> str:
        """Return the text that every view indexes: the title, a blank, the text."""
        return f"{self.title} {self.text}".strip()

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Document:
        """Make a document of a JSON object: ``_id`` or ``id``, ``text``, optional ``title``, ``lang``, ``metadata``.

        ``null`` is an absent field. Keys of any other name, ``id`` beside ``_id`` too, become metadata, beside those
        of a ``metadata`` object.

        Raises:
            InputError: what is no object, a record without id or text, or with a field of the wrong type.
        """
        if not isinstance(record, Mapping):
            raise InputError(f"a document must be a JSON object, got {type(record).__name__}")
        rest = dict(record)
        identity = rest.pop("_id", None)
        if identity is None:
            identity = rest.pop("id", None)
        if identity is None:
            raise InputError("a document has no id: give every document an `_id` or `id`")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        if "text" not in rest:
            raise InputError(f"document {identity!r} has no text")
        text, title, lang, extra = (rest.pop(key, None) for key in ("text", "title", "lang", "metadata"))
        if not isinstance(extra, Mapping | None):
            raise InputError(f"document {identity!r}: metadata must be an object, got {type(extra).__name__}")
        return cls(
            id=identity,
            text=text,
            title="" if title is None else title,
            lang="" if lang is None else lang,
            metadata={**rest, **(extra or {})},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that :meth:`from_json` reads back to an equal document."""
        record: dict[str, Any] = {"_id": self.id, "title": self.title, "text": self.text, "lang": self.lang}
        if self.metadata:
            record["metadata"] = dict(self.metadata)
        return record


# ISO 639 codes that name no one language: undetermined, several, uncoded, no language at all.
_NO_LANGUAGE = frozenset({"und", "mul", "mis", "zxx"})


@lru_cache(maxsize=4096)
def normalize_language(code: str) -> str:
    """Return the shortest ISO 639 code of a language tag, without script and region; ``""`` for unknown ones.

    ``zh-CN``, ``zho_Hans``, ``cmn`` -> ``zh``; ``pt-BR`` -> ``pt``; ``swh`` -> ``sw``; ``nb`` -> ``no``;
    ``und``, ``mul``, ``""`` and what is no registered language -> ``""``.
    """
    try:
        language = langcodes.Language.get(code.strip()).prefer_macrolanguage().language
    except ValueError:  # langcodes' LanguageTagError is one
        return ""
    # A private tag such as `x-twain` comes back as "x-twain": valid, and no language that anyone else knows.
    if language is None or language in _NO_LANGUAGE or not language.isalpha():
        return ""
    if not langcodes.Language.make(language=language).is_valid():
        return ""
    # Bokmål meets Norwegian: the identifier says "no", parallel corpora say "nb". Nynorsk stays apart.
    return "no" if language == "nb" else str(language)
