"""Putting batches together, so that what is wrong in them is hard to tell from what is right.

All negatives of a text are the other texts of its batch, so a batch is drawn from one source and from near neighbours
in it: sentences of the same help page, questions about the same article. Of parallel text a batch has few languages,
and every row is one meaning in two of them; so most wrong passages are in the language of the right one, and those of
a query's own language are wrong as often as others. Batches mixed at random over sources and languages taught a model
to tell texts apart by their language (XQuAD-R mAP, nothing neutralised: dense .286 where batches like these give .507).

Which source and which languages come next is drawn with a temperature: n examples weigh n ** a, so that what is rare
comes more often than its share, and still less often than what is frequent. Of raw text every language is a source of
its own, and what is cut of a passage is another pair each time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from data.errors import UsageError
from retriever.training.cropping import Cropping, pair
from retriever.training.examples import Example, Meaning, Pair, Passage, Source, letters

PIVOT = "en"
# Neighbours that a batch of parallel text is drawn from: so many times its rows.
SPREAD = 3


class Row(NamedTuple):
    """What a model is shown: a query, its passage, and the pair of texts that a teacher is asked about instead."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    asked: str
    found: str
    english: bool  # whether both texts that the teacher is asked about are
    scores: tuple[float, ...] = ()  # of the positive and each negative


@dataclass(frozen=True, slots=True)
class Mixing:
    """How batches are mixed.

    Attributes:
        rows: of a batch.
        languages: of a batch of parallel text, English included where it is drawn.
        versions: rows that one meaning has in a batch of parallel text, each in two languages drawn for it.
        pivot: the chance that English is put on one side of a row of parallel text; beside that it is one language of
            many.
        spread: a batch of pairs or of raw text is drawn from so many times as many neighbours; 0 from all of a source.
            Parallel text has 3.
        longest: characters of an English sentence; longer ones are left out with their translations: all are cut to so
            many tokens, and a long one somewhere else than what it should be like. 0 for any.
        smoothing: a, the exponent of the number of examples; 1 draws in proportion, 0 all alike.
        parallel: the share of batches that are parallel text, where there is other text too.
        negatives: hard negatives of each row, where the pairs have as many.
        text: the share of batches that are cut of raw text, where there is anything else too.
        mixed: batches of raw text are drawn from all languages, and not each from one.
    """

    rows: int = 64
    languages: int = 5
    versions: int = 1
    pivot: float = 0.0
    spread: int = 3
    longest: int = 0
    smoothing: float = 0.5
    parallel: float = 0.6
    negatives: int = 0
    text: float = 0.3
    mixed: bool = False

    def __post_init__(self) -> None:
        """Refuse batches with nothing to tell apart, and what is no chance."""
        if self.versions < 1 or (self.versions > 1 and 2 * self.versions > self.rows):
            raise ValueError(f"versions = {self.versions} of rows = {self.rows}: two meanings at least, of one or more")
        if self.spread < 0:
            raise ValueError(f"spread = {self.spread} is a number of batches, or 0 for all of a source")
        if self.longest < 0:
            raise ValueError(f"longest = {self.longest} is a number of characters, or 0")
        if not 0 <= self.pivot <= 1:
            raise ValueError(f"pivot = {self.pivot} is a chance, from 0 to 1")


