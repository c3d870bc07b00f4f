"""The command line ``polyseek``: arguments in, the five packages do the work, results on standard output.

Progress and errors go to standard error. Exit status: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from data.errors import PolyseekError, UsageError
from index.coding import BITS
from index.segment import VIEWS
from retriever.backends import BACKENDS
from server import commands

MODES = "hybrid, cascade, dense, late, bm25"
# What a build does where its command has no options for it; `_add_index` has them all.
BUILD = {"batch_size": None, "late_bits": None, "token_pooling": None}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # in any locale; names of files may hold bytes that are no text
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = parser().parse_args(argv)
    arguments.typed = shlex.join(["polyseek", *map(str, sys.argv[1:] if argv is None else argv)])
    try:
        result = arguments.run(arguments)
        if result is not None:
            _tell(json.dumps(result, ensure_ascii=False, indent=2) if arguments.json else arguments.show(result))
        return int(arguments.status(result))
    except PolyseekError as error:
        print(f"polyseek: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("polyseek: stopped; what was committed stays, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read us has enough
        return 0
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}"
        print(
            f"polyseek:{where} {error.strerror or error}: check the path, its permissions and the disk", file=sys.stderr
        )
        return 1


def _tell(text: str) -> None:
    try:
        print(text)
        sys.stdout.flush()
    except OSError:
        # Python would complain once more while it closes standard output, so it gets another one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(
        prog="polyseek",
        description="Find passages in any language for a query in any language.",
        epilog="`polyseek COMMAND --help` tells about each command.",
    )
    top.add_argument("--version", action="version", version=f"polyseek {commands.version()}")
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(sub)
    _add_index(sub)
    _add_changes(sub)
    _add_search(sub)
    _add_serve(sub)
    _add_eval(sub)
    _add_fetch(sub)
    _add_compare(sub)
    _add_train(sub)
    _add_bitext(sub)
    _add_reproduce(sub)
    _add_mine(sub)
    return top


def _command(sub: Any, name: str, run: Any, text: str, show: Any = str) -> argparse.ArgumentParser:  # noqa: ANN401
    """Make a command's parser: what runs, and how its result is shown to people."""
    made: argparse.ArgumentParser = sub.add_parser(name, help=text, description=text)
    made.set_defaults(run=run, show=show, status=lambda _: 0)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _add_demo(sub: Any) -> None:  # noqa: ANN401
    made = _command(sub, "demo", commands.demo, "Build the bundled demo collection once, then serve it.")
    made.set_defaults(**BUILD, encoder=None, backend=None, device="cpu", views=VIEWS)
    _add_address(made)


def _add_index(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "index", commands.index,
        "Build a collection; run it again to go on where it stopped.", commands.show_build,
    )  # fmt: skip
    made.add_argument("inputs", nargs="+", metavar="INPUT", help=INPUT)
    made.add_argument("--to", required=True, type=Path, metavar="DIR", help="the collection's folder")
    made.add_argument("--views", default="bm25,dense,late", type=_views, help="what to build (default: %(default)s)")
    _add_encoder(made)
    made.set_defaults(**BUILD)
    made.add_argument("--batch-size", type=_positive, metavar="N",
                      help="texts in one forward pass at most (default: as many as are fastest)")  # fmt: skip
    made.add_argument("--late-bits", type=int, choices=BITS, metavar="BITS",
                      help="a dimension of large late views: 2 (smallest), 4 (default), 8")  # fmt: skip
    made.add_argument("--token-pooling", type=_factor, metavar="FACTOR",
                      help="keep one token vector of a document for so many (default: 1, all)")  # fmt: skip


def _add_changes(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "add", commands.add,
        "Add documents; one with a known id replaces the old one.", commands.show_build,
    )  # fmt: skip
    _add_folder(made)
    made.set_defaults(**BUILD)
    made.add_argument("inputs", nargs="+", metavar="INPUT", help=INPUT)
    _add_encoder(made)
    made = _command(sub, "delete", commands.delete, "Delete documents by id.", commands.show_delete)
    _add_folder(made)
    made.add_argument("ids", nargs="+", metavar="ID")
    made = _command(sub, "compact", commands.compact, "Drop what was deleted and merge segments.", commands.show_info)
    _add_folder(made)
    made = _command(sub, "info", commands.info, "Describe a collection.", commands.show_info)
    _add_folder(made)
    made = _command(sub, "verify", commands.verify, "Check a collection's files.", commands.show_verify)
    made.set_defaults(status=lambda result: 0 if result["ok"] else 1)
    _add_folder(made)


