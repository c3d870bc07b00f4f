"""The door to all inputs: which reader a path gets, and the names that the other packages import.

The formats themselves are in :mod:`data.formats`, queries and judgements in :mod:`data.beir`, lines and encodings in
:mod:`data.lines`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.beir import BeirFolder, Qrels, demo_folder, find_part, read_qrels, read_queries
from data.errors import NotFoundError, UsageError
from data.formats import folder_documents, jsonl_documents, table_documents, trec_documents
from data.lines import source_name
from data.records import Document

__all__ = ["BeirFolder", "Qrels", "demo_folder", "read_documents", "read_qrels", "read_queries"]

_ACCEPTED = (
    "a BEIR folder (corpus.jsonl), a folder of *.txt or *.md, *.jsonl, *.ndjson, *.csv, *.tsv, *.trec "
    "(each also .gz), or - for JSON Lines on standard input"
)


def read_documents(source: str) -> Iterator[Document]:
    """Read the documents of any input lazily: memory holds one record, whatever the size of the file.

    Args:
        source: a path or ``-``, standard input. A folder is BEIR if it holds ``corpus.jsonl[.gz]``. The documents
            come in the order of the file; ids are not compared with each other.

    Raises:
        NotFoundError: no such path (at once).
        UsageError: a file with an unknown extension (at once).
        InputError: a file or record that cannot be read, with file and line (when it is reached).
    """
    if source == "-":
        return jsonl_documents(None)
    path = Path(source)
    # Path("") is the current folder, which an empty variable in a shell script did not mean.
    if source and path.is_dir():
        corpus = find_part(path, "corpus.jsonl")
        return jsonl_documents(corpus) if corpus else folder_documents(path)
    if not source or not path.exists():
        raise NotFoundError(f"the input {source_name(path)!r} does not exist: give {_ACCEPTED}")
    return _file_documents(path)


def _file_documents(path: Path) -> Iterator[Document]:
    match Path(path.name.lower().removesuffix(".gz")).suffix:
        case ".jsonl" | ".ndjson":
            return jsonl_documents(path)
        case ".csv":
            return table_documents(path, ",")
        case ".tsv":
            return table_documents(path, "\t")
        case ".trec":
            return trec_documents(path)
    raise UsageError(f"the input {source_name(path)!r} is of an unknown kind: give {_ACCEPTED}")
