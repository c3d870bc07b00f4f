"""Putting batches together, so that what is wrong in them is hard to tell from what is right.

All negatives of a text are the other texts of its batch, so a batch is drawn from one source and from near neighbours
in it: sentences of the same help page, questions about the same article. Of parallel text a batch has few languages,
and every row is one meaning in two of them; so most wrong passages are in the language of the right one, and those of
a query's own language are wrong as often as others. Batches mixed at random over sources and languages taught a model
to tell texts apart by their language (XQuAD-R mAP, nothing neutralised: dense .286 where batches like these give .507).

Which source and which languages come next is drawn with a temperature: n examples weigh n ** a, so that what is rare
comes more often than its share, and still less often than what is frequent.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data.errors import UsageError
from retriever.training.examples import Meaning, Pair, Source, letters

PIVOT = "en"
# Neighbours that a batch is drawn from: so many times its rows.
SPREAD = 3


class Row(NamedTuple):
    """What a model is shown: a query, its passage, and the pair of texts that a teacher is asked about instead."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    asked: str
    found: str
    scores: tuple[float, ...] = ()  # of the positive and each negative


@dataclass(frozen=True, slots=True)
class Mixing:
    """How batches are mixed.

    Attributes:
        rows: of a batch.
        languages: of a batch of parallel text, English included where it is drawn.
        smoothing: a, the exponent of the number of examples; 1 draws in proportion, 0 all alike.
        parallel: the share of batches that are parallel text, where there is other text too.
        negatives: hard negatives of each row, where the pairs have as many.
    """

    rows: int = 64
    languages: int = 5
    smoothing: float = 0.5
    parallel: float = 0.6
    negatives: int = 0


class Mixer:
    """An endless row of batches, the same ones for the same seed."""

    def __init__(self, sources: Sequence[Source], mixing: Mixing, seed: int) -> None:
        """Sort sources into kinds.

        Raises:
            UsageError: no source has two examples, or all text is in one language where parallel text is wanted.
        """
        self._mixing = mixing
        self._random = random.Random(seed)
        usable = [source for source in sources if len(source.examples) > 1]
        if not usable:
            raise UsageError("no source has two examples, and one alone has nothing to be told apart from: give more")
        self._kinds = [
            (share, some)
            for share, kind in ((mixing.parallel, Meaning), (1 - mixing.parallel, Pair))
            if (some := [source for source in usable if isinstance(source.examples[0], kind)]) and share > 0
        ]
        if not self._kinds:
            raise UsageError("the share of parallel text leaves nothing of what was given: change it")

    def batch(self) -> list[Row]:
        """Return the next batch; of a small source it has fewer rows."""
        (_, sources) = self._random.choices(self._kinds, [share for share, _ in self._kinds])[0]
        weights = [len(source.examples) ** self._mixing.smoothing for source in sources]
        examples = self._random.choices(sources, weights)[0].examples
        near = self._neighbours(examples)
        if isinstance(near[0], Meaning):
            return self._distinct(self._translations([e for e in near if isinstance(e, Meaning)]))
        return self._distinct([self._answered(e) for e in near if isinstance(e, Pair)])

    def _neighbours(self, examples: Sequence[Pair] | Sequence[Meaning]) -> list[Pair | Meaning]:
        """Return examples from one stretch of a source, in random order."""
        width = min(len(examples), SPREAD * self._mixing.rows)
        first = self._random.randrange(len(examples) - width + 1)
        return self._random.sample(list(examples[first : first + width]), width)

    def _translations(self, near: Sequence[Meaning]) -> list[Row]:
        """Draw two languages for each meaning, out of a few for all."""
        counts = Counter(language for meaning in near for language, _ in meaning.texts)
        chosen = {PIVOT}
        while len(chosen) < min(self._mixing.languages, len(counts) + 1):
            left = [language for language in counts if language not in chosen]
            chosen.add(self._random.choices(left, [counts[x] ** self._mixing.smoothing for x in left])[0])
        rows = []
        for meaning in near:
            texts = [text for language, text in ((PIVOT, meaning.pivot), *meaning.texts) if language in chosen]
            if len(texts) > 1:
                query, positive = self._random.sample(texts, 2)
                rows.append(Row(query, positive, (), meaning.pivot, meaning.pivot))
        if len(rows) < 2:  # rare languages that share no sentence
            texts_of = [[meaning.pivot, *(text for _, text in meaning.texts)] for meaning in near]
            drawn = [(*self._random.sample(texts, 2), texts[0]) for texts in texts_of]
            rows = [Row(query, positive, (), pivot, pivot) for query, positive, pivot in drawn]
        return rows

    def _answered(self, pair: Pair) -> Row:
        places = range(len(pair.negatives))
        drawn = self._random.sample(places, min(self._mixing.negatives, len(places)))
        scores = (pair.scores[0], *(pair.scores[1 + place] for place in drawn)) if pair.scores else ()
        negatives = tuple(pair.negatives[place] for place in drawn)
        return Row(pair.query, pair.positive, negatives, pair.query, pair.positive, scores)

    def _distinct(self, rows: Sequence[Row]) -> list[Row]:
        """Leave out rows whose query or passage stands in the batch already: it would be right and wrong at once."""
        kept: list[Row] = []
        seen: set[str] = set()
        for row in rows:
            own = {letters(row.query), letters(row.positive), letters(row.asked), letters(row.found)}
            if not own & seen:
                seen |= own
                kept.append(row)
            if len(kept) == self._mixing.rows:
                break
        return kept
