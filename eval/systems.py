"""The systems that `polyseek eval` knows: those of the engine, and BM25 as other packages compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import UsageError
from data.records import Hit, Query
from eval.references import REFERENCES
from index.ranking import Rows
from index.segment import VIEWS
from retriever.engine import MODES, Engine, Sharing, stages
from retriever.retrievers import Retriever

SYSTEMS = (*MODES, *REFERENCES)
"""Every system but for cascades, which :func:`retriever.engine.stages` reads."""
BIASED = "/no-neutral"
"""What follows a system's name where it shall rank without language-neutral ranking."""


def views_of(systems: Sequence[str]) -> tuple[str, ...]:
    """Return the views that a collection needs for all of ``systems``: at least one, the cheapest if none is needed.

    Raises:
        UsageError: no system, or an unknown one.
    """
    if not systems:
        raise _unknown("nothing")
    needed = {view for name in systems for view in _views(name)} or {"bm25"}
    return tuple(view for view in VIEWS if view in needed)


def _views(system: str) -> set[str]:
    name = system.removesuffix(BIASED)
    if name in REFERENCES:
        return set()
    try:
        modes = [mode for mode, _ in stages(name)]
    except UsageError:
        raise _unknown(repr(system)) from None
    return {view for mode in modes for view in ((mode,) if mode in VIEWS else VIEWS)}


def _unknown(given: str) -> UsageError:
    return UsageError(
        f"cannot evaluate {given}: choose among {', '.join(SYSTEMS)} and cascades such as bm25@200:late, each with "
        f"{BIASED} or without"
    )


def open_system(engine: Engine, name: str, *, neutral: bool, share: Sharing = lambda ranker: ranker) -> Retriever:
    """Return the retriever behind the name of a system.

    Args:
        engine: the opened collection.
        name: as :func:`views_of` knows them.
        neutral: whether ranking is language-neutral, where the system knows such a thing.
        share: what keeps the rankings of views, see :class:`eval.shared.Shared`; nothing does.
    """
    neutral, name = neutral and not name.endswith(BIASED), name.removesuffix(BIASED)
    if name in REFERENCES:
        return REFERENCES[name](engine.snapshot)
    return engine.retriever(name, neutral=neutral, share=share)


def file_name(system: str) -> str:
    """Return the name of a system as a part of a file's."""
    return system.replace("/", ".").replace(":", ".")


@dataclass(frozen=True, slots=True)
class WithoutSelf:
    """A retriever that does not find the document with the query's own id."""

    retriever: Retriever

    def search(
        self, queries: Sequence[str | Query], k: int, *, within: Sequence[Rows] | None = None
    ) -> list[list[Hit]]:
        """Search for one more, as :meth:`retriever.retrievers.Retriever.search` does, and leave that document out."""
        found = self.retriever.search(queries, k + 1, within=within)
        own = [query.id if isinstance(query, Query) else "" for query in queries]
        return [[hit for hit in hits if hit.id != x][:k] for hits, x in zip(found, own, strict=True)]
