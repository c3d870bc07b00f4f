"""Reports of an evaluation: one HTML file that needs nothing else, or Markdown.

What a report shows is what `polyseek eval --json` prints, with the command and the environment that it was made in; the
page is ``templates/report.html``. Not here: plain tables for a terminal (:mod:`eval.tables`).
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape

from data.errors import UsageError
from eval.tables import SIGNIFICANT, measures_of, systems_of

KINDS = (".html", ".md")
LIBRARIES = ("polyseek", "torch", "transformers", "sentence-transformers", "faiss-cpu", "numpy")
# The plots, in their own units.
WIDTH, HEIGHT, MARGIN = 320, 220, 36


class Point(NamedTuple):
    """A system in a plot: its name, where it lies, and what it stands for."""

    name: str
    x: float
    y: float
    told: str


class Plot(NamedTuple):
    """Systems by two numbers; higher up is better, and so is further to the left."""

    title: str
    across: str
    up: str
    points: list[Point]
    across_ticks: list[tuple[float, str]]
    up_ticks: list[tuple[float, str]]


def check_path(path: Path) -> None:
    """Refuse a report that could not be written, before hours of work.

    Raises:
        UsageError: a file of another kind, or a folder that is not there.
    """
    if path.suffix not in KINDS:
        raise UsageError(f"a report is a {' or a '.join(KINDS)} file, not {path.name!r}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the report another name")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write the report to")


def write_report(path: Path, result: Mapping[str, Any], command: str) -> None:
    """Write a report; it appears when it is whole.

    Args:
        path: ``*.html`` or ``*.md``.
        result: what :func:`eval.command.evaluate_dataset` or :func:`eval.grid.evaluate_grid` returns.
        command: what was typed.
    """
    text = _page(result, command, path.suffix)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))  # names of files may hold bytes that are no text
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def environment() -> dict[str, str]:
    """Return what the numbers were made with."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return {"date": date, "machine": machine, "python": platform.python_version(), "libraries": libraries}


def _page(result: Mapping[str, Any], command: str, kind: str) -> str:
    loader = Environment(
        loader=PackageLoader("eval"), autoescape=select_autoescape(["html", "md"]), trim_blocks=True, lstrip_blocks=True
    )
    grid = systems_of(result) if "cells" in result else []
    return loader.get_template(f"report{kind}").render(
        title=result["grid"] if grid else result["dataset"],
        cells=[_cell(told) for told in (result["cells"].values() if grid else [result])],
        grid=grid,
        measures_of_all=measures_of([values for _, _, values in grid]),
        command=command,
        environment=environment(),
        significant=SIGNIFICANT,
    )


def _cell(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template needs to tell of one dataset and encoder."""
    systems = result["systems"]
    measures = measures_of(list(systems.values()))
    return {
        "result": result,
        "measures": measures,
        "best": {name: max(values[name] for values in systems.values()) for name in measures},
        "languages": {name: values["languages"] for name, values in systems.items() if "languages" in values},
        "plots": plots(systems, measures),
    }


def plots(systems: Mapping[str, Any], measures: Sequence[str]) -> list[Plot]:
    """Return recall against latency, and effectiveness against bias where languages are told."""
    recall = next((name for name in measures if name.startswith(("Recall", "R@"))), measures[0])
    made = [
        _plot(
            f"{recall} against the time of one query",
            ("milliseconds, median", recall),
            {name: (values["ms_per_query"]["p50"], values[recall]) for name, values in systems.items()},
        )
    ]
    biases = {
        name: (values["languages"]["bias"], values[values["languages"]["measure"]])
        for name, values in systems.items()
        if values.get("languages", {}).get("bias") is not None
    }
    if biases:
        measure = next(values["languages"]["measure"] for values in systems.values() if "languages" in values)
        made.append(_plot(f"{measure} against language bias", ("bias among the first 10", measure), biases))
    return made


def _plot(title: str, axes: tuple[str, str], places: Mapping[str, tuple[float, float]]) -> Plot:
    across, up = (_scale([place[axis] for place in places.values()]) for axis in (0, 1))

    def x(value: float) -> float:
        return round(MARGIN + (value - across[0]) / (across[1] - across[0]) * (WIDTH - 2 * MARGIN), 1)

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - (value - up[0]) / (up[1] - up[0]) * (HEIGHT - 2 * MARGIN), 1)

    points = [
        Point(name, x(a), y(b), f"{name}: {axes[0]} {a:.4g}, {axes[1]} {b:.4f}") for name, (a, b) in places.items()
    ]
    ticks = [[(place(value), f"{value:.3g}") for value in _ticks(*scale)] for place, scale in ((x, across), (y, up))]
    return Plot(title, *axes, points, *ticks)


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """Return where an axis begins and ends: a tenth beyond the values on both sides, but not below 0."""
    low, high = min(values), max(values)
    room = (high - low) / 10 or abs(high) / 10 or 0.1
    return max(0.0, low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * part / 4 for part in range(5)]