class Mixer:
    """An endless row of batches, the same ones for the same seed."""

    def __init__(
        self, sources: Sequence[Source], mixing: Mixing, seed: int, *, cropping: Cropping | None = None
    ) -> None:
        """Sort sources into kinds.

        Args:
            sources: what is drawn from.
            mixing: how.
            seed: of everything that is drawn.
            cropping: how pairs are cut of raw text; None for the defaults.

        Raises:
            UsageError: no source has two examples, or all text is in one language where parallel text is wanted.
        """
        self._mixing = mixing
        self._cropping = cropping or Cropping()
        self._random = random.Random(seed)
        usable = [source for source in sources if len(source.examples) > 1]
        if not usable:
            raise UsageError("no source has two examples, and one alone has nothing to be told apart from: give more")
        self._kinds = [
            (share, some)
            for share, kind in (
                (mixing.parallel * (1 - mixing.text), Meaning),
                ((1 - mixing.parallel) * (1 - mixing.text), Pair),
                (mixing.text, Passage),
            )
            if (some := [source for source in usable if isinstance(source.examples[0], kind)]) and share > 0
        ]
        if not self._kinds:
            raise UsageError("the shares of parallel and of raw text leave nothing of what was given: change them")

    def batch(self) -> list[Row]:
        """Return the next batch; of a small source it has fewer rows."""
        (_, sources) = self._random.choices(self._kinds, [share for share, _ in self._kinds])[0]
        if self._mixing.mixed and isinstance(sources[0].examples[0], Passage):
            near = self._everywhere(sources)
        else:
            versions = self._mixing.versions if isinstance(sources[0].examples[0], Meaning) else 1
            near = self._neighbours(self._drawn(sources, 1)[0].examples, -(-self._mixing.rows // versions))
        if isinstance(near[0], Meaning):
            return self._distinct(self._translations([e for e in near if isinstance(e, Meaning)]))
        if isinstance(near[0], Passage):
            return self._distinct(self._cut([e for e in near if isinstance(e, Passage)]))
        return self._distinct([self._answered(e) for e in near if isinstance(e, Pair)])

    def _drawn(self, sources: Sequence[Source], count: int) -> list[Source]:
        weights = [source.weight * len(source.examples) ** self._mixing.smoothing for source in sources]
        return self._random.choices(sources, weights, k=count)

    def _neighbours(self, examples: Sequence[Example], count: int) -> list[Example]:
        """Return examples from one stretch of a source, in random order: some more than are wanted."""
        spread = SPREAD if isinstance(examples[0], Meaning) else self._mixing.spread
        width = min(len(examples), spread * count) if spread else len(examples)
        first = self._random.randrange(len(examples) - width + 1)
        return self._random.sample(list(examples[first : first + width]), width)

    def _everywhere(self, sources: Sequence[Source]) -> list[Example]:
        """Return different examples from all sources, each from one drawn for it."""
        drawn: list[Sequence[Example]] = [x.examples for x in self._drawn(sources, SPREAD * self._mixing.rows)]
        return list(dict.fromkeys(self._random.choice(examples) for examples in drawn))

    def _cut(self, near: Sequence[Passage]) -> list[Row]:
        """Cut a pair of each passage, but none without letters; units that replace others are of the passage before."""
        rows = []
        for passage, before in zip(near, [near[-1], *near], strict=False):
            query, positive = pair(passage.text, self._cropping, self._random, other=before.text)
            if letters(query) and letters(positive):
                rows.append(Row(query, positive, (), query, positive, english=False))
        return rows

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
            for _ in range(self._mixing.versions if len(texts) > 1 else 0):
                two = self._random.sample(texts, 2)
                if self._mixing.pivot > self._random.random() and meaning.pivot not in two:
                    two[self._random.randrange(2)] = meaning.pivot
                rows.append(Row(two[0], two[1], (), meaning.pivot, meaning.pivot, english=True))
        if len({row.asked for row in rows}) < 2:  # rare languages that share no sentence
            texts_of = [[meaning.pivot, *(text for _, text in meaning.texts)] for meaning in near]
            drawn = [(*self._random.sample(texts, 2), texts[0]) for texts in texts_of]
            rows = [Row(query, positive, (), pivot, pivot, english=True) for query, positive, pivot in drawn]
        return rows

    def _answered(self, pair: Pair) -> Row:
        places = range(len(pair.negatives))
        drawn = self._random.sample(places, min(self._mixing.negatives, len(places)))
        scores = (pair.scores[0], *(pair.scores[1 + place] for place in drawn)) if pair.scores else ()
        negatives = tuple(pair.negatives[place] for place in drawn)
        english = pair.language == pair.positive_language == PIVOT
        return Row(pair.query, pair.positive, negatives, pair.query, pair.positive, english, scores)

    def _distinct(self, rows: Sequence[Row]) -> list[Row]:
        """Leave out rows whose query or passage stands in the batch already: it would be right and wrong at once.

        The versions of one meaning are right for each other, and stay.
        """
        kept: list[Row] = []
        seen: set[str] = set()

        def meaning(numbered: tuple[int, Row]) -> str | int:
            number, row = numbered
            return row.asked if row.asked == row.found and row.query != row.positive else number

        for _, versions in groupby(enumerate(rows), meaning):
            new: set[str] = set()
            for _, row in versions:
                own = {letters(row.query), letters(row.positive), letters(row.asked), letters(row.found)}
                if not own & seen and len(kept) < self._mixing.rows:
                    new |= own
                    kept.append(row)
            seen |= new
        return kept
