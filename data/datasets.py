"""Test collections of every layout, behind one interface: BEIR, LAReQA, MIRACL, and whatever `ir_datasets` knows.

Mr.TyDi, mMARCO, TREC and many more are read by way of `ir_datasets`, which also downloads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from data.beir import BeirFolder, Qrels, find_part, read_qrels
from data.errors import InputError, NotFoundError, UsageError
from data.lines import fault, json_objects, located, numbered_lines, source_name
from data.records import Document, Query, check_string, normalize_language

IRDS = "irds:"
_TOPICS = re.compile(r"topics\.miracl-v1\.0-(?P<language>[a-z]+)-(?P<split>dev|test\w*)\.tsv(\.gz)?")


class Dataset(Protocol):
    """A test collection: documents, queries and judgements."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield the corpus, one document at a time."""
        ...

    def queries(self) -> list[Query]:
        """Return the queries that have judgements."""
        ...

    def qrels(self) -> Qrels:
        """Return the judgements: query id -> document id -> grade."""
        ...


def open_dataset(source: str, *, queries: Path | None = None) -> Dataset:
    """Find out what a test collection is and open it.

    Args:
        source: a BEIR folder; a folder of LAReQA's ``LANGUAGE.json``; one with MIRACL's topics, qrels and docs anywhere
            below it; or ``irds:ID``, a data set of `ir_datasets`.
        queries: a file that stands in for the queries of a BEIR folder.

    Raises:
        NotFoundError: no such folder, or nothing of these kinds in it.
        UsageError: other queries for what is no BEIR folder, or `ir_datasets` is not installed or knows no such id.
    """
    opened: Dataset | None = None
    folder = Path(source)
    if source.startswith(IRDS):
        opened = IrDataset.open(source.removeprefix(IRDS))
    elif folder.is_dir() and not find_part(folder, "corpus.jsonl"):
        opened = LareqaFolder.find(folder) or MiraclFolder.find(folder)
    if opened is None:
        return BeirFolder.open(folder, queries=queries)
    if queries is not None:
        raise UsageError("other queries can stand in for those of a BEIR folder alone: leave --queries out")
    return opened


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


@dataclass(frozen=True, slots=True)
class MiraclFolder:
    """MIRACL in one language: ``topics.miracl-v1.0-XX-dev.tsv``, the ``qrels`` beside, and ``docs-*.jsonl.gz``."""

    name: str
    language: str
    corpus: Sequence[Path]
    topics: Path
    judgements: Path

    @classmethod
    def find(cls, folder: Path) -> MiraclFolder | None:
        """Return the collection below a folder, None where there is none.

        Raises:
            NotFoundError: there are topics, but no judgements or no documents.
            UsageError: there are topics of several languages or splits.
        """
        topics = sorted(path for path in folder.rglob("topics.miracl-*") if _TOPICS.fullmatch(path.name))
        if not topics:
            return None
        if len(topics) > 1:
            raise UsageError(f"{folder} has {topics[0].name} and {topics[1].name}: give a folder with one of them")
        name = topics[0].name.replace("topics.", "qrels.", 1)
        judgements, corpus = sorted(folder.rglob(name)), sorted(folder.rglob("docs-*.jsonl*"))
        if not judgements or not corpus:
            raise NotFoundError(f"{folder} has {topics[0].name} but no {'docs-*.jsonl.gz' if judgements else name}")
        found = _TOPICS.fullmatch(topics[0].name)
        language = normalize_language(found["language"]) if found else ""
        return cls(folder.resolve().name, language, corpus, topics[0], judgements[0])

    def documents(self) -> Iterator[Document]:
        """Yield the passages of all files.

        Raises:
            InputError: a broken line or record, with file and line.
        """
        for path in self.corpus:
            for number, record in json_objects(path):
                with located(path, number):
                    own = {"_id": record.get("docid"), "lang": self.language}
                    document = Document.from_json({**own, **{k: record[k] for k in ("title", "text") if k in record}})
                yield document

    def queries(self) -> list[Query]:
        """Return the topics that have judgements."""
        judged = self.qrels()
        return [query for query in read_topics(self.topics, self.language) if query.id in judged]

    def qrels(self) -> Qrels:
        """Return the judgements."""
        return read_qrels(self.judgements)


def read_topics(path: Path, language: str = "") -> list[Query]:
    """Read ``id<TAB>query`` lines, all in one language.

    Raises:
        NotFoundError, InputError: no such file, or a line of another form, with its number.
    """
    queries = []
    for number, line in numbered_lines(path):
        name, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab or not name.strip():
            raise fault(path, number, f"an id, a tab and a query are needed, got {line[:80].strip()!r}")
        queries.append(Query(text, lang=language, id=name.strip()))
    return queries


@dataclass(frozen=True, slots=True)
class IrDataset:
    """A data set of the package `ir_datasets`, with its documents, queries and qrels."""

    name: str
    dataset: Any

    @classmethod
    def open(cls, name: str) -> IrDataset:
        """Find a data set by its id, say ``miracl/sw/dev``.

        Raises:
            UsageError: the package is not installed, knows no such id, or has no documents, queries or judgements.
        """
        try:
            import ir_datasets
        except ImportError as error:
            raise UsageError(f"{IRDS}{name} needs a package: pip install 'polyseek[datasets]'") from error
        try:
            dataset = ir_datasets.load(name)
        except KeyError as error:
            raise UsageError(f"ir_datasets knows no data set {name!r}: see ir-datasets.com") from error
        lacks = [part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()]
        if lacks:
            raise UsageError(f"the data set {name!r} has no {' and no '.join(lacks)}: give one that has")
        return cls(name, dataset)

    def documents(self) -> Iterator[Document]:
        """Yield the documents: title and text where they have these, else all their text."""
        language = normalize_language(self.dataset.docs_lang() or "")
        for found in self.dataset.docs_iter():
            text = getattr(found, "text", None)
            title = getattr(found, "title", "") if isinstance(text, str) else ""
            yield Document(found.doc_id, text if isinstance(text, str) else found.default_text(), title, language)

    def queries(self) -> list[Query]:
        """Return the queries that have judgements."""
        judged, language = self.qrels(), normalize_language(self.dataset.queries_lang() or "")
        return [
            Query(found.default_text(), lang=language, id=found.query_id)
            for found in self.dataset.queries_iter()
            if found.query_id in judged
        ]

    def qrels(self) -> Qrels:
        """Return the judgements."""
        qrels: Qrels = {}
        for found in self.dataset.qrels_iter():
            qrels.setdefault(found.query_id, {})[found.doc_id] = int(found.relevance)
        return qrels
