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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

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
        distil_late: the share of MaxSim in the teacher's similarities, cosines being the rest; of no effect where one
            of the two alone is an objective.
        anchor: the weight of the distance, 1 - cosine, between the dense vector of a text in any language and what the
            teacher makes of it in English (Reimers and Gurevych 2020); of parallel text, and of pairs that are English
            on both sides; a mean over those rows.
        hold: the same by similarities, for token vectors have no partners in another language: the weight of the
            divergence of each side's similarities with the teacher's English texts from the teacher's own.
        keep: the weight of the distance between token vectors and the teacher's, of English texts: where nothing holds
            them, English drifts, and all other languages are brought to where it was.
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
    distil_late: float = 0.5
    anchor: float = 0.0
    hold: float = 0.0
    keep: float = 0.0
    pairs: float = 1.0
    lists: float = 0.0
    list_loss: str = "kl"

    @property
    def taught(self) -> bool:
        """Whether a teacher has a say."""
        return bool(self.distil or self.anchor or self.hold or self.keep)

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if not self.objectives or set(self.objectives) - {"dense", "late"}:
            raise ValueError(f"objectives are dense, late or both, not {', '.join(self.objectives) or 'none'}")
        if self.list_loss not in ("kl", "margin-mse"):
            raise ValueError(f"list_loss is kl or margin-mse, not {self.list_loss}")
        for weight, objective in (("anchor", "dense"), ("keep", "late")):
            if getattr(self, weight) and objective not in self.objectives:
                raise ValueError(f"{weight} needs the objective {objective}: add it, or leave {weight} out")
        if not 0 <= self.distil_late <= 1:
            raise ValueError(f"distil_late = {self.distil_late} is a share, from 0 to 1")
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
    # Tokens that count, one below the other: half of a batch is padding, and so three quarters of padded similarities.
    a, b = (
        normalize(late[side.mask][:, :dims].float(), dim=-1)
        for side, late in ((queries, queries.late), (passages, passages.late))
    )
    by_passage = torch.split(a @ b.T, passages.mask.sum(dim=1).tolist(), dim=1)
    best = torch.stack(
        [own.max(dim=1).values if own.shape[1] else own.new_full((len(own),), FAR) for own in by_passage],
        dim=1,
    )  # (tokens of all queries, m)
    counts = queries.mask.sum(dim=1)
    rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return best.new_zeros(len(counts), best.shape[1]).index_add(0, rows, best) / counts.clamp(min=1)[:, None]


def cosine(queries: Texts, passages: Texts) -> Tensor:
    """Return the cosines of dense vectors, (n, m)."""
    if queries.dense is None or passages.dense is None:
        raise ValueError("this model makes no dense vectors: leave the objective dense out")
    return normalize(queries.dense.float(), dim=-1) @ normalize(passages.dense.float(), dim=-1).T


class Similarity(NamedTuple):
    """A similarity that is trained.

    Attributes:
        compare: of n texts with m, (n, m).
        both: passages may ask by it.
        weight: of its losses: similarities of several lengths are one objective.
    """

    compare: Callable[[Texts, Texts], Tensor]
    both: bool
    weight: float


def similarities(contrast: Contrast) -> list[Similarity]:
    """Return every similarity that is trained."""
    dims = contrast.dims or (None,)
    dense = [Similarity(cosine, contrast.symmetric, 1.0)] if "dense" in contrast.objectives else []
    late = [Similarity(partial(maxsim, dims=some), both=False, weight=1 / len(dims)) for some in dims]
    return dense + (late if "late" in contrast.objectives else [])


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


class Taught(NamedTuple):
    """What the model before training makes of a batch, or of the English side of it.

    Attributes:
        queries: n texts.
        positives: n texts.
        english: (n,) bool, the rows that it read in English, where its vectors are those to come to.
        own: of each side, (n,) bool, which texts of the batch are those that the teacher read; None where none matter.
    """

    queries: Texts
    positives: Texts
    english: Tensor
    own: tuple[Tensor, Tensor] | None = None


class Beside(NamedTuple):
    """What is known of a batch beside its texts.

    Attributes:
        teacher: how the vectors should lie; None for no distillation.
        worth: (n, 1 + columns of negatives) scores of each row's own candidates; None for no scored lists.
        queue: more wrong passages, of which dense vectors alone are compared; None for none.
    """

    teacher: Taught | None = None
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
        beside = beside or Beside()
        taught = beside.teacher
        target = wanted(taught, contrast) if taught is not None and (contrast.distil or contrast.hold) else None
        parts = [kind.weight * _one_loss(columns, contrast, beside, target, kind) for kind in similarities(contrast)]
        if taught is not None and taught.english.any():
            parts += _like_english(columns, taught, target, contrast)
        return torch.stack(parts).sum()


