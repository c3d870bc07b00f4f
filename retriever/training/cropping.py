"""Pairs out of text alone: two views of one passage, drawn anew whenever they are asked for.

Independent cropping (Izacard et al. 2022, "Unsupervised Dense Information Retrieval with Contrastive Learning",
Contriever) takes two random spans of one passage, each of 5 to 50 % of its length; the inverse cloze task (Lee et al.
2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering") a span as the query and what is left as
the passage, with the span left in now and then, so that shared words still count for something. Contriever's
augmentation follows: some units of both sides are dropped, others replaced by ones of other text.

A unit is a word with the blanks behind it; in scripts written without blanks it is a grapheme cluster (Unicode
Standard Annex 29), and nothing is ever cut inside of one: neither a letter from its marks nor a family of emoji.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import regex

_UNSPACED = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}]"
)
# \X takes a whole cluster, so that what it is asked for its first character does not end inside of one.
_UNIT = regex.compile(rf"(?:(?={_UNSPACED})\X|(?:(?![\s{_UNSPACED[1:]})\X)++)?(?:(?=\s)\X)*+", regex.V1)
# Contriever's documents are of so many tokens; of a shorter text than LEAST, 5 to 50 % are hardly a word.
MOST = 256
LEAST = 8


@dataclass(frozen=True, slots=True)
class Cropping:
    """How pairs are made of a passage.

    Attributes:
        cloze: the share of pairs that are an inverse cloze; the others are two independent crops.
        shortest: of a span, as a part of the passage.
        longest: the same.
        keep: how often the passage of an inverse cloze keeps the span.
        delete: the probability of each unit to be dropped.
        replace: of each unit to be replaced by one of another passage.
    """

    cloze: float = 0.0
    shortest: float = 0.05
    longest: float = 0.5
    keep: float = 0.1
    delete: float = 0.1
    replace: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no probability, and spans that cannot be."""
        for name in ("cloze", "keep", "delete", "replace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} should be from 0 to 1")
        if not 0 < self.shortest <= self.longest < 1:
            raise ValueError(f"shortest = {self.shortest} and longest = {self.longest} should rise between 0 and 1")


def units(text: str) -> list[str]:
    """Cut a text into its units; joined again they are the text without the blanks around it."""
    return [found for found in _UNIT.findall(text.strip()) if found]


def passages(text: str) -> list[str]:
    """Cut a text into parts of like length, of at most :data:`MOST` units each."""
    all_units = units(text)
    count = -(-len(all_units) // MOST)
    ends = [len(all_units) * number // count for number in range(count + 1)] if count else []
    return [_joined(all_units[a:b]) for a, b in pairwise(ends)]


def pair(text: str, how: Cropping, rng: random.Random, *, other: str = "") -> tuple[str, str]:
    """Draw a query and a passage out of one text of two units or more.

    Args:
        text: what both are spans of.
        how: see there.
        rng: draws.
        other: the text that replaced units come from; "" for none to be replaced.

    Raises:
        ValueError: the text has fewer than two units.
    """
    parts, foreign = units(text), units(other)
    if len(parts) < 2:
        raise ValueError(f"a text of {len(parts)} units has no two sides: {text[:40]!r}")
    query, passage = _cloze(parts, how, rng) if rng.random() < how.cloze else _crops(parts, how, rng)
    return _joined(_augmented(query, how, rng, foreign)), _joined(_augmented(passage, how, rng, foreign))


def _span(count: int, how: Cropping, rng: random.Random) -> tuple[int, int]:
    """Draw where a span of some of so many units begins and ends: one unit at least, never all of them."""
    length = min(max(1, int(count * rng.uniform(how.shortest, how.longest))), count - 1)
    start = rng.randint(0, count - length)
    return start, start + length


def _crops(parts: Sequence[str], how: Cropping, rng: random.Random) -> tuple[Sequence[str], Sequence[str]]:
    (a, b), (c, d) = _span(len(parts), how, rng), _span(len(parts), how, rng)
    return parts[a:b], parts[c:d]


def _cloze(parts: Sequence[str], how: Cropping, rng: random.Random) -> tuple[Sequence[str], Sequence[str]]:
    start, end = _span(len(parts), how, rng)
    return parts[start:end], parts if rng.random() < how.keep else [*parts[:start], *parts[end:]]


def _augmented(parts: Sequence[str], how: Cropping, rng: random.Random, foreign: Sequence[str]) -> Sequence[str]:
    """Drop and replace units, but leave one at least."""
    kept = [part for part in parts if rng.random() >= how.delete] or [rng.choice(parts)]
    return [_instead(part, rng.choice(foreign)) if foreign and rng.random() < how.replace else part for part in kept]


def _instead(part: str, other: str) -> str:
    """Return another unit with the blanks of this one."""
    return other.rstrip() + part[len(part.rstrip()) :]


def _joined(parts: Sequence[str]) -> str:
    return "".join(parts).strip()
