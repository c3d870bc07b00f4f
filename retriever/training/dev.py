"""Judged queries that are ranked while a model is trained: what tells where it is best, and when to stop.

A held-out loss falls as long as a model learns its training text; whether it finds better is another question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError
from data.readers import BeirFolder
from retriever.training.columns import prompt
from retriever.training.joint import JointLoss
from retriever.training.losses import Texts, cosine, maxsim
from retriever.training.recipe import Dev

METRIC = "MAP"
# Texts that are encoded at a time: MaxSim of 32 queries of 30 tokens and 32 passages of 128 compares 4 million tokens.
_BLOCK = 32


class Ranking:
    """Ranks a sample of a dataset; called by the trainer at every evaluation."""

    primary_metric = METRIC

    def __init__(self, dev: Dev, loss: JointLoss, *, seed: int, tokens: int, bf16: bool) -> None:
        """Draw the sample.

        Args:
            dev: what is ranked.
            loss: encodes, and knows which vectors are trained.
            seed: of the sample.
            tokens: texts are cut to so many.
            bf16: compute in bfloat16, as training does.

        Raises:
            NotFoundError, InputError: no such dataset, or none of its queries has a relevant document.
        """
        self._loss, self._tokens, self._bf16 = loss, tokens, bf16
        reader = BeirFolder.open(Path(dev.path), dev.split)
        relevant = {q: {d for d, grade in own.items() if grade > 0} for q, own in reader.qrels().items()}
        judged = [query for query in reader.queries() if relevant.get(query.id)]
        if not judged:
            raise InputError(f"{dev.path} has no query with a relevant document: nothing can be ranked")
        drawn = random.Random(seed)
        queries = drawn.sample(judged, min(dev.queries, len(judged)))
        wanted = {document for query in queries for document in relevant[query.id]}
        documents = list(reader.documents())
        kept = [document for document in documents if document.id in wanted]
        others = [document for document in documents if document.id not in wanted]
        kept += drawn.sample(others, min(len(others), max(0, dev.documents - len(kept))))
        kept.sort(key=lambda document: len(document.content()))  # like lengths in a block: little padding
        self._queries = [query.text for query in queries]
        self._documents = [document.content() for document in kept]
        self._right = torch.tensor([[document.id in relevant[query.id] for document in kept] for query in queries])

    def __call__(self, model: Any, *_: object) -> dict[str, float]:  # noqa: ANN401
        """Return mean average precision by each kind of vectors that is trained, and the mean of them."""
        training = model.training
        model.eval()
        queries, passages = self._encoded(model, self._queries, 0), self._encoded(model, self._documents, 1)
        model.train(training)
        found = {}
        if "dense" in self._loss.contrast.objectives:
            found[f"dense_{METRIC}"] = self._ranked(cosine, queries, passages)
        if "late" in self._loss.contrast.objectives:
            found[f"late_{METRIC}"] = self._ranked(maxsim, queries, passages)
        return {METRIC: sum(found.values()) / len(found), **found}

    def _ranked(
        self, similarity: Callable[[Texts, Texts], Tensor], queries: Sequence[Texts], passages: Sequence[Texts]
    ) -> float:
        scores = torch.cat([torch.cat([similarity(q, p) for p in passages], dim=1) for q in queries])
        return average_precision(scores.cpu(), self._right)

    def _encoded(self, model: Any, texts: Sequence[str], passage: int) -> list[Texts]:  # noqa: ANN401
        """Return vectors in blocks, in the order of the texts."""
        before = prompt(model, ("query", "passage")[passage])
        device = next(model.parameters()).device
        blocks = []
        for at in range(0, len(texts), _BLOCK):
            features = model.preprocess([before + text for text in texts[at : at + _BLOCK]], max_length=self._tokens)
            here = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in features.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                blocks.append(self._loss.encode_still(here, passage=bool(passage)))
        return blocks


def average_precision(scores: Tensor, right: Tensor) -> float:
    """Return the mean over queries of the average precision of whole rankings.

    Args:
        scores: (n, m), higher is better; equal ones stay in the order of the columns.
        right: (n, m) bool, at least one in each row.
    """
    hits = right.gather(1, scores.argsort(dim=1, descending=True, stable=True)).double()
    precision = hits.cumsum(dim=1) / torch.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(dim=1) / hits.sum(dim=1)).mean())
