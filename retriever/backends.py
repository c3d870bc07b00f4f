"""What computes a model: whole numbers of 16 bits, PyTorch, ONNX Runtime or OpenVINO.

On a processor ``int16`` is the choice for every model that it can compute, BERT and its kin: 1.6 times as fast as
PyTorch's float32 with AVX2, and its vectors are the same to five digits (OpenVINO is no faster there than PyTorch, in
float32 or in int8, and PyTorch's int8 comes to a cosine of .98). Else it is PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

BACKENDS = ("int16", "torch", "openvino", "onnx")


class Loaded(NamedTuple):
    """A model that is ready.

    Attributes:
        model: a ``SentenceTransformer`` or ``MultiVectorEncoder`` in evaluation mode.
        weights: a digest of the weights, whatever computes with them.
        arithmetic: what they are computed in.
    """

    model: Any
    weights: str
    arithmetic: str


def load_model(source: str, device: str, backend: str | None) -> Loaded:
    """Load a checkpoint.

    Args:
        source: a folder or a name on the Hugging Face Hub.
        device: as PyTorch names it.
        backend: one of :data:`BACKENDS`, None for the best of ``int16`` and ``torch``.

    Raises:
        ValueError: ``int16`` was asked for, and the model is none that it can compute.
        Exception: whatever the libraries raise.
    """
    from retriever.bert import WholeNumberBert, suits

    own = backend if backend in ("openvino", "onnx") else "torch"
    model = _model_class(source)(source, device=device, backend=own)
    model.eval()
    weights = _digest(model.named_parameters())
    if backend == own:
        return Loaded(model, weights, "float32")
    if device == "cpu" and suits(model[0]):
        model[0].model = WholeNumberBert(model[0].model)
        return Loaded(model, weights, "int16")
    if backend == "int16":
        raise ValueError("int16 computes BERT, RoBERTa and XLM-RoBERTa with float32 weights on a CPU alone")
    return Loaded(model, weights, "float32")


def _model_class(source: str) -> Any:  # noqa: ANN401
    """Return the class that a checkpoint was made for: SentenceTransformer unless it says late interaction."""
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from sentence_transformers.util import load_file_path

    kinds: list[str] = []
    for name, key in (("config_sentence_transformers.json", "model_type"), ("config.json", "architectures")):
        path = load_file_path(source, name)
        if path is not None:
            found = json.loads(Path(path).read_text(encoding="utf-8")).get(key) or []
            kinds += [found] if isinstance(found, str) else found
    late = {"MultiVectorEncoder", "ColBERT", "HF_ColBERT"}
    return MultiVectorEncoder if late & set(kinds) else SentenceTransformer


def _digest(parameters: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Digest names, shapes and a sample of every parameter: any training moves them all, and 470 MB take too long."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(parameters, key=lambda pair: pair[0]):
        if ".pooler." in name:  # read by nobody, and made up at every loading where the checkpoint has none
            continue
        flat = parameter.detach().reshape(-1)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(torch.cat([flat[:256], flat[-256:]]).float().cpu().numpy().tobytes())
    return digest.hexdigest()
