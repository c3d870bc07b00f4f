"""What Sentence Transformers' trainers call: vectors of all columns of a batch, compared as `losses` says.

Texts are run through the model with others of like length, whatever their places in the batch: half of a batch that is
padded to its longest text is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from retriever.training.losses import Beside, Contrast, Taught, Texts, contrast_loss

Features = dict[str, Any]
# Tokens, padding among them, in one forward pass of texts of like lengths. On a processor what a layer makes of so many
# fits into its caches, and less is padding: a step of 80 pairs takes 8 s instead of 13.
BLOCK = {"cpu": 2048, "card": 32768}


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
        # The projection moves as well; a teacher has that of the beginning, for a training that goes on too.
        self._still = {
            name: values.detach().clone()
            for name, values in model.named_parameters()
            if values.requires_grad and ".lora_" not in name
        }
        self._special = torch.tensor(sorted(model.tokenizer.all_special_ids), dtype=torch.int64)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch: queries, positives, negatives, and, where it distils, what the teacher reads."""
        columns, teacher = self.taught(sentence_features)
        beside = Beside(teacher, labels)
        return self.compare(columns, partial(contrast_loss, contrast=self.contrast, beside=beside))

    def memory(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep beside the model, by name; here nothing."""
        return {}

    def taught(self, sentence_features: Iterable[Features]) -> tuple[list[Features], Taught | None]:
        """Return the columns without those of the teacher, and what it says of them."""
        columns = list(sentence_features)
        if not self.contrast.taught:
            return columns, None
        *columns, asked, found = columns
        english = asked["english"]
        asked = {name: values for name, values in asked.items() if name != "english"}
        taught = Taught(*self._teacher(asked, found), english)
        if self.contrast.keep:
            same = [_same_text(*sides) for sides in zip(columns[:2], (asked, found), strict=True)]
            taught = taught._replace(own=(same[0], same[1]))
        return columns, taught

    def compare(self, columns: Sequence[Features], loss: Callable[[Sequence[Texts]], Tensor]) -> Tensor:
        """Return the loss of columns, queries first, with gradients through all of them."""
        if self.mini_batch is None:
            return loss([self.encode(column, passage=place > 0) for place, column in enumerate(columns)])
        return self._cached(columns, loss)

    def encode(self, features: Features, *, passage: bool, run: Callable[[Features], Features] | None = None) -> Texts:
        """Run texts through the model, or through ``run`` in its place."""
        if self._own_mask:  # tokens that are not attended to may count
            return self._encode(features, run or self.model, passage=passage)
        parts, order = [], []
        for rows, some in _alike(features):
            parts.append(_wide(self._encode(some, run or self.model, passage=passage), features["input_ids"].shape[1]))
            order.append(rows)
        places = torch.cat(order).argsort()
        return Texts(*(None if part is None else part[places] for part in _joined(parts)))  # type: ignore[arg-type]

    def _encode(self, features: Features, run: Callable[[Features], Features], *, passage: bool) -> Texts:
        out = run(dict(features))
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

    def _teacher(self, asked: Features, found: Features) -> tuple[Texts, Texts]:
        """Return what the model made of texts before it was trained."""
        run = partial(functional_call, getattr(self.model, "module", self.model), self._still)
        with torch.no_grad(), _without_adapters(self.model):
            return self._once(asked, passage=False, run=run), self._once(found, passage=True, run=run)

    def _once(self, features: Features, *, passage: bool, run: Callable[[Features], Features]) -> Texts:
        """Encode each text once, however often it stands in the batch."""
        _, places = torch.unique(features["input_ids"], dim=0, return_inverse=True)
        first = torch.zeros(int(places.max()) + 1, dtype=torch.long, device=places.device)
        first[places.flip(0)] = torch.arange(len(places), device=places.device).flip(0)
        own = {k: v[first] if isinstance(v, Tensor) else v for k, v in features.items()}
        found = self.encode(own, passage=passage, run=run)
        return Texts(*(None if part is None else part[places] for part in found))  # type: ignore[arg-type]

    def _cached(self, columns: Sequence[Features], compared: Callable[[Sequence[Texts]], Tensor]) -> Tensor:
        """Return the loss; its backward pass runs the model again, a few texts at a time."""
        leaves = [self.encode_still(column, passage=place > 0) for place, column in enumerate(columns)]
        kept = [[v.detach().requires_grad_() for v in texts[:2] if v is not None] for texts in leaves]
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


def _same_text(texts: Features, others: Features) -> Tensor:
    """Return which rows are the same text, (n,) bool, whatever they are padded to."""
    ids, rest = [side["input_ids"] * side["attention_mask"] for side in (texts, others)]
    width = max(ids.shape[1], rest.shape[1])
    return (pad(ids, (0, width - ids.shape[1])) == pad(rest, (0, width - rest.shape[1]))).all(dim=1)


def _cut(column: Features, size: int) -> Iterator[Features]:
    """Yield the features of so many texts at a time."""
    for at in range(0, len(column["input_ids"]), size):
        yield {k: v[at : at + size] if isinstance(v, Tensor) else v for k, v in column.items()}


def _alike(features: Features) -> Iterator[tuple[Tensor, Features]]:
    """Yield texts of like lengths, without the padding that none of them needs, and their rows."""
    mask = features["attention_mask"]
    lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1).clamp(min=1)
    rows = lengths.argsort(stable=True)
    most = BLOCK["cpu" if mask.device.type == "cpu" else "card"]
    end = len(rows)
    while end:
        width = int(lengths[rows[end - 1]])
        begin = max(0, end - max(1, most // width))
        own = rows[begin:end]
        yield own, {k: _narrow(v[own], width, mask) if isinstance(v, Tensor) else v for k, v in features.items()}
        end = begin


def _narrow(values: Tensor, width: int, mask: Tensor) -> Tensor:
    """Cut what has a column for each token."""
    return values[:, :width] if values.shape[1:] == mask.shape[1:] else values


def _wide(texts: Texts, width: int) -> Texts:
    """Return texts padded to so many tokens."""
    more = width - texts.mask.shape[1]
    late = texts.late if texts.late is None else pad(texts.late, (0, 0, 0, more))
    return Texts(texts.dense, late, pad(texts.mask, (0, more)))


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
