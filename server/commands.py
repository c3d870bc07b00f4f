"""What each command does and how its result is shown to people. Arguments are parsed in `server.cli`.

Heavy imports wait for the command that needs them: `polyseek --help` and `info` load no torch (0.2 s, not 6).
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.errors import UsageError
from data.inputs import Inputs
from data.readers import demo_folder
from data.records import Query, check_string, normalize_language
from index.collection import Collection
from index.manifest import FORMAT
from index.snapshot import Snapshot

Result = dict[str, Any]
# Characters of a hit's text that people are shown.
SHOWN = 240


def version() -> str:
    """Return the installed version."""
    return installed_version("polyseek")


def demo(arguments: Namespace) -> None:
    """Build the demo collection in the cache folder once and serve it."""
    from retriever.bundled import bundled_model

    model = bundled_model()
    # An update of the model or of the format gets a collection of its own. The page knows the demo by its name.
    arguments.folder = arguments.to = model.parent / "collections" / f"{model.name}.{FORMAT}" / "demo"
    arguments.inputs = [str(demo_folder())]
    index(arguments)
    serve(arguments)


def index(arguments: Namespace) -> Result:
    """Check all inputs, then build or go on building."""
    with Inputs(arguments.inputs) as inputs:
        total = inputs.check()
        return _build(arguments, inputs, total, folder=arguments.to, views=arguments.views)


def add(arguments: Namespace) -> Result:
    """Check all inputs, then add them to a collection that exists."""
    views = Snapshot.open(arguments.folder).manifest.views
    with Inputs(arguments.inputs) as inputs:
        total = inputs.check()
        return _build(arguments, inputs, total, folder=arguments.folder, views=views)


def delete(arguments: Namespace) -> Result:
    """Delete documents by id."""
    return {"deleted": Collection(arguments.folder).delete(arguments.ids), "asked": len(arguments.ids)}


def compact(arguments: Namespace) -> Result:
    """Drop what was deleted and merge segments."""
    Collection(arguments.folder).compact()
    return info(arguments)


def info(arguments: Namespace) -> Result:
    """Describe a collection."""
    return Snapshot.open(arguments.folder).info()


def verify(arguments: Namespace) -> Result:
    """Check a collection's files."""
    problems = Collection(arguments.folder).verify()
    return {"ok": not problems, "problems": problems}


def search(arguments: Namespace) -> Result:
    """Search a collection."""
    from server.answers import answer
    from server.schema import SearchRequest

    check_string(arguments.query, "the query")
    engine = _engine(arguments)
    asked = SearchRequest(
        queries=(Query(arguments.query),),
        k=arguments.k,
        using=arguments.using or engine.modes[0],
        languages=_languages(arguments.languages),
        neutral=arguments.neutral,
        explain=arguments.explain,
    )
    started = time.perf_counter()
    (told,) = answer(engine, asked)
    return {**told, "took_ms": round((time.perf_counter() - started) * 1000, 3)}


def train(arguments: Namespace) -> Result:
    """Train an encoder, or go on with a training that was stopped."""
    from retriever.training.recipe import read_recipe
    from retriever.training.train import train as run

    return run(read_recipe(arguments.recipe), arguments.to, lambda label, total: _bar(label, total, " batches"))


def show_train(result: Result) -> str:
    """Tell what came of a training."""
    held = f", {result['held_out_loss']:.4f} on what was held out" if "held_out_loss" in result else ""
    left = ", ".join(f"{count:,} {why}" for why, count in sorted(result["skipped"].items()))
    return (
        f"{result['steps']:,} steps in {result['seconds']:,.0f} s, loss {result['loss']:.4f}{held}; the model is in "
        f"{result['model']}" + (f"; rows left out: {left}" if left else "")
    )


def serve(arguments: Namespace) -> None:
    """Serve a collection until interrupted."""
    from server.app import create_app
    from server.serve import serve as run

    # "Task queue depth is 1" is said at the first request and whenever all threads are busy: not a line for a terminal.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    engine = _engine(arguments)

    def on_ready(url: str) -> None:
        engine.warm()
        _say(f"Polyseek is at {url} (Ctrl-C ends it)")

    run(create_app(engine), arguments.host, arguments.port, on_ready=on_ready)


