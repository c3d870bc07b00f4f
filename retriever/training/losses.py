"""Contrastive losses over both kinds of vectors, from one forward pass.

Every loss takes what Sentence Transformers' trainers hand over: the features of the columns of a batch, queries first,
then positives, then any number of hard negatives. A passage of another row counts as wrong for a query, and so do,
where that is asked for, the other queries: a wrong text in the right language. Without those a model can tell most
wrong passages by their language alone, and learns that.

InfoNCE (van den Oord et al. 2018) of a query i among candidates j, with the similarity s and the temperature t:

    -log(exp(s(i, i) / t) / sum over j of exp(s(i, j) / t))

NT-Xent (Chen et al. 2020) has a row's own side among the candidates and is summed over both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

Features = dict[str, Any]
FAR = -1e4  # the similarity of what does not count: far below every other, and float16 can hold it


class Texts(NamedTuple):
    """Vectors of n texts.

    Attributes:
        dense: (n, d), or None where the model makes none.
        late: (n, T, d), or None where they are not wanted.
        mask: (n, T) bool, the tokens that count.
    """

    dense: Tensor | None
    late: Tensor | None
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Contrast:
    """What is compared, and how.

    Attributes:
        objectives: "dense", "late" or both; their losses are added.
        temperature: similarities are divided by it before the softmax.
        symmetric: passages look for their queries too (dense vectors alone: MaxSim is made for short queries).
        own_side: other queries count as wrong for a query, and other passages for a passage.
        dims: the first so many dimensions of token vectors, each a loss of its own (Matryoshka, Kusupati et al. 2022);
            empty for all dimensions alone.
        distil: the weight of the divergence from the similarities that the model had before training.
        distil_temperature: the teacher's.
        pairs: the weight of InfoNCE.
        lists: the weight of what scored lists teach.
        list_loss: how: "kl", the divergence from the softmax of the scores over a row's own candidates, or
            "margin-mse" (Hofstätter et al. 2020), the squared error of the positive's lead over each negative, with
            scores in units of similarity.
    """

    objectives: tuple[str, ...] = ("dense", "late")
    temperature: float = 0.03
    symmetric: bool = True
    own_side: bool = True
    dims: tuple[int, ...] = ()
    distil: float = 0.0
    distil_temperature: float = 0.03
    pairs: float = 1.0
    lists: float = 0.0
    list_loss: str = "kl"

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if not self.objectives or set(self.objectives) - {"dense", "late"}:
            raise ValueError(f"objectives are dense, late or both, not {', '.join(self.objectives) or 'none'}")
        if self.list_loss not in ("kl", "margin-mse"):
            raise ValueError(f"list_loss is kl or margin-mse, not {self.list_loss}")
        if min(self.temperature, self.distil_temperature) <= 0:
            raise ValueError("temperatures are above 0")


def maxsim(queries: Texts, passages: Texts, dims: int | None = None) -> Tensor:
    """Return the mean over each query's tokens of the best similarity to a passage's, (n, m), from -1 to 1.

    Args:
        queries: n texts.
        passages: m texts.
        dims: the first so many dimensions; None for all.
    """
    if queries.late is None or passages.late is None:
        raise ValueError("maxsim needs token vectors")
    a, b = (normalize(late[..., :dims].float(), dim=-1) for late in (queries.late, passages.late))
    similar = torch.einsum("aqd,bpd->abqp", a, b)
    best = similar.masked_fill(~passages.mask[None, :, None], FAR).amax(dim=-1)  # (n, m, tokens of the query)
    best = best.masked_fill(~queries.mask[:, None], 0)
    return best.sum(dim=-1) / queries.mask.sum(dim=-1).clamp(min=1)[:, None]


def cosine(queries: Texts, passages: Texts) -> Tensor:
    """Return the cosines of dense vectors, (n, m)."""
    if queries.dense is None or passages.dense is None:
        raise ValueError("this model makes no dense vectors: leave the objective dense out")
    return normalize(queries.dense.float(), dim=-1) @ normalize(passages.dense.float(), dim=-1).T


def similarities(contrast: Contrast) -> list[tuple[Callable[[Texts, Texts], Tensor], bool]]:
    """Return every similarity that is trained, and whether passages may ask by it."""
    found: list[tuple[Callable[[Texts, Texts], Tensor], bool]] = []
    if "dense" in contrast.objectives:
        found.append((cosine, contrast.symmetric))
    if "late" in contrast.objectives:
        found += [(partial(maxsim, dims=dims), False) for dims in contrast.dims or (None,)]
    return found


def info_nce(scores: Tensor, own: Tensor | None, temperature: float) -> Tensor:
    """Return InfoNCE of queries whose right candidates are on the diagonal.

    Args:
        scores: (n, m), m >= n.
        own: (n, n), similarities on the queries' own side, which count as wrong; None for none.
        temperature: see the module.
    """
    if own is not None:
        scores = torch.cat([scores, own.masked_fill(torch.eye(len(own), dtype=torch.bool, device=own.device), FAR)], 1)
    return cross_entropy(scores / temperature, torch.arange(len(scores), device=scores.device))


def list_loss(scores: Tensor, worth: Tensor, contrast: Contrast) -> Tensor:
    """Return what scored lists teach; rows that nobody has scored, with NaN for a score, count for nothing.

    Args:
        scores: (n, c), the model's similarities of each query to its own candidates, the positive first.
        worth: (n, c), the teacher's.
        contrast: how.
    """
    known = ~worth.isnan().any(dim=1)
    if not known.any():
        return scores.sum() * 0
    scores, worth = scores[known], worth[known]
    if contrast.list_loss == "margin-mse":
        return ((scores[:, :1] - scores[:, 1:]) - (worth[:, :1] - worth[:, 1:])).square().mean()
    return kl_div(log_softmax(scores / contrast.temperature, dim=1), softmax(worth, dim=1), reduction="batchmean")


class Beside(NamedTuple):
    """What is known of a batch beside its texts.

    Attributes:
        teacher: (n, n) similarities of queries to positives as they should be; None for no distillation.
        worth: (n, 1 + columns of negatives) scores of each row's own candidates; None for no scored lists.
        queue: more wrong passages, of which dense vectors alone are compared; None for none.
    """

    teacher: Tensor | None = None
    worth: Tensor | None = None
    queue: Texts | None = None


def contrast_loss(columns: Sequence[Texts], contrast: Contrast, beside: Beside | None = None) -> Tensor:
    """Return the loss of a batch.

    Args:
        columns: queries, positives, and any number of columns of negatives, n texts each.
        contrast: how.
        beside: what else is known; None for nothing.
    """
    with torch.autocast(columns[0].mask.device.type, enabled=False):  # three digits are too few for similar passages
        found = similarities(contrast)
        late = len(found) - ("dense" in contrast.objectives)  # similarities of several lengths are one objective
        parts = [
            _one_loss(columns, contrast, beside or Beside(), *kind) / (1 if kind[0] is cosine else late)
            for kind in found
        ]
        return torch.stack(parts).sum()


def _one_loss(
    columns: Sequence[Texts],
    contrast: Contrast,
    beside: Beside,
    similarity: Callable[[Texts, Texts], Tensor],
    both: bool,
) -> Tensor:
    """Return the loss by one similarity."""
    queries, positives, *negatives = columns
    sides = [similarity(queries, side) for side in (positives, *negatives)]
    waiting = [cosine(queries, beside.queue)] if beside.queue is not None and similarity is cosine else []
    own = similarity(queries, queries) if contrast.own_side else None
    loss = info_nce(torch.cat([*sides, *waiting], dim=1), own, contrast.temperature)
    if both:
        own = similarity(positives, positives) if contrast.own_side else None
        loss = (loss + info_nce(similarity(positives, queries), own, contrast.temperature)) / 2
    loss = contrast.pairs * loss
    if beside.teacher is not None:
        learned = log_softmax(sides[0] / contrast.temperature, dim=1)
        wanted = softmax(beside.teacher / contrast.distil_temperature, dim=1)
        loss = loss + contrast.distil * kl_div(learned, wanted, reduction="batchmean")
    if beside.worth is not None:
        lists = torch.stack([side.diagonal() for side in sides], dim=1)
        loss = loss + contrast.lists * list_loss(lists, beside.worth, contrast)
    return loss


def text_mask(features: Features, special: Tensor, prompted: int) -> Tensor:
    """Return which tokens count in late interaction: neither special ones nor the prompt before the text, (n, T)."""
    ids = features["input_ids"]
    ordinary = ~torch.isin(ids, special.to(ids.device))
    mask: Tensor = features["attention_mask"].bool() & ordinary & (ordinary.cumsum(dim=1) > prompted)
    return mask


class JointLoss(nn.Module):
    """The loss that Sentence Transformers' trainers call.

    With ``mini_batch`` it is GradCache (Gao et al. 2021): vectors are made without a graph, so many texts at a time,
    and made again for the gradients, so a batch may be far larger than what fits into memory at once.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        contrast: Contrast,
        *,
        prompted: Sequence[int] = (0, 0),
        mini_batch: int | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: a ``SentenceTransformer`` or ``MultiVectorEncoder``.
            contrast: what is compared.
            prompted: tokens of the prompts of queries and of passages.
            mini_batch: texts in one forward pass; None for all, without GradCache.
        """
        super().__init__()
        self.model = model
        self.contrast = contrast
        self.mini_batch = mini_batch
        self._prompted = tuple(prompted)
        self._own_mask = type(model).__name__ == "MultiVectorEncoder"
        self._special = torch.tensor(sorted(model.tokenizer.all_special_ids), dtype=torch.int64)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch: queries, positives, negatives, and, where it distils, what the teacher reads."""
        columns, teacher = self.taught(sentence_features)
        beside = Beside(teacher, labels)
        return self.compare(columns, partial(contrast_loss, contrast=self.contrast, beside=beside))

    def memory(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep beside the model, by name; here nothing."""
        return {}

    def taught(self, sentence_features: Iterable[Features]) -> tuple[list[Features], Tensor | None]:
        """Return the columns without those of the teacher, and what it says of them."""
        columns = list(sentence_features)
        if not self.contrast.distil:
            return columns, None
        *columns, asked, found = columns
        return columns, self._teacher(asked, found)

    def compare(self, columns: Sequence[Features], loss: Callable[[Sequence[Texts]], Tensor]) -> Tensor:
        """Return the loss of columns, queries first, with gradients through all of them."""
        if self.mini_batch is None:
            return loss([self.encode(column, passage=place > 0) for place, column in enumerate(columns)])
        return self._cached(columns, loss)

    def encode(self, features: Features, *, passage: bool, run: Callable[[Features], Features] | None = None) -> Texts:
        """Run texts through the model, or through ``run`` in its place."""
        out = (run or self.model)(dict(features))
        late, mask = None, out["attention_mask"].bool()
        if not self._own_mask:
            mask = text_mask(features, self._special, self._prompted[passage])
        if "late" in self.contrast.objectives:
            late = out["token_embeddings"]
        return Texts(out.get("sentence_embedding") if "dense" in self.contrast.objectives else None, late, mask)

    def encode_still(
        self, features: Features, *, passage: bool, run: Callable[[Features], Features] | None = None
    ) -> Texts:
        """Encode without a graph, ``mini_batch`` texts at a time."""
        size = self.mini_batch or len(features["input_ids"])
        with torch.no_grad():
            return _joined([self.encode(some, passage=passage, run=run) for some in _cut(features, size)])

    def _teacher(self, asked: Features, found: Features) -> Tensor:
        """Return the similarities that the model had before its adapters were added."""
        with torch.no_grad(), _without_adapters(self.model):
            a = normalize(self.model(dict(asked))["sentence_embedding"].float(), dim=-1)
            if torch.equal(asked["input_ids"], found["input_ids"]):  # parallel text
                return a @ a.T
            return a @ normalize(self.model(dict(found))["sentence_embedding"].float(), dim=-1).T

    def _cached(self, columns: Sequence[Features], compared: Callable[[Sequence[Texts]], Tensor]) -> Tensor:
        """Return the loss; its backward pass runs the model again, a few texts at a time."""
        leaves = [self.encode_still(column, passage=place > 0) for place, column in enumerate(columns)]
        kept = [[v.detach().requires_grad_() for v in texts[:2] if v is not None] for texts in leaves]
        learns = torch.is_grad_enabled()
        learns = torch.is_grad_enabled()
        with torch.enable_grad():
            loss = compared([_with(texts, own) for texts, own in zip(leaves, kept, strict=True)])
            if not learns:
                return loss.detach()
            flat = [vector for own in kept for vector in own]
            slopes = iter(torch.autograd.grad(loss, flat))
        loss = loss.detach().requires_grad_()
        wanted = [[next(slopes) for _ in own] for own in kept]
        kind = loss.device.type
        amp = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
        loss.register_hook(partial(self._again, columns, wanted, amp))  # type: ignore[no-untyped-call]
        return loss

    def _again(
        self, columns: Sequence[Features], wanted: Sequence[Sequence[Tensor]], amp: torch.autocast, scale: Tensor
    ) -> None:
        """Encode everything again, with a graph, and hand on the gradients of the vectors."""
        size = self.mini_batch or 1
        for place, (column, slopes) in enumerate(zip(columns, wanted, strict=True)):
            for number, some in enumerate(_cut(column, size)):
                with torch.enable_grad():
                    with amp:
                        texts = self.encode(some, passage=place > 0)
                    vectors = [vector for vector in texts[:2] if vector is not None]
                    here = slice(number * size, number * size + len(texts.mask))
                    product = torch.zeros((), device=scale.device)
                    for vector, slope in zip(vectors, slopes, strict=True):
                        product = product + (vector.float() * slope[here].float()).sum()
                    (product * scale).backward()  # type: ignore[no-untyped-call]


def _cut(column: Features, size: int) -> Iterator[Features]:
    """Yield the features of so many texts at a time."""
    for at in range(0, len(column["input_ids"]), size):
        yield {k: v[at : at + size] if isinstance(v, Tensor) else v for k, v in column.items()}


def _joined(parts: Sequence[Texts]) -> Texts:
    dense, late, mask = zip(*parts, strict=True)
    return Texts(
        None if dense[0] is None else torch.cat(dense), None if late[0] is None else torch.cat(late), torch.cat(mask)
    )


def _with(texts: Texts, vectors: Sequence[Tensor]) -> Texts:
    """Return texts with other vectors in the places of those that they have."""
    left = iter(vectors)
    return Texts(texts.dense if texts.dense is None else next(left), next(left, None), texts.mask)


@contextmanager
def _without_adapters(model: nn.Module) -> Iterator[None]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
