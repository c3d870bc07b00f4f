"""Token vectors of many texts in one array: the only shape in which vectors travel.

A dense vector is a text with one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Vectors of ``n`` texts: text ``i`` owns ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: (T, d) float16 or float32.
        offsets: (n + 1,) int64, from 0 to T, never falling.

    Raises:
        ValueError: where shapes and offsets do not fit, with both numbers.
    """

    values: Floats
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check what every kernel relies on."""
        if self.values.ndim != 2:
            raise ValueError(f"values must have two dimensions (T, d), got {self.values.ndim}")
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.offsets[0] != 0:
            raise ValueError(f"offsets must be (n + 1,) and start with 0, got {self.offsets.shape} {self.offsets[:1]}")
        if self.offsets[-1] != len(self.values):
            raise ValueError(f"offsets end at {self.offsets[-1]} but there are {len(self.values)} vectors")
        falls = np.flatnonzero(np.diff(self.offsets) < 0)
        if len(falls):
            before, after = self.offsets[falls[0] : falls[0] + 2]
            raise ValueError(f"offsets must not fall, but text {falls[0]} goes from {before} to {after}")

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Floats:
        """Return the vectors of text ``i``, (T_i, d), as a view."""
        if not 0 <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @classmethod
    def of(cls, texts: Sequence[Floats], dims: int) -> Ragged:
        """Gather the vectors of each text, a list of (T_i, dims), into one array."""
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts], dtype=np.int64)]).astype(np.int64)
        values = np.concatenate(texts) if texts else np.empty((0, dims), np.float32)
        return cls(values.reshape(-1, dims), offsets)

    def take(self, texts: NDArray[np.integer]) -> Ragged:
        """Return the chosen texts, in that order, as a copy."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        # Position of every wanted vector: where its text begins, plus its place inside the text.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[texts] - offsets[:-1], lengths)
        return Ragged(self.values[places], offsets)

    @property
    def dims(self) -> int:
        """Return d."""
        return int(self.values.shape[1])

    def spans(self) -> Iterator[tuple[int, Ragged]]:
        """Yield all texts in order, each time with the first one's number: here at once, elsewhere some at a time."""
        if len(self):
            yield 0, self
