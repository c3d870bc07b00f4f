"""The engine: one opened collection with its encoder, for every face. Building a collection starts here too."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np

from data.errors import NotFoundError, UsageError
from data.records import Document, Hit, Query
from index.adding import AddReport, Progress, Writing
from index.analysis import query_terms
from index.centroids import concentration
from index.collection import Collection
from index.manifest import Manifest, check_fingerprint
from index.ranking import Rows
from index.segment import VIEWS
from index.snapshot import Snapshot
from retriever.bundled import DEFAULT
from retriever.encoder import Encoder
from retriever.language import identifier
from retriever.retrievers import (
    DEPTH,
    Bm25Ranker,
    Cascade,
    DenseRanker,
    Fusion,
    LateRanker,
    Ranker,
    Regularized,
    Retriever,
    Search,
    Sources,
)

MODES = ("hybrid", "cascade", "dense", "late", "bm25")
# Characters of a document that a warming search asks for: a book as a question would keep the server waiting.
WARMED = 100
Sharing: TypeAlias = Callable[[Ranker], Ranker]


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How a collection is built.

    Attributes:
        views: what to make of the documents; of a collection that exists, those that it has.
        encoder: name or folder; None for the collection's own, or the bundled model.
        backend: what computes the encoder, see `retriever.backends`; None for the best here.
        device: where, as PyTorch names it.
        batch_size: texts in one forward pass at most; None for as many as are fastest.
        late_bits: 2, 4 or 8 for a dimension, where the late view is large; None for the collection's own, or 4.
        token_pooling: keep one token vector of a document for so many, from 1 on; None for the collection's own, or 1.
    """

    views: Sequence[str] = VIEWS
    encoder: str | None = None
    backend: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    late_bits: int | None = None
    token_pooling: float | None = None

    def load(self, name: str, token_pooling: float) -> Encoder:
        """Load an encoder to build with."""
        return Encoder.load(
            name,
            backend=self.backend,
            device=self.device,
            batch_size=self.batch_size,
            token_pooling=token_pooling,
        )


