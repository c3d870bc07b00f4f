"""Make cross-lingual pairs of pairs in English and parallel text, without translating anything.

    python -m retriever.training.join QA.jsonl.gz PARALLEL.jsonl.gz JOINED.jsonl.gz

Where the passage of an English query holds a paragraph that stands in the parallel text, the query and each translation
of that paragraph are a pair, with the source "SOURCE-joined". What is written is the same for the same input, in the
order of the queries.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import regex

from data.lines import json_objects

# A paragraph is looked for by its first so many characters, and read on where they stand at the beginning of a word.
_FIRST = 40
_WORD = regex.compile(r"(?<!\S)\S")


def join(pairs: Path, parallel: Path, output: Path) -> int:
    """Write the pairs, gzipped; return how many there are."""
    translated: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for _, row in json_objects(parallel):
        if len(row["en"]) >= _FIRST:
            translated[row["en"][:_FIRST]][row["en"]].append(row["text"])
    count = 0
    with (
        output.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,  # neither name nor time: the same bytes every time
        io.TextIOWrapper(packed, encoding="utf-8") as file,
    ):
        for _, row in json_objects(pairs):
            if row.get("lang") == "en":
                for text in _inside(row["positive"], translated):
                    told = {"query": row["query"], "positive": text, "lang": "en", "source": f"{row['source']}-joined"}
                    file.write(json.dumps(told, ensure_ascii=False) + "\n")
                    count += 1
    return count


def _inside(passage: str, translated: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    """Yield the translations of the paragraphs that a passage holds."""
    for word in _WORD.finditer(passage):
        at = word.start()
        for paragraph, texts in translated.get(passage[at : at + _FIRST], {}).items():
            if passage.startswith(paragraph, at):
                yield from texts


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", type=Path, help="pairs, *.jsonl.gz")
    parser.add_argument("parallel", type=Path, help="parallel sentences, *.jsonl.gz")
    parser.add_argument("output", type=Path, help="where the joined pairs go, *.jsonl.gz")
    arguments = parser.parse_args()
    count = join(arguments.pairs, arguments.parallel, arguments.output)
    sys.stderr.write(f"{count:,} pairs\n")


if __name__ == "__main__":
    main()
