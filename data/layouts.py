"""Folders of documents, topics and TREC judgements, as MIRACL, Mr.TyDi, mMARCO and TREC lay them out.

Each has a function that finds its files in a folder; what they make is one class. Nothing is read before it is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.beir import Qrels, find_part, read_qrels
from data.errors import NotFoundError, UsageError
from data.formats import trec_documents
from data.lines import fault, json_objects, located, numbered_lines
from data.records import Document, Query, normalize_language
from data.topics import read_topics

_MIRACL = re.compile(r"topics\.miracl-v1\.0-(?P<language>[a-z]+)-(?P<split>train|dev|test[\w-]*)\.tsv(\.gz)?")
_MRTYDI = re.compile(r"topic\.(?P<split>\w+)\.tsv(\.gz)?")
_MMARCO = re.compile(r"(?P<language>[a-z]+)_collection\.tsv(\.gz)?")
# Mr.TyDi and mMARCO write the names of languages out.
_NAMES = {
    "arabic": "ar", "bengali": "bn", "chinese": "zh", "dutch": "nl", "english": "en", "finnish": "fi", "french": "fr",
    "german": "de", "hindi": "hi", "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko",
    "portuguese": "pt", "russian": "ru", "spanish": "es", "swahili": "sw", "telugu": "te", "thai": "th",
    "vietnamese": "vi",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TopicsDataset:
    """A test collection of files of documents, a file of topics and a file of judgements.

    Attributes:
        name: what it is called in results.
        language: of documents and topics; empty where it is to be identified.
        corpus: the files of documents.
        topics: as :func:`data.topics.read_topics` reads them.
        judgements: as :func:`data.beir.read_qrels` reads them.
        read: yields the documents of a file, given that and the language.
    """

    name: str
    language: str
    corpus: Sequence[Path]
    topics: Path
    judgements: Path
    read: Callable[[Path, str], Iterator[Document]]

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all files.

        Raises:
            InputError: a broken line or record, with file and line.
        """
        for path in self.corpus:
            yield from self.read(path, self.language)

    def queries(self) -> list[Query]:
        """Return the topics that have judgements; TREC's topic 051 is 51 in its judgements."""
        judged = self.qrels()
        topics = read_topics(self.topics, self.language)
        named = (topic if topic.id in judged else topic._replace(id=topic.id.lstrip("0")) for topic in topics)
        return [topic for topic in named if topic.id in judged]

    def qrels(self) -> Qrels:
        """Return the judgements."""
        return read_qrels(self.judgements)


def find_miracl(folder: Path, split: str | None) -> TopicsDataset | None:
    """Find MIRACL in one language: ``topics.miracl-v1.0-XX-dev.tsv``, the ``qrels`` and ``docs-*.jsonl.gz``, below.

    Raises:
        NotFoundError: there are topics, but none of the split, no judgements or no documents.
        UsageError: there are topics of several languages.
    """
    found = {path: match for path in sorted(folder.rglob("topics.miracl-*")) if (match := _MIRACL.fullmatch(path.name))}
    if not found:
        return None
    languages = {match["language"]: path for path, match in found.items()}
    if len(languages) > 1:
        raise _several(folder, *languages.values())
    topics = _of_split(folder, {path: match["split"] for path, match in found.items()}, split, ("dev", "test"))
    name = topics.name.replace("topics.", "qrels.", 1)
    judgements, corpus = sorted(folder.rglob(name)), sorted(folder.rglob("docs-*.jsonl*"))
    if not judgements or not corpus:
        raise NotFoundError(f"{folder} has {topics.name} but no {'docs-*.jsonl.gz' if judgements else name}")
    language = normalize_language(*languages)
    return TopicsDataset(folder.resolve().name, language, corpus, topics, judgements[0], _json_documents)


def find_mrtydi(folder: Path, split: str | None) -> TopicsDataset | None:
    """Find Mr.TyDi in one language: ``topic.SPLIT.tsv``, ``qrels.SPLIT.txt``, ``collection/docs.jsonl.gz``, below.

    The language is that of the folder's name, ``mrtydi-v1.1-swahili``.

    Raises:
        NotFoundError: there are topics, but none of the split, no judgements or no documents.
        UsageError: there are topics in several folders.
    """
    found = {path: match for path in sorted(folder.rglob("topic.*.tsv*")) if (match := _MRTYDI.fullmatch(path.name))}
    if not found:
        return None
    homes = {path.parent: path for path in found}
    if len(homes) > 1:
        raise _several(folder, *homes.values())
    topics = _of_split(folder, {path: match["split"] for path, match in found.items()}, split, ("test", "dev", "train"))
    home = topics.parent
    name = topics.name.removesuffix(".gz").replace("topic.", "qrels.", 1).replace(".tsv", ".txt")
    judgements, corpus = find_part(home, name), find_part(home / "collection", "docs.jsonl")
    if not judgements or not corpus:
        raise NotFoundError(f"{home} has {topics.name} but no {'collection/docs.jsonl.gz' if judgements else name}")
    called = home.resolve().name
    language = _NAMES.get(called.rpartition("-")[2], "")
    return TopicsDataset(called, language, [corpus], topics, judgements, _json_documents)


