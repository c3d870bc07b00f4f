"""Make cross-lingual pairs of pairs in English and parallel text, without translating anything.

    python -m retriever.training.join QA.jsonl.gz PARALLEL.jsonl.gz JOINED.jsonl

Where the passage of an English query holds a paragraph that stands in the parallel text, the query and each translation
of that paragraph are a pair, with the source "joined". What is written is the same for the same input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import regex

from data.errors import PolyseekError
from retriever.training.batches import PIVOT
from retriever.training.examples import Meaning, Pair, Skipped, read_sources
from retriever.training.mining import appearing

# A paragraph is looked for by its first so many characters, and read on where they stand at the beginning of a word.
_FIRST = 40
_WORD = regex.compile(r"(?<!\S)\S")


def join(pairs: Path, parallel: Path, output: Path) -> int:
    """Write the pairs, all of them or nothing; return how many there are.

    Raises:
        NotFoundError, InputError, UsageError: what is read is missing, broken or empty.
    """
    paragraphs: dict[str, list[Meaning]] = defaultdict(list)
    for source in read_sources(parallel, Skipped()):
        for example in source.examples:
            if isinstance(example, Meaning) and len(example.pivot) >= _FIRST:
                paragraphs[example.pivot[:_FIRST]].append(example)
    count = 0
    with appearing(output) as file:
        for source in read_sources(pairs, Skipped()):
            for example in source.examples:
                if isinstance(example, Pair) and example.language == PIVOT:
                    for language, text in _inside(example.positive, paragraphs):
                        told = {"query": example.query, "positive": text, "lang": PIVOT, "positive_lang": language}
                        told["source"] = "joined"
                        file.write(json.dumps(told, ensure_ascii=False) + "\n")
                        count += 1
    return count


def _inside(passage: str, paragraphs: dict[str, list[Meaning]]) -> Iterator[tuple[str, str]]:
    """Yield language and text of the translations of the paragraphs that a passage holds."""
    for word in _WORD.finditer(passage):
        at = word.start()
        for meaning in paragraphs.get(passage[at : at + _FIRST], ()):
            if passage.startswith(meaning.pivot, at):
                yield from meaning.texts


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", type=Path, help="pairs, *.jsonl.gz")
    parser.add_argument("parallel", type=Path, help="parallel sentences, *.jsonl.gz")
    parser.add_argument("output", type=Path, help="where the joined pairs go, *.jsonl")
    arguments = parser.parse_args()
    try:
        count = join(arguments.pairs, arguments.parallel, arguments.output)
    except PolyseekError as error:
        sys.exit(str(error))
    sys.stderr.write(f"{count:,} pairs\n")


if __name__ == "__main__":
    main()