def _add_search(sub: Any) -> None:  # noqa: ANN401
    made = _command(sub, "search", commands.search, "Search a collection.", commands.show_search)
    _add_folder(made)
    made.add_argument("query", metavar="QUERY", help="in any language")
    made.add_argument("-k", type=_positive, default=10, help="how many hits at most (default: %(default)s)")
    made.add_argument("--using", metavar="MODE",
                      help=f"{MODES}, or a cascade, bm25@200:late (default: the first that there is)")  # fmt: skip
    made.add_argument("--languages", type=_names, default=(), metavar="de,sw", help="only documents in these languages")
    _add_neutral(made)
    made.add_argument("--explain", action="store_true", help="tell each hit's rank and score in every view")
    _add_encoder(made)


def _add_serve(sub: Any) -> None:  # noqa: ANN401
    made = _command(sub, "serve", commands.serve, "Serve a collection over HTTP, with a search page.")
    _add_folder(made)
    _add_address(made)
    _add_encoder(made)


def _add_eval(sub: Any) -> None:  # noqa: ANN401
    made = _command(sub, "eval", commands.evaluate, "Evaluate systems on a test collection.", commands.show_eval)
    made.add_argument("dataset", metavar="DATASET",
                      help=f"{DATASET}; or GRID.toml, a file that names many datasets, encoders and systems, and goes "
                      "before what options say")  # fmt: skip
    made.add_argument("--split", metavar="NAME",
                      help="whose queries and judgements: test, dev, dev.small (default: the usual one)")  # fmt: skip
    made.add_argument("--queries", type=Path, metavar="FILE",
                      help="other queries with the same ids, say translations (default: the dataset's)")  # fmt: skip
    made.add_argument("--using", type=_names, default="bm25,dense,late,hybrid", metavar="SYSTEMS",
                      help=f"{MODES}, rank-bm25, bm25s, cascades such as bm25@200:late, or NAME/no-neutral of each "
                      "(default: %(default)s)")  # fmt: skip
    _add_measures(made)
    _add_neutral(made)
    made.add_argument("--index", type=Path, metavar="DIR",
                      help="build the collection there, or use it; results are kept there too, so that measuring again "
                      "is reading them (of a grid: a folder for all, by default that of its name)")  # fmt: skip
    made.add_argument("--runs", type=Path, metavar="DIR", help="write TREC run files there")
    made.add_argument("--report", type=Path, metavar="FILE", help="write a report there, *.html or *.md")
    _add_encoder(made)


def _add_fetch(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "fetch", commands.fetch,
        "Get a test collection by its name, verified; without a name, list which there are.", commands.show_fetch,
    )  # fmt: skip
    made.add_argument("name", nargs="?", metavar="NAME", help="of data/downloads.toml")
    made.add_argument("--to", type=Path, metavar="DIR", help="the folder for it (default: NAME, here)")
    made.add_argument("--source", type=Path, metavar="FOLDER",
                      help="take the files from there, under their own names, where there is no network")  # fmt: skip


def _add_compare(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "compare", commands.compare,
        "Compare TREC runs: differences, significance, and the queries that differ most.", commands.show_compare,
    )  # fmt: skip
    made.add_argument("compared", nargs="+", type=Path, metavar="RUN", help="a run file: qid Q0 docid rank score tag")
    made.add_argument("--qrels", required=True, type=Path, metavar="FILE", help="judgements, of BEIR or of TREC")
    _add_measures(made)


def _add_train(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "train", commands.train,
        "Train an encoder by a recipe; run it again to go on where it stopped.", commands.show_train,
    )  # fmt: skip
    made.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file, see docs/training.md")
    made.add_argument("--to", required=True, type=Path, metavar="DIR", help="checkpoints, the log, and the model")


def _add_bitext(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "bitext", commands.bitext,
        "Find translations among all others, both ways, as LASER and MTEB measure it.", commands.show_bitext,
    )  # fmt: skip
    made.add_argument("pairs", nargs="+", type=Path, metavar="FILE",
                      help="sentence<TAB>translation lines, *.tsv[.gz], or a folder of such files")  # fmt: skip
    _add_encoder(made)