def evaluate(arguments: Namespace) -> Result:
    """Evaluate systems on a test collection, or a grid of them."""
    from eval.command import EvalRequest, evaluate_dataset
    from eval.grid import ENDING, evaluate_grid
    from eval.measures import split_names
    from eval.report import check_path, write_report

    if arguments.report:
        check_path(arguments.report)
    request = EvalRequest(
        dataset=arguments.dataset,
        queries=arguments.queries,
        split=arguments.split,
        using=arguments.using,
        measures=tuple(split_names(arguments.measures)),
        neutral=arguments.neutral,
        drop_self=arguments.drop_self,
        index=arguments.index,
        runs=arguments.runs,
        encoder=arguments.encoder,
        backend=arguments.backend,
        device=arguments.device,
    )
    result = (evaluate_grid if request.dataset.endswith(ENDING) else evaluate_dataset)(request, _bar)
    if arguments.report:
        write_report(arguments.report, result, arguments.typed)
    return result


def fetch(arguments: Namespace) -> Result:
    """Get a test collection by its name, or tell which there are."""
    from data.downloads import fetch as get
    from data.downloads import read_registry

    known = read_registry()
    told = {
        name: {"title": d.title, "layout": d.layout, "licence": d.licence, "files": len(d.files), "bytes": d.size}
        for name, d in known.items()
    }
    if arguments.name is None:
        return {"datasets": told}
    if arguments.name not in known:
        raise UsageError(f"no dataset is called {arguments.name!r}: choose from {', '.join(known)}")
    folder = arguments.to or Path(arguments.name)
    with _bar(arguments.name, known[arguments.name].size, "B") as advance:
        get(known[arguments.name], folder, source=arguments.source, on_bytes=advance)
    return {"name": arguments.name, "folder": str(folder), **told[arguments.name]}


def compare(arguments: Namespace) -> Result:
    """Compare run files."""
    from eval.compare import compare_runs
    from eval.measures import split_names

    measures = split_names(arguments.measures)
    return compare_runs(arguments.compared, arguments.qrels, measures=measures, drop_self=arguments.drop_self)


def bitext(arguments: Namespace) -> Result:
    """Measure an encoder on files of translations."""
    from eval.bitext import evaluate_bitext, files_of
    from retriever.bundled import DEFAULT
    from retriever.encoder import Encoder

    total = len(files_of(arguments.pairs))
    encoder = Encoder.load(arguments.encoder or DEFAULT, backend=arguments.backend, device=arguments.device)
    with _bar("bitext", total, " files") as advance:
        return evaluate_bitext(arguments.pairs, encoder, lambda name: advance(1, name))


def reproduce(arguments: Namespace) -> Result:
    """Run reproductions."""
    from eval.reproduce import places, update
    from eval.reproduce import reproduce as run
    from retriever.bundled import cache_folder

    if arguments.update:
        places(arguments.update)  # before hours of work
    work = arguments.work or cache_folder() / "reproduced" / str(FORMAT)
    told = list(run(arguments.names, arguments.data, work, _bar))
    if arguments.update:
        update(arguments.update, told)
    return {"ok": all(one.get("ok", True) for one in told), "reproductions": told}


def mine(arguments: Namespace) -> Result:
    """Find hard negatives for pairs."""
    from retriever.engine import BuildSettings, steps
    from retriever.training import mining
    from retriever.training.examples import Skipped, read_sources

    mining.check_output(arguments.to)
    how = mining.Mining(
        using=arguments.using, negatives=arguments.negatives, first=arguments.first, last=arguments.last,
        margin=arguments.margin, scores=arguments.scores, seed=arguments.seed,
    )  # fmt: skip
    skipped = Skipped()
    sources = [source for path in arguments.data for source in read_sources(path, skipped)]
    settings = BuildSettings(encoder=arguments.encoder, backend=arguments.backend, device=arguments.device)
    work = arguments.work or arguments.to.with_name(f"{arguments.to.name}.work")
    with _bar("index", len(mining.passages(sources)), " passages") as advance:
        engine = mining.index_passages(sources, work, mining=how, settings=settings, on_progress=steps(advance))
    with _bar("mine", sum(len(source.examples) for source in sources), " queries") as advance:
        report = mining.mine(sources, engine, output=arguments.to, mining=how, on_progress=lambda n: advance(n, ""))
    return {"file": str(arguments.to), **asdict(report), "skipped": dict(skipped.counts), "index": str(engine.folder)}


def show_build(result: Result) -> str:
    """Tell what a build did."""
    counts = ", ".join(f"{result[name]:,} {name}" for name in ("added", "updated", "unchanged"))
    windows = f" ({result['split']:,} in windows)" if result["split"] else ""
    return f"{counts}{windows} in {result['seconds']:.1f} s: {result['folder']}"


def show_delete(result: Result) -> str:
    """Tell what was deleted."""
    return f"{result['deleted']:,} of {result['asked']:,} documents deleted"


def show_verify(result: Result) -> str:
    """Tell what is wrong."""
    return "all files are as they were written" if result["ok"] else "\n".join(result["problems"])


