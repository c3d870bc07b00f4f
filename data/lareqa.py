"""LAReQA's test collections (Roy et al. 2020, arXiv 2004.05484): questions and sentences, out of SQuAD's format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.beir import Qrels
from data.errors import InputError
from data.lines import source_name
from data.records import Document, Query, check_string, normalize_language


@dataclass(frozen=True, slots=True)
class LareqaFolder:
    """LAReQA's XQuAD-R or MLQA-R: one ``LANGUAGE.json`` a language, SQuAD's format with ``sentence_breaks``.

    Every sentence is a document, ``LANGUAGE-ARTICLE-PARAGRAPH-SENTENCE``. Right for a question, ``LANGUAGE-ID``, are
    the sentence that its answer begins in, and those of the same question in the other languages.
    """

    name: str
    files: Sequence[Path]

    @classmethod
    def find(cls, folder: Path) -> LareqaFolder | None:
        """Return the collection in a folder, None where there is none."""
        files = [path for path in sorted(folder.glob("*.json")) if normalize_language(path.stem)]
        return cls(folder.resolve().name, files) if files else None

    def documents(self) -> Iterator[Document]:
        """Yield every sentence, byte for byte.

        Raises:
            InputError: a file that is not in the format.
        """
        for path in self.files:
            language = normalize_language(path.stem)
            for place, paragraph in _paragraphs(path):
                for number, (begin, end) in enumerate(paragraph["sentence_breaks"]):
                    yield Document(f"{path.stem}-{place}-{number}", paragraph["context"][begin:end], lang=language)

    def queries(self) -> list[Query]:
        """Return every question."""
        return [
            Query(asked["question"], lang=normalize_language(path.stem), id=f"{path.stem}-{asked['id']}")
            for path in self.files
            for _, paragraph in _paragraphs(path)
            for asked in paragraph["qas"]
        ]

    def qrels(self) -> Qrels:
        """Return for every question the sentences with its answer, in all languages."""
        answers: dict[str, dict[str, str]] = {}  # id -> language -> sentence
        for path in self.files:
            for place, paragraph in _paragraphs(path):
                for asked in paragraph["qas"]:
                    begins = asked["answers"][0]["answer_start"]
                    ends = (number for number, (_, end) in enumerate(paragraph["sentence_breaks"]) if begins < end)
                    number = next(ends, len(paragraph["sentence_breaks"]) - 1)
                    answers.setdefault(asked["id"], {})[path.stem] = f"{path.stem}-{place}-{number}"
        return {
            f"{language}-{question}": dict.fromkeys(found.values(), 1)
            for question, found in answers.items()
            for language in found
        }


def _paragraphs(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the paragraphs of a file with their place, checked for what is read of them.

    Raises:
        InputError: the file is not in the format.
    """
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        for a, article in enumerate(articles):
            for p, paragraph in enumerate(article["paragraphs"]):
                breaks = paragraph["sentence_breaks"]
                if not breaks or not all(0 <= begin < end for begin, end in breaks):
                    raise ValueError("sentence_breaks that are no places of sentences")
                check_string(paragraph["context"], "a context")
                for asked in paragraph["qas"]:
                    check_string(asked["question"], "a question")
                    check_string(asked["id"], "the id of a question")
                    int(asked["answers"][0]["answer_start"])
                yield f"{a}-{p}", paragraph
    except (KeyError, IndexError, TypeError, ValueError, InputError) as error:
        raise InputError(f"{source_name(path)} is not in LAReQA's format: {error!r}") from error
