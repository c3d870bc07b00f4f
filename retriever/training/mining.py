"""Hard negatives out of Polyseek's own indexes: passages that a search ranks high and that are no answer.

The passages of all pairs become a collection, every query is searched in it, and of what is found at certain ranks some
are drawn. Much of what ranks high *is* an answer that nobody marked, so left out are

- what is an answer to the same query, contains one or is contained in one (letters and digits are compared), and
- what scores more than ``margin`` times what the answer does: TopK-PercPos of NV-Retriever (Moreira et al. 2024,
  "Improving Text Embedding Models with Positive-aware Hard-negative Mining"), there with 95 %.

That score is of the view that was searched. Fused scores say how a candidate stands among the others, so there it is
the cosine of dense vectors, which an answer has that was not found, too. One below 0 is lowered by the same part of its
amount.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from data.errors import NotFoundError, UsageError
from data.records import Document, Query
from index.adding import Progress
from index.segment import VIEWS
from retriever.engine import MODES, BuildSettings, Engine, build_collection
from retriever.training.examples import Pair, Source, letters

BATCH = 256  # queries that are searched at once


@dataclass(frozen=True, slots=True)
class Mining:
    """What is searched, and what is taken.

    Attributes:
        using: a mode of `retriever.engine`.
        negatives: of a row, those that it came with among them.
        first: the rank from which they are drawn.
        last: the rank to which.
        margin: candidates above this part of the answer's score are taken for answers.
        scores: rows tell what the answer and every negative score.
        seed: of what is drawn.
    """

    using: str = "hybrid"
    negatives: int = 4
    first: int = 1
    last: int = 50
    margin: float = 0.95
    scores: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse modes and ranks that there are not.

        Raises:
            UsageError: which.
        """
        if self.using not in MODES:
            raise UsageError(f"unknown mode {self.using!r}: choose from {', '.join(MODES)}")
        if not (self.negatives > 0 and 0 < self.first <= self.last and self.margin > 0):
            raise UsageError(
                f"{self.negatives} negatives from ranks {self.first} to {self.last} with the margin {self.margin:g}: "
                "give positive numbers, and ranks that rise"
            )

    @property
    def views(self) -> tuple[str, ...]:
        """What is built."""
        return {"hybrid": VIEWS, "cascade": ("dense", "late")}.get(self.using, (self.using,))

    @property
    def judge(self) -> str:
        """The view whose scores are compared."""
        return {"hybrid": "dense", "cascade": "late"}.get(self.using, self.using)


@dataclass(slots=True)
class Mined:
    """What came of it.

    Attributes:
        rows: written.
        negatives: in all of them.
        without: rows that have none.
        answers: candidates left out for their text.
        close: candidates left out for their score.
    """

    rows: int = 0
    negatives: int = 0
    without: int = 0
    answers: int = 0
    close: int = 0


