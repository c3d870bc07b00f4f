"""Texts as a model takes them: tokens in windows, made once, and put together in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from retriever.windows import split

# Texts of like length that are tokenized at a time. All are filled up to the longest, by Python: 512 sentences at once
# take .29 s, by 64 .08 s.
CHUNK = 64
# How much of a batch may be filled up, where that takes time.
FILLED = 0.05


class Adapted(NamedTuple):
    """A text, and what the model is to have on for it: an adapter, see `retriever.adapters`, or none."""

    text: str
    adapter: str = ""


class Window(NamedTuple):
    """A text or a part of one, as the model takes it.

    Attributes:
        text: which text it is of.
        features: by name, (T,) each; what the tokenizer filled up is left out.
        adapter: that of the text.
    """

    text: int
    features: Mapping[str, torch.Tensor]
    adapter: str = ""

    @property
    def tokens(self) -> int:
        """T, prompt and special tokens included."""
        return len(self.features["input_ids"])


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Texts that are ready to be encoded, equal ones once, if their adapter is the same.

    Attributes:
        owners: for each of the n texts, its number among those that differ.
        differing: how many those are.
        windows: those of a text in its order; a blank text has none.
        common: what the model is given beside, the same for all.
    """

    owners: Sequence[int]
    differing: int
    windows: Sequence[Window]
    common: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """Tokens that the model will read, nothing filled up."""
        return sum(window.tokens for window in self.windows)

    @property
    def split(self) -> int:
        """Texts that are longer than the model takes and have several windows."""
        counts = [0] * self.differing
        for window in self.windows:
            counts[window.text] += 1
        return sum(counts[owner] > 1 for owner in self.owners)

    def batches(self, tokens: int, size: int | None, *, fills: bool = True) -> Iterator[list[int]]:
        """Cut the windows, longest first, into batches of at most ``tokens``, filled up, and ``size`` windows.

        Each batch has one adapter.
        Where a model ``fills`` a batch up, one that has a quarter of these tokens ends where that would take more than
        :data:`FILLED` of it.
        """
        lengths, adapters = [window.tokens for window in self.windows], [window.adapter for window in self.windows]
        batch: list[int] = []
        read = 0
        for w in sorted(range(len(lengths)), key=lambda w: (adapters[w], -lengths[w])):
            filled = lengths[batch[0]] * (len(batch) + 1) if batch else 0
            uneven = fills and read > tokens // 4 and filled > (1 + FILLED) * (read + lengths[w])
            other = batch and adapters[w] != adapters[batch[0]]
            if batch and (len(batch) == size or filled > tokens or uneven or other):
                yield batch
                batch, read = [], 0
            batch.append(w)
            read += lengths[w]
        if batch:
            yield batch

    def features(self, batch: Sequence[int], tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what the model is given for some windows: (B, T) by name, filled up to the longest."""
        rows = [self.windows[w].features for w in batch]
        longest = max(self.windows[w].tokens for w in batch)
        made: dict[str, Any] = dict(self.common)
        for name, first in rows[0].items():
            fill = tokenizer.pad_token_id or 0 if name == "input_ids" else 0
            made[name] = filled = first.new_full((len(rows), longest), fill)
            for out, row in zip(filled, rows, strict=True):
                own = row[name]
                if tokenizer.padding_side == "left":
                    out[longest - len(own) :] = own
                else:
                    out[: len(own)] = own
        return made


def tokenize(texts: Sequence[Adapted], model: Any, *, task: str, prompt: str, limit: int) -> Tokenized:  # noqa: ANN401
    """Tokenize texts with the model's own ``preprocess``; what is too long for it is split into windows.

    Args:
        texts: n texts with their adapters.
        model: of Sentence Transformers.
        task: ``query`` or ``document``.
        prompt: what stands before every window.
        limit: tokens that the model takes; ``preprocess`` cuts what is longer.
    """
    differing = list(dict.fromkeys(texts))
    numbers = {one: number for number, one in enumerate(differing)}
    common: dict[str, Any] = {}

    def prepare(pieces: Sequence[tuple[int, str]]) -> list[Window]:
        made: dict[int, Window] = {}
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i][1]))
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            features = model.preprocess([pieces[i][1] for i in chunk], prompt=prompt or None, task=task)
            common.update((name, value) for name, value in features.items() if not _is_of_tokens(value, features))
            for i, row in zip(chunk, _rows(features), strict=True):
                text = pieces[i][0]
                made[i] = Window(text, row, differing[text].adapter)
        return [made[i] for i in range(len(pieces))]

    whole = prepare([(number, one.text) for number, one in enumerate(differing) if one.text.strip()])
    parts = [
        (window.text, part)
        for window in whole
        if window.tokens >= limit  # that long, or cut to it
        for part in split(differing[window.text].text, prompt=prompt, tokenizer=model.tokenizer, limit=limit)
    ]
    windows = [window for window in whole if window.tokens < limit] + prepare(parts)
    return Tokenized([numbers[one] for one in texts], len(differing), windows, common)


def _rows(made: Mapping[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Take apart what ``preprocess`` made, (B, T), and leave out what it filled up."""
    used = made["attention_mask"].bool()
    # ColBERT's queries are filled up with tokens that count, though in some models nobody attends to them.
    used = used | made.get("query_expansion_positions", used)
    begins = used.int().argmax(dim=1).tolist()
    ends = (used.shape[1] - used.flip(1).int().argmax(dim=1)).tolist()
    of_tokens = {name: value for name, value in made.items() if _is_of_tokens(value, made)}
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        yield {name: value[i, begin:end] for name, value in of_tokens.items()}


def _is_of_tokens(value: Any, made: Mapping[str, Any]) -> bool:  # noqa: ANN401
    return isinstance(value, torch.Tensor) and value.shape == made["input_ids"].shape
