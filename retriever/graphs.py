"""Models that OpenVINO or ONNX Runtime compute, in the place of the PyTorch model of a checkpoint.

A model is converted once and kept in the cache folder, under the digest of its weights, so that models in folders that
cannot be written and those of the Hugging Face Hub are kept alike. (Sentence Transformers has these backends too, by
way of Optimum, whose releases for ONNX want an older Transformers than Sentence Transformers 6 does.)
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutput

from data.readers import demo_folder, read_documents
from retriever.bundled import cache_folder

Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
# Texts that show NNCF what is between the layers: passages of the demo, in all its languages.
SHOWN = 128


class Graph(torch.nn.Module):
    """A model that is only asked for its last hidden states."""

    def __init__(self, config: Any, run: Run) -> None:  # noqa: ANN401
        """Wrap a function from tokens and mask, both (B, T) int64, to hidden states, (B, T, H) float32."""
        super().__init__()
        self.config = config
        self._run = run

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:  # noqa: ANN401
        """Return ``last_hidden_state`` (B, T, H)."""
        hidden = self._run(input_ids.numpy(), attention_mask.numpy())
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden))


def openvino_graph(transformer: Any, digest: str, *, whole: bool) -> tuple[Graph, str]:  # noqa: ANN401
    """Return the model of a ``Transformer`` module as OpenVINO computes it, and in what arithmetic.

    Args:
        transformer: the module, in float32.
        digest: of its weights.
        whole: in whole numbers of 8 bits, as NNCF chooses them (min-max of what :data:`SHOWN` passages give), else in
            bfloat16 where the processor has it and in float32 where not.
    """
    import openvino

    def convert(folder: Path) -> None:
        inputs = dict(zip(("input_ids", "attention_mask"), _example(), strict=True))
        made = openvino.convert_model(_Hidden(transformer.model), example_input=inputs)
        if whole:
            made = _quantized(made, transformer.tokenizer)
        openvino.save_model(made, folder / "model.xml", compress_to_fp16=False)

    kind = f"openvino{'-int8' if whole else ''}-{version('openvino')}"
    path = _converted(digest, kind, convert) / "model.xml"
    model = openvino.compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    floats = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[
        model.get_property("INFERENCE_PRECISION_HINT").to_string()
    ]

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.array(model({"input_ids": ids, "attention_mask": mask})[0])

    return Graph(transformer.config, run), "int8" if whole else floats


def onnx_graph(transformer: Any, digest: str) -> tuple[Graph, str]:  # noqa: ANN401
    """Return the model of a ``Transformer`` module as ONNX Runtime computes it, and in what arithmetic."""
    import onnxruntime

    def convert(folder: Path) -> None:
        names = ["input_ids", "attention_mask"]
        torch.onnx.export(
            _Hidden(transformer.model), _example(), str(folder / "model.onnx"), dynamo=False,
            input_names=names, output_names=["hidden"], opset_version=17,
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*names, "hidden")},
        )  # fmt: skip

    path = _converted(digest, f"onnx-{version('torch')}", convert) / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        (hidden,) = session.run(["hidden"], {"input_ids": ids, "attention_mask": mask})
        return np.asarray(hidden)

    return Graph(transformer.config, run), "float32"


class _Hidden(torch.nn.Module):
    """What is converted: a model with two inputs and one output."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self._model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self._model(input_ids=input_ids, attention_mask=attention_mask)
        hidden: torch.Tensor = found.last_hidden_state
        return hidden


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two inputs, (2, 8) each, one row of which is shorter: a mask of ones alone would be left out."""
    ids, mask = torch.full((2, 8), 5), torch.ones((2, 8), dtype=torch.int64)
    mask[1, 5:] = 0
    return ids, mask


def _converted(digest: str, kind: str, convert: Callable[[Path], None]) -> Path:
    """Return the folder of a conversion, made now if it is not there, and moved to its place when it is whole."""
    place = cache_folder() / "converted" / digest / kind
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".", ignore_cleanup_errors=True) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            # Tracers warn of every shape that a model asks for, and NNCF tells of its progress on standard output.
            with torch.inference_mode(), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                convert(made)
            try:
                made.rename(place)
            except OSError:  # somebody else has been quicker
                if not place.exists():
                    raise
                shutil.rmtree(made)
    return place


def _quantized(model: Any, tokenizer: Any) -> Any:  # noqa: ANN401
    import nncf

    texts = [d.text for d in read_documents(str(demo_folder()))]
    shown = [tokenizer([text], truncation=True, return_tensors="np") for text in texts[:: len(texts) // SHOWN]]
    data = nncf.Dataset(shown, lambda x: {name: x[name] for name in ("input_ids", "attention_mask")})
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=SHOWN)
