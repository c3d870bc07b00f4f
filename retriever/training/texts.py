"""Raw text: documents without labels, cut into passages whose language is known.

    *.txt                     documents with blank lines between them, as in the input of BERT's pre-training
    *.jsonl                   {"text", ...} a line, "title" and "lang" where there are any; ids are not asked for
    any other input           what `polyseek index` reads: a folder of texts, a BEIR corpus, tables, TREC

Each file may be ``.gz``. A document longer than `retriever.training.cropping.MOST` units is several passages.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from data.beir import find_part
from data.lines import json_objects, located, numbered_lines
from data.readers import read_documents
from data.records import check_string, normalize_language
from retriever.language import identifier
from retriever.training.cropping import passages

_TABLES = (".csv", ".tsv", ".trec")


def is_text(path: Path) -> bool:
    """Tell by its form whether a file or folder is raw text.

    JSON Lines are where the first has a text and neither a query nor a translation. A BEIR folder is not: its corpus is
    raw text for who asks for it.
    """
    if path.is_dir():
        return not find_part(path, "corpus.jsonl") and not (path / "qrels").exists()
    if _kind(path) in (".txt", *_TABLES):
        return True
    _, first = next(json_objects(path), (0, {}))
    return "text" in first and not {"query", "en"} & first.keys()


def read_passages(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every passage of a file or folder with its language: given, or identified; "" where there is no telling.

    Raises:
        NotFoundError, InputError: it is not there, or has a line of another form.
        UsageError: a file of an unknown kind.
    """
    for text, language in _documents(path):
        for passage in passages(text):
            yield passage, language or identifier().identify([passage])[0]


def _documents(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir() or _kind(path) not in (".txt", ".jsonl", ".ndjson"):
        for document in read_documents(str(path)):
            yield document.content(), document.lang
    elif _kind(path) == ".txt":
        for blank, lines in groupby(numbered_lines(path), key=lambda line: not line[1].strip()):
            if not blank:
                yield "".join(line for _, line in lines), ""
    else:
        for number, record in json_objects(path):
            with located(path, number):
                title, text, language = (
                    check_string(record.get(key) or "", f"{key} of raw text") for key in ("title", "text", "lang")
                )
            yield f"{title} {text}", normalize_language(language)


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
