"""The systems that `polyseek eval` knows: those of the engine, and BM25 as other packages compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import UsageError
from data.records import Hit, Query
from eval.references import REFERENCES
from index.ranking import Rows
from retriever.engine import Engine
from retriever.retrievers import Retriever

SYSTEMS: dict[str, tuple[str, ...]] = {
    "hybrid": ("bm25", "dense", "late"),
    "cascade": ("bm25", "dense", "late"),
    "dense": ("dense",),
    "late": ("late",),
    "bm25": ("bm25",),
    **dict.fromkeys(REFERENCES, ()),
}
"""Every system with the views that it needs."""
BIASED = "/no-neutral"
"""What follows a system's name where it shall rank without language-neutral ranking."""


def views_of(systems: Sequence[str]) -> tuple[str, ...]:
    """Return the views that a collection needs for all of ``systems``: at least one, the cheapest if none is needed.

    Raises:
        UsageError: no system, or an unknown one.
    """
    unknown = [name for name in systems if name.removesuffix(BIASED) not in SYSTEMS]
    if unknown or not systems:
        given = repr(unknown[0]) if unknown else "nothing"
        raise UsageError(f"cannot evaluate {given}: choose among {', '.join(SYSTEMS)}, each with {BIASED} or without")
    needed = {view for name in systems for view in SYSTEMS[name.removesuffix(BIASED)]} or {"bm25"}
    return tuple(view for view in SYSTEMS["hybrid"] if view in needed)


def open_system(engine: Engine, name: str, *, neutral: bool) -> Retriever:
    """Return the retriever behind the name of a system.

    Args:
        engine: the opened collection.
        name: a key of :data:`SYSTEMS`, and :data:`BIASED` after it or not.
        neutral: whether ranking is language-neutral, where the system knows such a thing.
    """
    neutral, name = neutral and not name.endswith(BIASED), name.removesuffix(BIASED)
    if name in REFERENCES:
        return REFERENCES[name](engine.snapshot)
    return engine.retriever(name, neutral=neutral)


def file_name(system: str) -> str:
    """Return the name of a system as a part of a file's."""
    return system.replace("/", ".")


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