def show_mine(result: Result) -> str:
    """Tell what was mined."""
    left_out = f"{result['answers']:,} answers and {result['close']:,} too like an answer left out"
    found = f"{result['negatives']:,} negatives for {result['rows']:,} rows, {result['without']:,} without any"
    return f"{found} ({left_out}): {result['file']}"


def show_info(result: Result) -> str:
    """Describe a collection."""
    languages = ", ".join(f"{name} {count:,}" for name, count in result["languages"].items()) or "none"
    encoder = result["encoder"]
    lines = {
        "documents": f"{result['documents']:,}",
        "languages": languages,
        "views": ", ".join(result["views"]),
        "encoder": f"{encoder['model']}, {encoder['dims']}" if encoder else "none",
        "segments": f"{result['segments']} ({result['deleted_rows']:,} deleted rows)",
        "size": f"{result['bytes'] / 1e6:,.1f} MB",
    }
    return "\n".join(f"{name:10} {value}" for name, value in lines.items())


def show_search(result: Result) -> str:
    """List hits."""
    if not result["hits"]:
        return "nothing found"
    explained = result.get("explain", {}).get("hits", {})
    blocks = []
    for hit in result["hits"]:
        head = f"{hit['rank']:>3}. {hit['score']:.4f} [{hit['lang'] or '?'}] {hit['title'] or hit['id']}  ({hit['id']})"
        text = " ".join(hit["text"].split())
        text = text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} ..."
        blocks.append(f"{head}\n     {text}{_explained(explained.get(hit['id']))}")
    return "\n".join(blocks)


def show_eval(result: Result) -> str:
    """Show tables of measures."""
    from eval.tables import format_grid, format_table

    return format_grid(result) if "cells" in result else format_table(result)


def show_fetch(result: Result) -> str:
    """Tell what was fetched, or what can be."""
    if "datasets" not in result:
        return f"{result['bytes'] / 1e6:,.1f} MB, {result['layout']}, {result['licence']}: {result['folder']}"
    lines = []
    for name, told in result["datasets"].items():
        lines.append(f"{name:<10} {told['bytes'] / 1e6:>8,.1f} MB  {told['title']}\n{'':24}{told['licence']}")
    return "\n".join(lines)


def show_compare(result: Result) -> str:
    """Show the tables of a comparison."""
    from eval.tables import format_comparisons

    return format_comparisons(result)


def show_bitext(result: Result) -> str:
    """Show the table of bitext retrieval."""
    from eval.tables import format_bitext

    return format_bitext(result)


def show_reproduce(result: Result) -> str:
    """Show what was expected and what was found."""
    from eval.tables import format_reproductions

    return format_reproductions(result)


def _explained(views: dict[str, Any] | None) -> str:
    if not views:
        return ""
    told = (f"{view} {v['rank'] or '-'} ({v['score']:.4f})" if v else f"{view} -" for view, v in views.items())
    return f"\n     {', '.join(told)}"


def _build(arguments: Namespace, inputs: Inputs, total: int, *, folder: Path, views: Any) -> Result:  # noqa: ANN401
    from retriever.engine import BuildSettings, build_collection, steps

    settings = BuildSettings(
        views=views, encoder=arguments.encoder, backend=arguments.backend, device=arguments.device,
        batch_size=arguments.batch_size, late_bits=arguments.late_bits, token_pooling=arguments.token_pooling,
    )  # fmt: skip
    started = time.perf_counter()
    with _bar("index", total, " documents") as advance:
        report = build_collection(inputs, folder, settings, on_progress=steps(advance))
    return {"folder": str(folder), **asdict(report), "seconds": round(time.perf_counter() - started, 3)}


def _engine(arguments: Namespace) -> Any:  # noqa: ANN401
    from retriever.engine import Engine

    return Engine.open(arguments.folder, arguments.encoder, backend=arguments.backend, device=arguments.device)


def _languages(codes: tuple[str, ...]) -> tuple[str, ...]:
    known = tuple(normalize_language(code) for code in codes)
    for code, normalized in zip(codes, known, strict=True):
        if not normalized:
            raise UsageError(f"--languages: {code!r} is no language code; give ISO 639 codes such as de,sw,zh")
    return known


@contextmanager
def _bar(label: str, total: int | None, unit: str = "") -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar on standard error where that is a terminal: speed, time left, and a note."""
    with tqdm(
        total=total, desc=label, unit=unit, unit_scale=unit == "B", disable=not sys.stderr.isatty(), file=sys.stderr
    ) as bar:

        def advance(count: int, note: str) -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(count)

        yield advance


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
