"""What a retriever is trained on: rows of files, read, checked and counted.

A line of JSONL (``.gz`` too) is one of

    {"query", "positive", ...}                 a pair; "negatives" may be a list, "scores" what the positive and each
                                               of them are worth (a scored list)
    {"en", "text", "lang"}                     a sentence and its translation; all translations of one sentence are one
                                               meaning in several languages

and a BEIR folder with ``qrels/train.tsv`` is pairs as well. "lang" is the query's language, and the
positive's where there is no "positive_lang". Raw text has no labels: `retriever.training.texts` reads it. Rows that
teach nothing, an empty side, the same text on both sides, a pair that stands twice, are left out and counted; a line
that is no such record ends the reading, with its number.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import regex

from data.errors import InputError, UsageError
from data.lines import fault, json_objects
from data.readers import BeirFolder
from data.records import normalize_language
from retriever.training.cropping import LEAST, passages, units
from retriever.training.texts import is_text, read_passages

# Marks stay: without them every Thai or Hindi word is that of other vowels too.
_SIGNS = regex.compile(r"[^\p{L}\p{M}\p{N}_]+")


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with what answers it.

    Attributes:
        query: the text of the query.
        positive: of a passage that answers it.
        language: of the query, "" where unknown.
        negatives: passages that do not.
        scores: what the positive and each of the negatives are worth, in any unit; empty where nobody said.
        positive_language: of the positive, "" where unknown.
    """

    query: str
    positive: str
    language: str = ""
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    positive_language: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """One sentence in several languages.

    Attributes:
        pivot: in English.
        texts: (language, text) of its translations, one or more; languages as they were given, pt-BR beside pt.
    """

    pivot: str
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A text alone, of which pairs are cut, see `retriever.training.cropping`.

    Attributes:
        text: of some units or more.
        language: "" where unknown.
    """

    text: str
    language: str = ""


Example = Pair | Meaning | Passage


@dataclass(slots=True)
class Source:
    """Examples of one kind and one origin, in an order where neighbours are alike.

    Attributes:
        name: of the file, with the rows' own ``source`` where they have one.
        examples: pairs, meanings, or passages of one language.
        origin: the rows' own ``source``, "" where they have none.
        weight: how often it is drawn, times what its size makes of it.
    """

    name: str
    examples: list[Pair] | list[Meaning] | list[Passage]
    origin: str = ""
    weight: float = 1.0


@dataclass(slots=True)
class Skipped:
    """How many rows were left out, by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Return "3 duplicates, 1 empty side"."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.counts.items()))


def read_sources(path: Path, skipped: Skipped, *, leave_out: Iterable[str] = (), kind: str = "") -> list[Source]:
    """Read a file or a folder.

    Args:
        path: ``*.jsonl``, ``*.jsonl.gz``, a BEIR folder, or raw text.
        skipped: counts what is left out.
        leave_out: values of "source" whose rows are left out.
        kind: "text" to read documents as raw text, whatever else they are; "" to tell by their form.

    Raises:
        NotFoundError, InputError: it is not there, or has a line of another form.
        UsageError: nothing is left of it.
    """
    if kind == "text" or is_text(path):
        return _text_sources(path, skipped)
    rows = _beir_rows(path) if path.is_dir() else _rows(path, frozenset(leave_out), skipped)
    pairs: dict[tuple[str, str], dict[tuple[str, str], Pair]] = {}
    meanings: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for source, row in rows:
        why = _useless(row)
        if why:
            skipped.counts[why] += 1
        elif isinstance(row, Pair):
            of_source = pairs.setdefault(source, {})
            if (row.query, row.positive) in of_source:
                skipped.counts["duplicates"] += 1
            of_source.setdefault((row.query, row.positive), row)
        else:
            ((language, text),) = row.texts
            known = meanings.setdefault(source, {}).setdefault(row.pivot, {})
            if language in known:
                skipped.counts["duplicates"] += 1
            known.setdefault(language, text)
    found = [Source(name, list(some.values()), origin) for (name, origin), some in sorted(pairs.items())]
    for (name, origin), by_pivot in sorted(meanings.items()):
        examples = [Meaning(pivot, tuple(by_pivot[pivot].items())) for pivot in sorted(by_pivot)]
        found.append(Source(name, examples, origin))
    return _not_empty(found, path, skipped)


def _not_empty(found: list[Source], path: Path, skipped: Skipped) -> list[Source]:
    if not found:
        raise UsageError(f"{path} has nothing to train on{f' ({skipped})' if skipped.counts else ''}")
    return found


def without_long(source: Source, longest: int, skipped: Skipped) -> Source:
    """Return a source without the meanings whose English has more than so many characters; count them."""
    if not source.examples or not isinstance(source.examples[0], Meaning):
        return source
    kept = [meaning for meaning in source.examples if isinstance(meaning, Meaning) and len(meaning.pivot) <= longest]
    if len(kept) < len(source.examples):
        skipped.counts[f"sentences of more than {longest} characters"] += len(source.examples) - len(kept)
    return replace(source, examples=kept)