def find_mmarco(source: Path, split: str | None) -> TopicsDataset | None:
    """Find mMARCO in one language: ``XX_collection.tsv``, ``XX_queries.dev.small.tsv`` and ``qrels.dev.small.tsv``.

    Queries and judgements lie where the authors have them, in ``queries/dev`` beside the collection's folder and one
    folder above, or with the collection.

    Args:
        source: a folder that the collection is below, or its file, where there are several.
        split: ``dev.small``, ``dev`` or ``train``.

    Raises:
        NotFoundError: there is a collection, but no queries or judgements of the split.
        UsageError: there are several collections.
    """
    below = sorted(source.rglob("*_collection.tsv*")) if source.is_dir() else [source]
    found = [path for path in below if path.is_file() and _MMARCO.fullmatch(path.name)]
    if not found:
        return None
    if len(found) > 1:
        raise _several(source, *found)
    name = found[0].name.partition("_")[0]
    for wanted in (split,) if split else ("dev.small", "dev"):
        topics = _beside(found[0], f"queries/{wanted.partition('.')[0]}", f"{name}_queries.{wanted}.tsv")
        judgements = _beside(found[0], "qrels", f"qrels.{wanted}.tsv")
        if topics and judgements:
            return TopicsDataset(f"mmarco-{name}", _NAMES.get(name, ""), found, topics, judgements, _tsv_documents)
    split = split or "dev.small"
    files = f"{name}_queries.{split}.tsv or no qrels.{split}.tsv"
    raise NotFoundError(f"{found[0]} has no {files} beside it: put them into its folder, or give another --split")


def find_trec(folder: Path, split: str | None) -> TopicsDataset | None:
    """Find a TREC collection: ``*.trec[.gz]``, a file with ``topics`` in its name and one with ``qrels``, below.

    Args:
        folder: where.
        split: a part of the names of topics and judgements, ``2004`` for ``topics.2004.txt``, where there are several.

    Raises:
        NotFoundError: there are documents, but no topics or no judgements.
        UsageError: there are several files of topics or of judgements.
    """
    corpus = sorted(path for kind in ("*.trec", "*.trec.gz") for path in folder.rglob(kind))
    if not corpus:
        return None
    parts = []
    for what in ("topics", "qrels"):
        named = [path for path in sorted(folder.rglob(f"*{what}*")) if path.is_file() and path not in corpus]
        fitting = [path for path in named if split is None or split in re.split(r"[._-]", path.name)]
        if not fitting:
            which = f" of {split}" if split else ""
            raise NotFoundError(f"{folder} has {corpus[0].name} but no file with {what!r} in its name{which}")
        parts.append(_only(folder, fitting))
    return TopicsDataset(folder.resolve().name, "", corpus, parts[0], parts[1], lambda path, _: trec_documents(path))


def _of_split(folder: Path, splits: Mapping[Path, str], split: str | None, usual: Sequence[str]) -> Path:
    """Return the file of a split, or of the first usual one that there is."""
    for wanted in (split,) if split else usual:
        if files := [path for path, own in splits.items() if own == wanted]:
            return _only(folder, files)
    there = ", ".join(dict.fromkeys(splits.values()))
    raise NotFoundError(f"{folder} has no topics of {split or ' or '.join(usual)}; its splits are: {there}")


def _only(folder: Path, files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise _several(folder, *files)
    return files[0]


def _several(folder: Path, first: Path, second: Path, *_: Path) -> UsageError:
    names = f"{first.relative_to(folder)} and {second.relative_to(folder)}"
    return UsageError(f"{folder} has {names}: give a folder with one of them, or the file's own path or --split")


def _beside(path: Path, folder: str, name: str) -> Path | None:
    """Return the file of that name with a path or up to two folders above, there or in a folder of theirs."""
    places = (place for home in path.parents[:3] for place in (home / folder, home))
    return next((found for place in places if (found := find_part(place, name))), None)


def _json_documents(path: Path, language: str) -> Iterator[Document]:
    """Yield ``{"docid", "title", "text"}`` lines, or Anserini's ``{"id", "contents"}``."""
    for number, record in json_objects(path):
        with located(path, number):
            if "contents" in record:
                record = {"docid": record.get("id"), "text": record["contents"]}
            known = {key: record[key] for key in record.keys() & {"title", "text"}}
            document = Document.from_json({"_id": record.get("docid"), "lang": language, **known})
        yield document


def _tsv_documents(path: Path, language: str) -> Iterator[Document]:
    """Yield ``id<TAB>text`` lines."""
    for number, line in numbered_lines(path):
        name, tab, text = line.rstrip("\r\n").partition("\t")
        if not tab or not name.strip():
            raise fault(path, number, f"an id, a tab and a text are needed, got {line[:80].strip()!r}")
        with located(path, number):
            document = Document(name.strip(), text, lang=language)
        yield document