@dataclass(slots=True)
class Engine:
    """An opened collection. Searches take the snapshot once; writers swap in the next one."""

    folder: Path
    snapshot: Snapshot
    encoder: Encoder | None
    _writing: Lock = field(default_factory=Lock)

    @classmethod
    def open(
        cls, folder: Path, encoder: str | None = None, *, backend: str | None = None, device: str = "cpu"
    ) -> Engine:
        """Open a collection with the encoder that it was built with.

        Args:
            folder: the collection.
            encoder: where that encoder lies now, if not under the name in the collection.
            backend: what computes it, see `retriever.backends`; None for the best here.
            device: where, as PyTorch names it.

        Raises:
            NotFoundError: no collection there.
            CollectionError: damaged, or ``encoder`` is another one than it was built with.
            EncoderError: the encoder cannot be loaded.
        """
        snapshot = Snapshot.open(folder)
        loaded = None
        if snapshot.manifest.encoder is not None:
            own = snapshot.manifest.encoder
            loaded = Encoder.load(
                encoder or own["model"], backend=backend, device=device, token_pooling=own["token_pooling"]
            )
            check_fingerprint(folder, snapshot.manifest.encoder, loaded.fingerprint)
        return cls(folder, snapshot, loaded)

    @property
    def views(self) -> tuple[str, ...]:
        """The views of the collection."""
        return self.snapshot.manifest.views

    @property
    def modes(self) -> tuple[str, ...]:
        """What :meth:`retriever` can be asked for here; the first is the default."""
        views = self.views
        possible = {"hybrid": len(views) > 1, "cascade": "late" in views and len(views) > 1}
        return tuple(mode for mode in MODES if possible.get(mode, mode in views))

    def retriever(self, using: str, *, neutral: bool = True, share: Sharing = lambda ranker: ranker) -> Retriever:
        """Return a retriever over the snapshot of now.

        Args:
            using: one of :attr:`modes`, or a cascade of them, see :func:`stages`.
            neutral: language-neutral ranking, see `index.centroids`.
            share: what wraps the ranker of each view; nothing does.

        Raises:
            UsageError: a mode that there is not, or not for this collection.
        """
        for mode, _ in stages(using, self.modes):
            if mode not in self.modes:
                raise UsageError(f"{self.folder} cannot search with {mode}: it has {', '.join(self.views)}")
        sources = self._sources()
        return Search(sources, self._ranker(sources, using, neutral, share))

    def warm(self) -> None:
        """Search once, so that what is compiled at its first use, 15 s on a new machine, is when a question comes."""
        for row in np.flatnonzero(self.snapshot.live)[:1].tolist():
            text = self.snapshot.document(row).content()[:WARMED]
            self.retriever(self.modes[0]).search([text], 1)

    def identify(self, text: str) -> str:
        """Return the language of a text, "" where there is no telling."""
        return identifier().identify([text])[0]

    def explain(
        self, query: Query, hits: Sequence[Hit], *, using: str, neutral: bool = True, within: Rows | None = None
    ) -> dict[str, Any]:
        """Tell how hits came about: each one's rank and score in every view that the mode uses.

        Args:
            query: what was searched for.
            hits: what was found.
            using: the mode.
            neutral: language-neutral ranking.
            within: the rows that might be found, sorted; None for all.

        Returns:
            ``{"language", "neutral", "terms", "hits": {id: {view: {"rank", "score"}}}}``; the rank is None beyond the
            depth to which fusion looks, and so is a view that has no score.
        """
        sources = self._sources()
        (known,) = sources.queries([query])
        told: dict[str, dict[str, Any]] = {hit.id: {} for hit in hits}
        views = [using] if using in VIEWS else list(self.views)
        for view in views:
            search = Search(sources, self._ranker(sources, view, neutral))
            (found,) = search.search([known], max(DEPTH, len(hits)), within=None if within is None else [within])
            ranks: dict[str, Any] = {hit.id: {"rank": n, "score": hit.score} for n, hit in enumerate(found, 1)}
            deeper = np.sort(sources.snapshot.find([identity for identity in told if identity not in ranks]))
            if len(deeper):
                (found,) = search.search([known], len(deeper), within=[deeper[deeper >= 0]])
                ranks |= {hit.id: {"rank": None, "score": hit.score} for hit in found}
            for identity, entry in told.items():
                entry[view] = ranks.get(identity)
        searched = query_terms(known.text, (known.lang, *sources.snapshot.language_counts))
        return {"language": known.lang, "neutral": neutral, "terms": searched, "hits": told}

    def info(self) -> dict[str, Any]:
        """Describe the collection and what it can do."""
        return {**self.snapshot.info(), "modes": list(self.modes)}

    def add(self, documents: Iterable[Document]) -> AddReport:
        """Add or replace documents in one commit and search the new state from then on."""
        with self._writing:
            writing = Writing(self.encoder, identifier().identify, atomic=True)
            report = Collection(self.folder).add(documents, writing)
            self.snapshot = Snapshot.open(self.folder)
        return report

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents in one commit, search the new state from then on, return how many there were."""
        with self._writing:
            count = Collection(self.folder).delete(ids)
            self.snapshot = Snapshot.open(self.folder)
        return count

    def _sources(self) -> Sources:
        return Sources(self.snapshot, self.encoder, identifier().identify)

    def _ranker(self, sources: Sources, using: str, neutral: bool, share: Sharing = lambda ranker: ranker) -> Ranker:
        match using:
            case "bm25":
                return share(Bm25Ranker(sources))
            case "dense":
                return share(DenseRanker(sources, neutral))
            case "late":
                return share(LateRanker(sources, neutral))
            case "hybrid":
                return self._fusion(sources, neutral, share)
            case "cascade":
                using = "dense:late" if "dense" in self.views else "bm25:late"
        (mode, depth), *later = stages(using)
        ranker = self._ranker(sources, mode, neutral, share)
        for mode, following in later:
            ranker, depth = Cascade(ranker, self._ranker(sources, mode, neutral, share), depth), following
        return ranker

    def _fusion(self, sources: Sources, neutral: bool, share: Sharing) -> Ranker:
        # Shared words speak for a passage as far as documents share a language. Among eleven languages BM25
        # would bring forward the query's own one, right or wrong: XQuAD-R's nDCG@10 is .625 with weight 1, .715 with
        # the concentration of .09, .717 with its square and with 0.
        lexical = concentration(sources.snapshot.language_counts) ** 2 if neutral else 1.0
        weights = {"bm25": lexical, "dense": 1.0, "late": 1.0}
        parts = [(self._ranker(sources, view, neutral, share), weights[view]) for view in self.views]
        fusion = Fusion(sources, parts)
        return Regularized(sources, fusion) if neutral and "dense" in self.views else fusion


def stages(using: str, offered: Sequence[str] = MODES) -> list[tuple[str, int | None]]:
    """Read a mode: one of :data:`MODES`, or a cascade, ``bm25@200:late``, whose stages rank what the one before found.

    Args:
        using: the mode.
        offered: what to choose from, for who asked for something unknown.

    Returns:
        Each stage with how many it hands on, None where that is not said: ``[("bm25", 200), ("late", None)]``.

    Raises:
        UsageError: it is none of these.
    """
    found: list[tuple[str, int | None]] = []
    for part in using.split(":"):
        mode, at, depth = part.partition("@")
        if mode not in MODES or (at and not re.fullmatch("[1-9][0-9]{0,6}", depth)):
            raise UsageError(f"unknown mode {using!r}: choose from {', '.join(offered)}, or a cascade, bm25@200:late")
        found.append((mode, int(depth) if at else None))
    if found[-1][1] is not None or (len(found) > 1 and "cascade" in dict(found)):
        raise UsageError(f"{using!r} is no cascade: its last stage hands nothing on, and none is a cascade itself")
    return found


def steps(advance: Callable[[int, str], None]) -> Callable[[Progress], None]:
    """Turn the progress of a build into steps of a bar: how many documents more, and what else there is to tell."""
    done, first, started = 0, 0, 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal done, first, started
        notes = []
        if progress.tokens and not started:
            first, started = progress.tokens, time.perf_counter()
        elif progress.tokens:
            notes.append(f"{(progress.tokens - first) / (time.perf_counter() - started):,.0f} tokens/s")
        if progress.split:
            notes.append(f"{progress.split:,} in windows")
        if progress.merging:
            notes.append("merging segments")
        advance(progress.documents - done, ", ".join(notes))
        done = progress.documents

    return on_progress


def build_collection(
    documents: Iterable[Document],
    folder: Path,
    settings: BuildSettings | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> AddReport:
    """Build a collection, or go on with one that was begun or is to grow.

    Args:
        documents: read once, in batches; each batch is committed.
        folder: where; made if absent.
        settings: None for the defaults.
        on_progress: called after each of the encoder's batches.

    Raises:
        UsageError: the collection exists with other views, bits or pooling.
        InputError: a document id that stands twice.
        CollectionError: it was built with another encoder, or somebody else is writing.
    """
    collection, model = _open_or_create(folder, settings or BuildSettings())
    return collection.add(documents, Writing(model, identifier().identify, on_progress=on_progress))


def _open_or_create(folder: Path, settings: BuildSettings) -> tuple[Collection, Encoder | None]:
    bits, pooling = settings.late_bits, settings.token_pooling
    try:
        manifest = Manifest.read(folder)
    except NotFoundError:
        if pooling not in (None, 1) and "late" not in settings.views:
            raise UsageError(
                "token pooling is of the late view: leave --token-pooling out or add late to the views"
            ) from None
        wanted = set(settings.views) - {"bm25"}
        model = settings.load(settings.encoder or DEFAULT, 1.0 if pooling is None else pooling) if wanted else None
        return Collection.create(folder, settings.views, model, late_bits=bits or 4), model
    if set(settings.views) != set(manifest.views):
        raise UsageError(f"{folder} exists with the views {','.join(manifest.views)}: give those or another folder")
    if bits not in (None, manifest.late_bits):
        raise UsageError(
            f"{folder} exists with {manifest.late_bits} bits: leave --late-bits out or name another folder"
        )
    own = manifest.encoder["token_pooling"] if manifest.encoder else 1.0
    if pooling not in (None, own):
        raise UsageError(
            f"{folder} exists with token pooling {own:g}: leave --token-pooling out or name another folder"
        )
    if manifest.encoder is None:
        return Collection(folder), None
    model = settings.load(settings.encoder or manifest.encoder["model"], own)
    check_fingerprint(folder, manifest.encoder, model.fingerprint)
    return Collection(folder), model