def _text_sources(path: Path, skipped: Skipped) -> list[Source]:
    """Read raw text: of each language its passages, in their order."""
    by_language: dict[str, list[Passage]] = {}
    seen: set[str] = set()
    for text, language in read_passages(path):
        key = letters(text)
        if key in seen or len(units(text)) < LEAST or not key:
            skipped.counts["duplicates" if key in seen else "too short to be cut"] += 1
            continue
        seen.add(key)
        by_language.setdefault(language, []).append(Passage(text, language))
    name = path.resolve().name
    found = [Source(f"{name}:{x}" if x else name, some) for x, some in sorted(by_language.items())]
    return _not_empty(found, path, skipped)


def _useless(row: Pair | Meaning) -> str:
    """Return why a row teaches nothing, "" where it does."""
    a, b = (row.query, row.positive) if isinstance(row, Pair) else (row.pivot, row.texts[0][1])
    if not a.strip() or not b.strip():
        return "with an empty side"
    if letters(a) == letters(b):
        return "with the same text on both sides"
    return ""


def _rows(path: Path, leave_out: frozenset[str], skipped: Skipped) -> Iterator[tuple[tuple[str, str], Pair | Meaning]]:
    """Yield every row with the name and the origin of its source."""
    for number, record in json_objects(path):
        origin = str(record.get("source", ""))
        if origin in leave_out:
            skipped.counts[f"of {origin}, left out"] += 1
            continue
        try:
            row = _pair(record) if "query" in record else _meaning(record)
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise fault(
                path, number, f"needs query and positive, or en, text and lang: {type(error).__name__} {error}"
            ) from error
        name = f"{path.name}:{origin}" if origin else path.name
        # Queries in several languages for one passage are a parallel text too: a batch of them shares its language.
        yield (f"{name}:{row.language}" if isinstance(row, Pair) and row.language else name, origin), row


def _pair(record: dict[str, Any]) -> Pair:
    negatives, scores = tuple(record.get("negatives", ())), tuple(map(float, record.get("scores", ())))
    if scores and len(scores) != 1 + len(negatives):
        raise ValueError(f"{len(scores)} scores for a positive and {len(negatives)} negatives")
    texts = (record["query"], record["positive"], *negatives)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text that is no string")
    language = record.get("lang", "")
    languages = [normalize_language(x) for x in (language, record.get("positive_lang", language))]
    return Pair(texts[0], texts[1], languages[0], negatives, scores, languages[1])


def _meaning(record: dict[str, Any]) -> Meaning:
    pivot, text, language = record["en"], record["text"], record["lang"]
    if not (isinstance(pivot, str) and isinstance(text, str) and isinstance(language, str)):
        raise TypeError("a text or language that is no string")
    return Meaning(pivot, ((language, text),))


def _beir_rows(folder: Path) -> Iterator[tuple[tuple[str, str], Pair]]:
    """Yield every judged query of the split ``train`` with each of its relevant documents."""
    reader = BeirFolder.open(folder, split="train")
    qrels = reader.qrels()
    wanted = {document for judged in qrels.values() for document, grade in judged.items() if grade > 0}
    documents = [document for document in reader.documents() if document.id in wanted]
    texts = {document.id: document.content() for document in documents}
    languages = {document.id: document.lang for document in documents}
    for query in reader.queries():
        for document, grade in qrels.get(query.id, {}).items():
            if grade > 0 and document in texts:
                pair = Pair(query.text, texts[document], query.lang, (), (), languages[document])
                yield (folder.resolve().name, ""), pair


def letters(text: str) -> str:
    """Return letters, marks and digits alone, in one case and width: what two texts are compared by."""
    return _SIGNS.sub("", unicodedata.normalize("NFKC", text).casefold())


def check_apart(sources: Iterable[Source], folders: Iterable[Path]) -> None:
    """Refuse training text that is also in a dataset to evaluate with.

    Compared are letters and digits of whole texts, 8 of them or more: those of queries and of relevant documents.

    Args:
        sources: what is trained on.
        folders: BEIR folders.

    Raises:
        InputError: a text of a source is a query or a relevant passage of a folder.
    """
    held: dict[str, Path] = {}
    for folder in folders:
        reader = BeirFolder.open(folder)
        relevant = {document for judged in reader.qrels().values() for document, grade in judged.items() if grade > 0}
        texts = [query.text for query in reader.queries()]
        for document in reader.documents():
            texts += [document.text, document.content()] if document.id in relevant else []
        parts = (part for text in texts for part in {text, *passages(text)})  # as raw text would be cut
        held |= {key: folder for part in parts if len(key := letters(part)) >= 8}
    if not held:
        return
    for source in sources:
        for example in source.examples:
            for text in _texts(example):
                if letters(text) in held:
                    raise InputError(
                        f"{source.name} trains on {text[:60]!r}, which is in {held[letters(text)]}: what is trained on "
                        "cannot be evaluated; leave that row out"
                    )


def _texts(example: Example) -> list[str]:
    if isinstance(example, Passage):
        return [example.text]
    if isinstance(example, Pair):
        return [example.query, example.positive, *example.negatives]
    return [example.pivot, *(text for _, text in example.texts)]
