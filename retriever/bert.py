"""BERT and its kin in whole numbers, in the place of the PyTorch model: twice as fast on a processor without AMX.

With AMX it is so for a question alone, and :class:`MixedBert` leaves the rest to PyTorch in bfloat16.
The layers are computed by `retriever.kernels`; what comes before, and after, is PyTorch's or NumPy's.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutput

from index.parallel import share
from retriever import kernels
from retriever.kernels import Layers, Matrices, Piece
from retriever.lanes import MOST, WEIGHT, WIDTH

KINDS = ("bert", "xlm-roberta", "roberta")
# Tokens in one piece: what lies between two layers stays in the second- and third-level cache.
PIECE = 128
# Tokens of a batch that :class:`MixedBert` computes in whole numbers: about where both take the same time.
FEW = 48


class WholeNumberBert(torch.nn.Module):
    """The model of a ``BertModel`` or ``XLMRobertaModel`` that is only asked for its last hidden states."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        """Take over a model's weights; it has to be one that :func:`suits`."""
        super().__init__()
        self.config = model.config
        self._embeddings = model.embeddings
        self._layers = _layers(list(model.encoder.layer))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:  # noqa: ANN401
        """Return ``last_hidden_state`` (B, T, H) for tokens (B, T); what the mask leaves out is 0 there."""
        mask = attention_mask.bool()
        with torch.inference_mode():
            embedded = self._embeddings(input_ids=input_ids)
        lengths = mask.sum(dim=1).numpy()
        packed = np.ascontiguousarray(embedded[mask].float().numpy())
        hidden = torch.zeros(embedded.shape, dtype=embedded.dtype)
        hidden[mask] = torch.from_numpy(self._encode(packed, lengths)).to(embedded.dtype)
        return BaseModelOutput(last_hidden_state=hidden)

    def _encode(self, tokens: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Bring embedded tokens (T, H) of some texts through the layers, in pieces.

        Each core takes a piece of its own; when none is left it helps with those that are not done, so that both cores
        work on a single question.
        """
        ends, config = np.cumsum(lengths), self.config
        pieces: list[tuple[int, int]] = []  # texts
        first = 0
        while first < len(lengths):
            start = ends[first] - lengths[first]
            last = max(first + 1, int(np.searchsorted(ends, start + PIECE, side="right")))
            pieces.append((first, last))
            first = last
        begun: dict[int, Piece | None] = {}
        lock = threading.Lock()

        def work(number: int) -> None:
            first, last = pieces[number]
            own = slice(ends[first] - lengths[first], ends[last - 1])
            with lock:
                if number not in begun:
                    begun[number] = kernels.piece(tokens[own], lengths[first:last], self._layers)
                piece = begun[number]
            if piece is not None:
                kernels.forward(piece, self._layers, config.num_attention_heads, config.layer_norm_eps)
                with lock:
                    tokens[own], begun[number] = piece.x[: own.stop - own.start], None

        share([*range(len(pieces))] * (os.cpu_count() or 1), work)
        return tokens


class MixedBert(torch.nn.Module):
    """A model as it is, and in whole numbers where a batch has no more than :data:`FEW` tokens.

    With matrix units a batch is faster in bfloat16; of a question alone most is what PyTorch does between the products.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        """Take a model in float32 that :func:`suits`; it may be converted afterwards, with this around it."""
        super().__init__()
        self.config = model.config
        self._few, self._many = WholeNumberBert(model), model

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> Any:  # noqa: ANN401
        """Return what one of the two makes of tokens (B, T)."""
        return (self._few if input_ids.numel() <= FEW else self._many)(input_ids=input_ids, **rest)


def suits(transformer: Any) -> bool:  # noqa: ANN401
    """Return whether :class:`WholeNumberBert` computes what the model of a ``Transformer`` module does."""
    model: Any = getattr(transformer, "model", None)
    config = getattr(model, "config", None)
    # ColBERT's expanded queries may have tokens that nobody looks at and that are used nevertheless.
    expansion = getattr(transformer, "query_expansion", None) or {"attend": True}
    if config is None or config.model_type not in KINDS or not expansion["attend"]:
        return False
    if transformer.modality_config["text"]["method_output_name"] != "last_hidden_state":
        return False
    size = config.hidden_size // config.num_attention_heads
    weighted = [part for part in model.encoder.modules() if next(part.parameters(recurse=False), None) is not None]
    return bool(
        all(n % WIDTH == 0 for n in (size, config.hidden_size, config.intermediate_size))
        and config.hidden_act == "gelu"
        and not (config.is_decoder or config.output_hidden_states)
        # A kind of layer that somebody made of these, as PEFT does, computes something else.
        and all(type(part) in (torch.nn.Linear, torch.nn.LayerNorm) for part in weighted)
        and all(p.dtype == torch.float32 for part in weighted for p in part.parameters())
    )


def _layers(layers: list[Any]) -> Layers:
    selves = [layer.attention.self for layer in layers]
    asked = _matrices([_joined(own.query, own.key, own.value, heads=own.num_attention_heads) for own in selves])
    context = _matrices([_joined(layer.attention.output.dense) for layer in layers])
    inner = _matrices([_joined(layer.intermediate.dense) for layer in layers])
    outer = _matrices([_joined(layer.output.dense) for layer in layers])
    pairs = [(layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers]
    norms = [[p.detach().numpy() for norm in pair for p in (norm.weight, norm.bias)] for pair in pairs]
    return Layers(asked, context, inner, outer, np.array(norms, np.float32))


def _joined(*parts: Any, heads: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # noqa: ANN401
    """Return the weights and the bias of linear layers side by side, those of each head together."""
    weights, biases = (
        np.stack([getattr(part, name).detach().numpy() for part in parts]).astype(np.float32)
        for name in ("weight", "bias")
    )
    outputs, inputs = weights.shape[0] * weights.shape[1], weights.shape[2]
    split = weights.reshape(len(parts), heads, -1, inputs).swapaxes(0, 1)
    return split.reshape(outputs, inputs), biases.reshape(len(parts), heads, -1).swapaxes(0, 1).reshape(outputs)


def _matrices(layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Matrices:
    """Round the weights of one matrix in all layers."""
    panels, units, excess, longest = [], [], [], []
    for values, _ in layers:
        outputs, inputs = values.shape
        unit = np.maximum(np.abs(values).max(axis=1), 1e-20) / WEIGHT
        with np.errstate(invalid="ignore"):  # of a broken model, whose vectors come out as such
            whole = np.rint(values / unit[:, None]).astype(np.int16)
        split = whole.reshape(outputs // WIDTH, WIDTH, inputs // 2, 2)
        panels.append(split.transpose(0, 2, 1, 3).reshape(outputs // WIDTH, inputs // 2, 2 * WIDTH))
        units.append(unit)
        fours = whole.reshape(outputs, inputs // 4, 2, 2).astype(np.int64)
        excess.append(np.prod(fours, axis=2).sum(axis=(1, 2)).astype(np.int32))  # what is over turns over
        norm = max(np.linalg.norm(whole.astype(np.float64), axis=1).max(), 1.0)
        # Rounding makes a row longer by half a unit of each input at most.
        longest.append(0.999 * MOST / norm - 0.5 * inputs**0.5)
    return Matrices(
        _aligned(np.array(panels, np.int16)),
        np.array(units, np.float32),
        np.stack([bias for _, bias in layers]),
        np.array(excess, np.int32),
        np.array(longest, np.float32),
    )


def _aligned(panels: NDArray[np.int16]) -> NDArray[np.int16]:
    """Copy to where cache lines begin: elsewhere, half of the vectors lie in two of them, which takes 3 % longer."""
    memory = np.empty(panels.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + panels.nbytes].view(np.int16).reshape(panels.shape)
    copy[:] = panels
    return copy