class _Known:
    """What is known of passages and queries, by letters: which texts answer which."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.texts = passages(sources)
        self._letters = {identity: letters(text) for identity, text in self.texts.items()}
        self.pairs = [(source, pair) for source in sources for pair in source.examples if isinstance(pair, Pair)]
        self._answers: dict[str, set[str]] = {}
        for _, pair in self.pairs:
            self._answers.setdefault(letters(pair.query), set()).add(letters(pair.positive))

    def is_answer(self, candidate: str, query: str) -> bool:
        """Tell whether the text of a candidate is that of an answer, whole or in part, or the query itself."""
        own, asked = self._letters[candidate], letters(query)
        return own == asked or any(own in answer or answer in own for answer in self._answers[asked])


def check_output(output: Path) -> None:
    """Refuse, before hours of work, a file that could not be written or read.

    Raises:
        UsageError: another form than JSON Lines.
        NotFoundError: a folder that is not there.
    """
    if output.suffix != ".jsonl":
        raise UsageError(f"{output} should be named *.jsonl")
    if not output.parent.is_dir():
        raise NotFoundError(f"{output.parent} does not exist: make that folder first")


def passages(sources: Iterable[Source]) -> dict[str, str]:
    """Return the distinct passages of pairs, the wrong ones that they came with among them, by an id made of each.

    Raises:
        UsageError: a source of something else than pairs.
    """
    found: dict[str, str] = {}
    for source in sources:
        for pair in source.examples:
            if not isinstance(pair, Pair):
                raise UsageError(f"{source.name} has no queries and passages: give pairs to mine for")
            for text in (pair.positive, *pair.negatives):
                found.setdefault(_identity(text), text)
    return found


def index_passages(
    sources: Sequence[Source],
    work: Path,
    *,
    mining: Mining,
    settings: BuildSettings,
    on_progress: Callable[[Progress], None] | None = None,
) -> Engine:
    """Build the collection of all passages, or go on with it, or open it if it is there.

    Args:
        sources: of pairs.
        work: a folder for collections; each lies in one named by its passages, views and encoder.
        mining: tells the views.
        settings: everything else.
        on_progress: see `retriever.engine.build_collection`.

    Raises:
        UsageError: see :func:`passages`.
        CollectionError: the encoder of that name has changed since; take another folder.
    """
    texts = passages(sources)
    settings = replace(settings, views=mining.views)
    key = json.dumps([sorted(texts), settings.views, settings.encoder])
    folder = work / hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    documents = (Document(identity, text) for identity, text in texts.items())
    build_collection(documents, folder, settings, on_progress=on_progress)
    return Engine.open(folder, settings.encoder, backend=settings.backend, device=settings.device)


def mine(
    sources: Sequence[Source],
    engine: Engine,
    *,
    output: Path,
    mining: Mining,
    on_progress: Callable[[int], None] | None = None,
) -> Mined:
    """Search every query and write each pair with hard negatives, in the form that trainings read.

    Args:
        sources: of pairs.
        engine: the collection of their passages, see :func:`index_passages`.
        output: JSON Lines ``{"query", "positive", "lang", "positive_lang", "source", "negatives", "scores"}``; it is
            there when it is complete.
        mining: how.
        on_progress: called with the number of queries more that are done.
    """
    known, report = _Known(sources), Mined()
    with appearing(output) as file:
        for at in range(0, len(known.pairs), BATCH):
            some = known.pairs[at : at + BATCH]
            drawn = _negatives([pair for _, pair in some], engine, known, mining=mining, report=report)
            for (source, pair), (ids, scores) in zip(some, drawn, strict=True):
                row = {
                    "query": pair.query,
                    "positive": pair.positive,
                    "lang": pair.language,
                    "positive_lang": pair.positive_language,
                    "source": source.name.removesuffix(f":{pair.language}"),
                    "negatives": [known.texts[identity] for identity in ids],
                    **({"scores": scores} if mining.scores else {}),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if on_progress:
                on_progress(len(some))
    return report


def _negatives(
    pairs: Sequence[Pair], engine: Engine, known: _Known, *, mining: Mining, report: Mined
) -> Iterator[tuple[list[str], list[float]]]:
    """Yield for each pair the ids of negatives, its own ones first, and the scores of the answer and of those."""
    queries = [Query(pair.query, pair.language) for pair in pairs]
    own = [[_identity(text) for text in (pair.positive, *pair.negatives)] for pair in pairs]
    candidates = []
    for pair, named, hits in zip(pairs, own, engine.retriever(mining.using).search(queries, mining.last), strict=True):
        found = [hit.id for hit in hits[mining.first - 1 :] if hit.id not in named[1:]]
        candidates.append([identity for identity in found if not known.is_answer(identity, pair.query)])
        report.answers += len(found) - len(candidates[-1])
    rows = [np.unique(engine.snapshot.find([*a, *b])) for a, b in zip(own, candidates, strict=True)]
    judged = engine.retriever(mining.judge).search(queries, max(map(len, rows)), within=rows)
    for pair, named, left, hits in zip(pairs, own, candidates, judged, strict=True):
        scores = {identity: 0.0 for identity in [*named, *left]} | dict(hits)  # BM25 finds none that share no word
        positive = scores[named[0]]
        hard = [x for x in left if scores[x] <= positive - (1 - mining.margin) * abs(positive)]
        rng = random.Random(f"{mining.seed}\n{pair.query}\n{pair.positive}")  # whatever else is mined beside it
        wanted = min(max(0, mining.negatives - len(pair.negatives)), len(hard))
        chosen = [*named[1:], *(hard[place] for place in sorted(rng.sample(range(len(hard)), wanted)))]
        report.rows += 1
        report.negatives += len(chosen)
        report.without += not chosen
        report.close += len(left) - len(hard)
        yield chosen, [round(scores[identity], 6) for identity in [named[0], *chosen]]


def _identity(text: str) -> str:
    """Return an id that texts of the same letters share."""
    return hashlib.blake2b((letters(text) or text).encode(), digest_size=16).hexdigest()


@contextmanager
def appearing(path: Path) -> Iterator[TextIO]:
    """Open a file to write that takes its place when it is whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        yield file
    partial.replace(path)