def _add_reproduce(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "reproduce", commands.reproduce,
        "Measure again what the project says of itself, and tell what differs.", commands.show_reproduce,
    )  # fmt: skip
    made.set_defaults(status=lambda result: 0 if result["ok"] else 1)
    made.add_argument("names", nargs="*", metavar="NAME", help="of eval/expected.toml (default: all that can be)")
    made.add_argument("--data", type=Path, metavar="DIR", help="the folder that the datasets lie in")
    made.add_argument("--work", type=Path, metavar="DIR", help="where collections are kept (default: the cache folder)")
    made.add_argument(
        "--update", type=Path, metavar="FILE", help="write the tables into a file that has places for them"
    )


def _add_mine(sub: Any) -> None:  # noqa: ANN401
    made = _command(
        sub, "mine", commands.mine,
        "Find hard negatives for pairs of queries and passages, to train with.", commands.show_mine,
    )  # fmt: skip
    made.add_argument("data", nargs="+", type=Path, metavar="DATA",
                      help='*.jsonl[.gz], {"query", "positive"} a line, or a BEIR folder')  # fmt: skip
    made.add_argument("--to", required=True, type=Path, metavar="FILE", help="the rows to write, *.jsonl")
    made.add_argument("--using", default="hybrid", metavar="MODE", help=f"{MODES} (default: %(default)s)")
    made.add_argument("--negatives", type=_positive, default=4, metavar="N", help="of a row (default: %(default)s)")
    made.add_argument("--first", type=_positive, default=1, metavar="RANK", help="drawn from (default: %(default)s)")
    made.add_argument("--last", type=_positive, default=50, metavar="RANK", help="and to (default: %(default)s)")
    made.add_argument("--margin", type=float, default=0.95, metavar="PART",
                      help="leave out what scores above this part of the positive (default: %(default)s)")  # fmt: skip
    made.add_argument("--scores", action="store_true", help="write scores of the positive and the negatives")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    made.add_argument("--work", type=Path, metavar="DIR", help="where the collection is kept (default: FILE.work)")
    _add_encoder(made)


def _add_measures(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--measures",
        default="",
        metavar="nDCG@10,...",
        help="any that ir-measures knows, and LAReQA's mAP (default: nDCG@10,Recall@100,MRR@10,MAP)",
    )
    made.add_argument("--drop-self", action="store_true",
                      help="leave out the document that has the query's id (ArguAna, Quora)")  # fmt: skip


INPUT = "a BEIR folder, *.jsonl[.gz], *.csv, *.tsv, *.trec, a folder of *.txt or *.md, or - for JSON Lines from stdin"

DATASET = (
    "a BEIR folder (corpus.jsonl[.gz], queries.jsonl[.gz], qrels/test.tsv), a folder of the files of LAReQA, MIRACL, "
    "Mr.TyDi, mMARCO or TREC (*.trec[.gz], topics, qrels), a LANGUAGE_collection.tsv of mMARCO, irds:ID, a data set of "
    "ir_datasets, or mteb:TASK[/SUBSET], a retrieval task of MTEB"
)


def _add_folder(made: argparse.ArgumentParser) -> None:
    made.add_argument("folder", type=Path, metavar="DIR", help="the collection's folder")


def _add_address(made: argparse.ArgumentParser) -> None:
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")


def _add_encoder(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--encoder",
        metavar="NAME_OR_PATH",
        help="bundled-trained, bundled (as it was published), a model folder, or a name on the Hugging Face Hub "
        "(default: what the collection was built with, or bundled-trained)",
    )
    made.add_argument("--backend", choices=BACKENDS, help="what computes the encoder (default: the best here)")
    made.add_argument("--device", default="cpu", help="where: cpu, cuda, cuda:1, ... (default: %(default)s)")


def _add_neutral(made: argparse.ArgumentParser) -> None:
    made.add_argument("--no-neutral", dest="neutral", action="store_false", help="turn language-neutral ranking off")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise argparse.ArgumentTypeError("a list of names with commas between them is wanted")
    return names


def _views(text: str) -> tuple[str, ...]:
    for name in _names(text):
        if name not in VIEWS:
            raise argparse.ArgumentTypeError(f"unknown view {name!r}: choose from {', '.join(VIEWS)}")
    return _names(text)


def _factor(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"a number from 1 on is wanted, not {text!r}")
    return number


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is wanted, not {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
