"""What computes a model, and in what arithmetic.

============= ============================================================================================
int16         whole numbers of 16 bits, `retriever.bert`: BERT and its kin, on a processor
torch         PyTorch in float32
bf16, fp16    PyTorch in bfloat16 or float16
openvino      OpenVINO in bfloat16 where the processor has it, else in float32
openvino-int8 OpenVINO in whole numbers of 8 bits
onnx          ONNX Runtime in float32
============= ============================================================================================

The rule: on a graphics card ``fp16``; on a processor with matrix units for bfloat16 (AMX) ``bf16``, which has 16 times
the products of float32 there, and int16 for a question alone; else ``int16``, which has twice as many on every x86, for
models that it can compute, and ``torch`` for the others. The bundled model makes 2.2 times as many vectors in int16 as
PyTorch in float32, the same to five digits. OpenVINO needs AVX-512 to be as fast: a tenth slower in bfloat16 there, and
1.4 times faster in 8 bits, at a cosine of .9986; with AVX2 alone it is slower than PyTorch in both.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retriever.adapters import Adapters, find_adapters

if TYPE_CHECKING:
    import torch

BACKENDS = ("int16", "torch", "bf16", "fp16", "openvino", "openvino-int8", "onnx")
# In what PyTorch computes.
FLOATS = {"torch": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Tokens in one forward pass at most. On a processor more of them leave its caches; in int16, where they are cut into
# pieces anyway, 4,096 are shared out better than 2,048, some 4 %, and a query that comes meanwhile waits a second. A
# graphics card is not busy with few.
TOKENS = {"int16": 4096, "cpu": 2048, "card": 65536}
# For how many shapes of batches oneDNN, by which PyTorch multiplies matrices, keeps compiled code, and PyTorch what it
# prepared of it. Nearly every batch has a shape of its own: with 1,024, their defaults, an encoder holds more with
# every thousand texts; 64 of both are 240 MB less after 4,000 than 256 and 1,024, and no more from then on.
SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
# What to install for those that need something.
EXTRAS = {"openvino": "openvino", "openvino-int8": "openvino", "onnx": "onnx"}


class Loaded(NamedTuple):
    """A model that is ready.

    Attributes:
        model: a ``SentenceTransformer`` or ``MultiVectorEncoder`` in evaluation mode.
        weights: a digest of the weights, whatever computes with them.
        arithmetic: what they are computed in.
        tokens: in one forward pass at most.
        adapters: what is exchanged by a text's language.
        packed: batches of so many tokens at most are computed by threads of Polyseek's own, without what fills them up.
    """

    model: Any
    weights: str
    arithmetic: str
    tokens: int
    adapters: Adapters
    packed: float = 0


def load_model(source: str, device: str, backend: str | None) -> Loaded:
    """Load a checkpoint.

    Args:
        source: a folder or a name on the Hugging Face Hub.
        device: as PyTorch names it.
        backend: one of :data:`BACKENDS`, None for the best here.

    Raises:
        ValueError: a backend that cannot compute this model, or not on this device.
        Exception: whatever the libraries raise.
    """
    os.environ.update(SHAPES | os.environ)  # read when PyTorch first multiplies matrices

    import torch

    from retriever.bert import FEW, MixedBert, WholeNumberBert, suits

    model = _model_class(source)(source, device=device)
    model.eval()
    _mark(model)
    on_processor = torch.device(device).type == "cpu"
    if on_processor:
        model.float()  # some checkpoints are kept in bfloat16, as which Transformers would compute them
    fits = on_processor and suits(model[0])
    adapters = find_adapters(model[0], Path(source))
    weights = _digest(model.named_parameters())
    chosen = backend or _best(on_processor=on_processor, fits=fits)
    match chosen:
        case "int16" if not fits:
            raise ValueError("int16 computes BERT, RoBERTa and XLM-RoBERTa on a CPU alone: choose another backend")
        case "int16":
            adapters.computed_by(WholeNumberBert)
            return Loaded(model, weights, "int16", TOKENS["int16"], adapters, packed=math.inf)
        case "torch" | "bf16" | "fp16":
            mixed = chosen == "bf16" and fits and not adapters.names
            if mixed:
                model[0].model = MixedBert(model[0].model)
            kind, tokens = FLOATS[chosen], TOKENS["cpu" if on_processor else "card"]
            return Loaded(model.to(getattr(torch, kind)), weights, kind, tokens, adapters, packed=FEW if mixed else 0)
    if not on_processor:
        raise ValueError(f"{chosen} computes on a CPU alone: leave --device out or choose another backend")
    if adapters.names:
        raise ValueError(f"{chosen} cannot exchange adapters by language: choose torch, bf16 or fp16")
    from retriever.graphs import onnx_graph, openvino_graph

    if chosen == "onnx":
        graph, arithmetic = onnx_graph(model[0], weights)
    else:
        graph, arithmetic = openvino_graph(model[0], weights, whole=chosen == "openvino-int8")
    model[0].model = graph
    return Loaded(model, weights, f"{arithmetic} by {chosen.partition('-')[0]}", TOKENS["cpu"], adapters)


def _best(*, on_processor: bool, fits: bool) -> str:
    from llvmlite import binding

    if not on_processor:
        return "fp16"
    if binding.get_host_cpu_features().get("amx-bf16"):
        return "bf16"
    return "int16" if fits else "torch"


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


def _mark(model: Any) -> None:  # noqa: ANN401
    """Give ColBERT's markers as the model was trained with them.

    ColBERT puts in the number of ``[unused0]`` or ``[unused1]``, which is that of the unknown token in a vocabulary
    without these, as XLM-R's is; Sentence Transformers would have them spelt.
    """
    for task, prompt in model.prompts.items():
        marker = prompt.strip()
        if marker in ("[unused0]", "[unused1]") and marker not in model.tokenizer.get_vocab():
            model.prompts[task] = f"{model.tokenizer.unk_token} "


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
