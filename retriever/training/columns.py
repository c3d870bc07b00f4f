"""What the trainer is handed: the columns of all batches, their prompts, and the order that they come in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler

from retriever.training.batches import Row
from retriever.training.recipe import Recipe

ENGLISH = "asked_english"  # the trainer hands it to the loss with the features of the column "asked"
PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}


def prompt(model: Any, role: str) -> str:  # noqa: ANN401
    """Return what the model has before a "query" or a "passage"."""
    return next((model.prompts[name] for name in PROMPTS[role] if model.prompts.get(name)), "")


def prompt_tokens(model: Any, role: str) -> int:  # noqa: ANN401
    """Return how many ordinary tokens that is."""
    ids = model.tokenizer(prompt(model, role).rstrip(), add_special_tokens=False)["input_ids"]
    special = set(model.tokenizer.all_special_ids)
    return sum(token not in special for token in ids)


def dataset(batches: Sequence[Sequence[Row]], model: Any, recipe: Recipe) -> Any:  # noqa: ANN401
    """Return all rows, in columns, with the number of their batch."""
    from datasets import Dataset

    rows = [row for batch in batches for row in batch]
    passage, query = prompt(model, "passage"), prompt(model, "query")
    columns: dict[str, list[Any]] = {
        "query": [query + row.query for row in rows],
        "positive": [passage + row.positive for row in rows],
    }
    for place in range(recipe.mixing.negatives):
        texts = [row.negatives[place] if place < len(row.negatives) else "" for row in rows]
        columns[f"negative_{place + 1}"] = [passage + text for text in texts]
    if recipe.contrast.taught:
        columns["asked"] = [query + row.asked for row in rows]
        columns["found"] = [passage + row.found for row in rows]
        columns[ENGLISH] = [row.english for row in rows]
    if recipe.contrast.lists:
        count = 1 + recipe.mixing.negatives
        unknown = [math.nan] * count
        columns["label"] = [list(row.scores) if len(row.scores) == count else unknown for row in rows]
    columns["batch"] = [number for number, batch in enumerate(batches) for _ in batch]
    return Dataset.from_dict(columns)


class InOrder(BatchSampler):
    """Batches as they were put together."""

    def __init__(self, dataset: Any, **_: Any) -> None:  # noqa: ANN401
        """Find where batches begin in the column ``batch``."""
        numbers = dataset["batch"]
        self._batches: list[list[int]] = []
        for place, number in enumerate(numbers):
            if not place or number != numbers[place - 1]:
                self._batches.append([])
            self._batches[-1].append(place)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of every batch."""
        return iter(self._batches)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)


def collator(model: Any, tokens: int) -> Any:  # noqa: ANN401
    """Return what makes tensors of rows, texts cut to so many tokens."""
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

    class Collator(SentenceTransformerDataCollator):
        """Makes no tokens of what is no text: the number of the batch, and which rows are English."""

        def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
            texts = [{k: v for k, v in f.items() if k not in ("batch", ENGLISH)} for f in features]
            found: dict[str, Any] = super().__call__(texts)
            if ENGLISH in features[0]:
                found[ENGLISH] = torch.tensor([f[ENGLISH] for f in features])
            return found

    return Collator(preprocess_fn=model.preprocess, max_length=tokens)
