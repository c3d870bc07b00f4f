"""Momentum contrast: the passages of batches gone by, as wrong answers for this one.

He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"; for text Izacard et al. 2022
(Contriever). Queries go through the encoder that is trained, passages through one that follows it slowly,

    followed = momentum * followed + (1 - momentum) * trained

at each step before it is used, so that vectors made some steps ago still compare with those of now. They wait in a
queue, the oldest leave it, and InfoNCE has all of them among its candidates beside the passages of the batch.

Only what is trained is followed: with LoRA that is some megabytes, and no second model is held. The queue has dense
vectors alone. A text's token vectors are a hundred times as much, 65,536 texts of 128 tokens and 128 dims 4.3 GB, and
MaxSim would compare every query's tokens with all of them at every step; late interaction is contrasted within the
batch. A queue should be far shorter than the passages are many: what else was cut of a query's passage is wrong in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize

from data.errors import UsageError
from retriever.training.joint import Features, JointLoss
from retriever.training.losses import Beside, Contrast, Texts, contrast_loss


@dataclass(frozen=True, slots=True)
class Moco:
    """The queue and the encoder that fills it.

    Attributes:
        queue: how many vectors wait.
        momentum: how slowly the encoder of passages follows, from 0 (at once) to 1 (never).
    """

    queue: int = 16_384
    momentum: float = 0.999

    def __post_init__(self) -> None:
        """Refuse what is no queue and no momentum."""
        if self.queue < 1 or not 0 <= self.momentum <= 1:
            raise ValueError(f"queue = {self.queue} should be from 1 on and momentum = {self.momentum} from 0 to 1")


class Ring(nn.Module):
    """The last vectors that were pushed, in a buffer that is written round and round."""

    vectors: Tensor
    pushed: Tensor

    def __init__(self, size: int, dims: int) -> None:
        """Make room for ``size`` vectors; there are none yet."""
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, dims))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def push(self, vectors: Tensor) -> None:
        """Put vectors, (n, d), at the end; the oldest make room."""
        size, before = len(self.vectors), int(self.pushed)
        kept = vectors[-size:].detach().to(self.vectors)
        last = before + len(vectors)
        self.vectors[torch.arange(last - len(kept), last, device=kept.device) % size] = kept
        self.pushed += len(vectors)

    def held(self) -> Tensor:
        """Return what is there, oldest first, (m, d)."""
        size, pushed = len(self.vectors), int(self.pushed)
        # A copy either way: what comes next overwrites the buffer before the gradients are made.
        return self.vectors[:pushed].clone() if pushed <= size else self.vectors.roll(-(pushed % size), dims=0)


class MomentumLoss(JointLoss):
    """The loss of `JointLoss` with a queue; what is evaluated has neither queue nor second encoder.

    So held-out losses compare: with those of other steps, when the queue was shorter, and of other recipes.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        contrast: Contrast,
        *,
        moco: Moco,
        prompted: Sequence[int] = (0, 0),
        mini_batch: int | None = None,
    ) -> None:
        """Wrap a model, see `JointLoss`.

        Raises:
            UsageError: dense vectors are not trained, and there is nothing to wait in the queue.
        """
        super().__init__(model, contrast, prompted=prompted, mini_batch=mini_batch)
        if "dense" not in contrast.objectives:
            raise UsageError('[moco] has a queue of dense vectors: add "dense" to the objectives, or leave it out')
        self.momentum = moco.momentum
        self.queue = Ring(moco.queue, len(model.encode("a", show_progress_bar=False))).to(model.device)
        self.followed = {name: values.detach().clone() for name, values in self._trained()}

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None = None) -> Tensor:
        """Return the loss of a batch; in training also follow, and put its passages into the queue."""
        if not self.model.training:
            return super().forward(sentence_features, labels)
        (queries, *passages), teacher = self.taught(sentence_features)
        self._follow()
        run = partial(functional_call, self.model, self.followed)
        keys = [self.encode_still(column, passage=True, run=run) for column in passages]
        held = self.queue.held()
        waiting = Texts(held, None, torch.ones(len(held), 1, dtype=torch.bool, device=held.device))

        def compared(own: Sequence[Texts]) -> Tensor:
            return contrast_loss([*own, *keys], self.contrast, Beside(teacher, labels, waiting))

        loss = self.compare([queries], compared)
        self.queue.push(normalize(cast("Tensor", keys[0].dense).float(), dim=-1))
        return loss

    def memory(self) -> dict[str, Tensor]:
        """Return the queue and the weights that follow, which a checkpoint must keep."""
        waiting = {f"queue.{name}": values for name, values in self.queue.named_buffers()}
        return waiting | {f"followed.{name}": values for name, values in self.followed.items()}

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, values) for name, values in self.model.named_parameters() if values.requires_grad)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the encoder of passages: once a step, before it is used, as He et al. do."""
        for name, values in self._trained():
            self.followed[name].lerp_(values, 1 - self.momentum)
