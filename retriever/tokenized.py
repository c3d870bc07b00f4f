"""Texts as a model takes them: tokens in windows, made once, and put together in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from retriever.windows import split

# Texts that are tokenized at a time: the tokenizer fills all up to the longest, 8 MB with 512 tokens each.
CHUNK = 1024


class Window(NamedTuple):
    """A text or a part of one, as the model takes it.

    Attributes:
        text: which text it is of.
        features: by name, (T,) each; what the tokenizer filled up is left out.
    """

    text: int
    features: Mapping[str, torch.Tensor]

    @property
    def tokens(self) -> int:
        """T, prompt and special tokens included."""
        return len(self.features["input_ids"])


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Texts that are ready to be encoded, equal ones once.

    Attributes:
        owners: for each of the n texts, its number among those that differ.
        differing: how many those are.
        windows: in the order of the texts; a blank text has none.
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

    def batches(self, tokens: int, size: int | None) -> Iterator[list[int]]:
        """Cut the windows, longest first, into batches of at most ``tokens``, filled up, and ``size`` windows."""
        lengths = [window.tokens for window in self.windows]
        batch: list[int] = []
        for w in sorted(range(len(lengths)), key=lambda w: -lengths[w]):
            if batch and (len(batch) == size or lengths[batch[0]] * (len(batch) + 1) > tokens):
                yield batch
                batch = []
            batch.append(w)
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


def tokenize(texts: Sequence[str], model: Any, *, task: str, prompt: str, limit: int) -> Tokenized:  # noqa: ANN401
    """Tokenize texts with the model's own ``preprocess``; what is too long for it is split into windows.

    Args:
        texts: n texts.
        model: of Sentence Transformers.
        task: ``query`` or ``document``.
        prompt: what stands before every window.
        limit: tokens that the model takes; ``preprocess`` cuts what is longer.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    windows: list[Window] = []
    long: list[tuple[int, str]] = []
    common: dict[str, Any] = {}

    def add(pieces: Sequence[tuple[int, str]], *, whole: bool) -> None:
        for start in range(0, len(pieces), CHUNK):
            chunk = pieces[start : start + CHUNK]
            made = model.preprocess([text for _, text in chunk], prompt=prompt or None, task=task)
            common.update((name, value) for name, value in made.items() if not _is_of_tokens(value, made))
            for (number, text), features in zip(chunk, _rows(made), strict=True):
                if whole and len(features["input_ids"]) >= limit:  # that long, or cut to it
                    long.append((number, text))
                else:
                    windows.append(Window(number, features))

    add([(number, text) for text, number in numbers.items() if text.strip()], whole=True)
    pieces = [
        (number, piece)
        for number, text in long
        for piece in split(text, prompt=prompt, tokenizer=model.tokenizer, limit=limit)
    ]
    add(pieces, whole=False)
    return Tokenized([numbers[text] for text in texts], len(numbers), windows, common)


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
