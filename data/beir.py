"""Test collections: queries, relevance judgements, and the BEIR folder that holds both beside a corpus.

Queries and judgements are read whole, since every measure needs all of them; a corpus never is. Runs are written and
read in :mod:`eval`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError, NotFoundError
from data.lines import fault, json_objects, located, numbered_lines, source_name
from data.records import Document, Query, check_string, normalize_language

Qrels = dict[str, dict[str, int]]

_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_GRADE = re.compile(r"-?[0-9]{1,9}")


def demo_folder() -> Path:
    """Return the demo collection that is packaged with Polyseek, a BEIR folder."""
    return Path(__file__).parent / "demo"


def find_part(folder: Path, name: str) -> Path | None:
    """Return the file ``name`` or ``name.gz`` of a folder, or ``None``."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_queries(path: Path) -> list[Query]:
    """Read JSON Lines with ``_id`` or ``id``, ``text`` and an optional ``lang`` (normalised), in file order.

    Raises:
        NotFoundError: no such file.
        InputError: a broken line, a query without id or text, an id that comes twice; with file and line.
    """
    queries: list[Query] = []
    lines: dict[str, int] = {}
    for number, record in json_objects(path):
        with located(path, number):
            query = _query(record)
        if query.id in lines:
            raise fault(path, number, f"the query id {query.id!r} is already that of line {lines[query.id]}")
        lines[query.id] = number
        queries.append(query)
    return queries


def _query(record: dict[str, object]) -> Query:
    identity = record.get("_id")
    if identity is None:
        identity = record.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity is None or identity == "":
        raise InputError("a query has no id: give every query a non-empty `_id` or `id`")
    name = check_string(identity, "the id of a query")
    if "text" not in record:
        raise InputError(f"query {name!r} has no text")
    text = check_string(record["text"], f"query {name!r}: text")
    lang = record.get("lang")
    code = "" if lang is None else check_string(lang, f"query {name!r}: lang")
    return Query(text, lang=normalize_language(code), id=name)


def read_qrels(path: Path) -> Qrels:
    """Read judgements as query id -> document id -> grade.

    Two formats: BEIR's (tabs, the header ``query-id corpus-id score``) and TREC's (four columns by white space, no
    header: query, iteration, document, grade). An empty file holds no judgements.

    Raises:
        NotFoundError: no such file.
        InputError: a line of neither format, a grade that is no whole number, two grades for one pair; with file
            and line.
    """
    qrels: Qrels = {}
    beir: bool | None = None
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        if beir is None and (beir := line.lower().split() == _BEIR_HEADER):
            continue
        with located(path, number):
            query, document, grade = _beir_judgement(line) if beir else _trec_judgement(line)
            known = qrels.setdefault(query, {}).setdefault(document, grade)
            if known != grade:
                raise InputError(
                    f"document {document!r} of query {query!r} was graded {known} before and is {grade} here"
                )
    return qrels


def _beir_judgement(line: str) -> tuple[str, str, int]:
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) != 3 or not all(column.strip() for column in columns):
        raise InputError(
            f"three columns with tabs between them are needed (query-id, corpus-id, score), got {line[:80]!r}"
        )
    return columns[0], columns[1], _grade(columns[2].strip())


def _trec_judgement(line: str) -> tuple[str, str, int]:
    columns = line.split()
    if len(columns) != 4:
        raise InputError(
            f"neither the four columns of TREC (query 0 document grade) nor below BEIR's header "
            f"`query-id<TAB>corpus-id<TAB>score`: {line[:80].strip()!r}"
        )
    return columns[0], columns[2], _grade(columns[3])


def _grade(text: str) -> int:
    if not _GRADE.fullmatch(text):
        raise InputError(f"the grade {text!r} is not a whole number")
    return int(text)


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """A test collection: ``corpus.jsonl[.gz]``, ``queries.jsonl[.gz]`` and ``qrels/SPLIT.tsv[.gz]`` of one folder.

    Attributes:
        name: the folder's own name.
    """

    name: str
    corpus_path: Path
    queries_path: Path
    qrels_path: Path

    @classmethod
    def open(cls, folder: Path, split: str = "test", *, queries: Path | None = None) -> BeirFolder:
        """Find the three parts; nothing is read yet.

        Args:
            folder: where.
            split: whose judgements.
            queries: a file that stands in for the folder's own, with the same ids: translations of them, for instance.

        Raises:
            NotFoundError: no such folder, or a part that is missing, with its name and the splits that there are.
        """
        if not folder.is_dir():
            raise NotFoundError(
                f"{source_name(folder)} is no folder: give a BEIR folder, or another dataset of `polyseek eval --help`"
            )
        parts = [find_part(folder, name) for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")]
        corpus, own, qrels = parts
        if corpus is None or own is None or qrels is None:
            raise NotFoundError(_missing(folder, split, parts))
        return cls(folder.resolve().name, corpus, queries or own, qrels)

    def documents(self) -> Iterator[Document]:
        """Yield the corpus, one document at a time.

        Raises:
            InputError: a broken line or record, or an id that comes twice, with file and line.
        """
        lines: dict[str, int] = {}
        for number, record in json_objects(self.corpus_path):
            with located(self.corpus_path, number):
                document = Document.from_json(record)
                if document.id in lines:
                    raise InputError(f"the document id {document.id!r} is already that of line {lines[document.id]}")
            lines[document.id] = number
            yield document

    def queries(self) -> list[Query]:
        """Return the queries that have judgements, in file order.

        Raises:
            InputError: as :func:`read_queries` and :func:`read_qrels`.
        """
        judged = self.qrels()
        return [query for query in read_queries(self.queries_path) if query.id in judged]

    def qrels(self) -> Qrels:
        """Return the judgements of the split, as :func:`read_qrels`."""
        return read_qrels(self.qrels_path)


def _missing(folder: Path, split: str, parts: list[Path | None]) -> str:
    names = ("corpus.jsonl[.gz]", "queries.jsonl[.gz]", f"qrels/{split}.tsv[.gz]")
    absent = ", ".join(name for name, part in zip(names, parts, strict=True) if part is None)
    message = f"the BEIR folder {source_name(folder)} has no {absent}"
    splits = sorted(path.name.removesuffix(".gz").removesuffix(".tsv") for path in folder.glob("qrels/*.tsv*"))
    return f"{message}; its splits are: {', '.join(splits)}" if splits and parts[2] is None else message