def _like_english(
    columns: Sequence[Texts], taught: Taught, target: Tensor | None, contrast: Contrast
) -> Iterator[Tensor]:
    """Yield what brings texts, in whatever language, to where the teacher had their English side."""
    if contrast.anchor:
        for texts, side in zip(columns[:2], taught[:2], strict=True):
            yield contrast.anchor / 2 * distance(texts, side, taught.english)
    if contrast.hold and target is not None:
        for kind in similarities(contrast):
            yield contrast.hold * kind.weight * held(columns, taught, target, contrast, kind.compare)
    if contrast.keep and taught.own is not None:
        yield contrast.keep * kept(columns, taught, taught.own)


def kept(columns: Sequence[Texts], taught: Taught, own: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean of 1 - cosine between token vectors and the teacher's, of texts that are the teacher's own."""
    near = []
    for texts, teacher, same in zip(columns[:2], taught[:2], own, strict=True):
        rows = same & taught.english
        if texts.late is None or teacher.late is None:
            raise ValueError("keep needs token vectors")
        width = min(texts.mask.shape[1], teacher.mask.shape[1])  # the same texts, padded to different batches
        counts = texts.mask[rows, :width]
        sides = [normalize(x.late[rows, :width][counts].float(), dim=-1) for x in (texts, teacher)]  # type: ignore[index]
        near.append((sides[0] * sides[1]).sum(dim=-1))
    return 1 - torch.cat(near).mean() if sum(map(len, near)) else near[0].sum()


def wanted(taught: Taught, contrast: Contrast) -> Tensor:
    """Return how the teacher shares each query out among the passages, (n, n), rows that add up to 1."""
    queries, positives = taught.queries, taught.positives
    if queries.dense is None:
        similar = maxsim(queries, positives)
    elif queries.late is None:
        similar = cosine(queries, positives)
    else:
        similar = torch.lerp(cosine(queries, positives), maxsim(queries, positives), contrast.distil_late)
    return softmax(similar / contrast.distil_temperature, dim=1)


def held(
    columns: Sequence[Texts],
    taught: Taught,
    target: Tensor,
    contrast: Contrast,
    similarity: Callable[[Texts, Texts], Tensor],
) -> Tensor:
    """Return how far each side is from the teacher's by its similarities to the teacher's other side."""
    sides = similarity(columns[0], taught.positives), similarity(taught.queries, columns[1])
    learned = [log_softmax(side / contrast.temperature, dim=1) for side in sides]
    rows = taught.english
    return torch.stack([kl_div(side[rows], target[rows], reduction="batchmean") for side in learned]).mean()


def distance(texts: Texts, target: Texts, rows: Tensor) -> Tensor:
    """Return the mean of 1 - cosine between dense vectors and those that they should be, over the given rows."""
    return 1 - cosine(texts, target).diagonal()[rows].mean()


def _one_loss(
    columns: Sequence[Texts],
    contrast: Contrast,
    beside: Beside,
    target: Tensor | None,
    kind: Similarity,
) -> Tensor:
    """Return the loss by one similarity; ``target`` is how the teacher shares queries out."""
    queries, positives, *negatives = columns
    similarity = kind.compare
    sides = [similarity(queries, side) for side in (positives, *negatives)]
    loss = torch.cat(sides, dim=1).sum() * 0  # a graph through every vector, whatever is not compared
    if contrast.pairs:
        waiting = [cosine(queries, beside.queue)] if beside.queue is not None and similarity is cosine else []
        own = similarity(queries, queries) if contrast.own_side else None
        loss = info_nce(torch.cat([*sides, *waiting], dim=1), own, contrast.temperature)
        if kind.both:
            own = similarity(positives, positives) if contrast.own_side else None
            loss = (loss + info_nce(similarity(positives, queries), own, contrast.temperature)) / 2
        loss = contrast.pairs * loss
    if target is not None and contrast.distil:
        learned = log_softmax(sides[0] / contrast.temperature, dim=1)
        loss = loss + contrast.distil * kl_div(learned, target, reduction="batchmean")
    if beside.worth is not None:
        lists = torch.stack([side.diagonal() for side in sides], dim=1)
        loss = loss + contrast.lists * list_loss(lists, beside.worth, contrast)
    return loss
