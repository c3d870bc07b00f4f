"""Grids: many datasets, encoders and systems in one TOML file, for `polyseek eval GRID.toml`.

    datasets = ["xquad-r", {path = "arguana", drop_self = true}, "irds:miracl/sw/dev"]
    encoders = ["bundled", "intfloat/multilingual-e5-base"]
    systems = ["bm25", "dense", "dense/no-neutral", "hybrid", "bm25@200:late"]
    measures = ["nDCG@10", "Recall@100"]

Folders are looked for beside the file. What it does not say is as the options of the command line say. Each pair of a
dataset and an encoder is a cell, with a collection of its own that keeps its results, so a grid that was stopped, or
has grown, measures what is missing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.datasets import open_dataset
from data.errors import InputError, NotFoundError
from eval.command import EvalRequest, Progress, evaluate_dataset, no_progress
from eval.measures import parse_measures
from eval.systems import views_of
from retriever.bundled import DEFAULT

ENDING = ".toml"
_KEYS = ("datasets", "encoders", "systems", "measures")
_OF_DATASET: Mapping[str, type] = {"path": str, "queries": str, "split": str, "drop_self": bool}


def evaluate_grid(request: EvalRequest, progress: Progress = no_progress) -> dict[str, Any]:
    """Evaluate every cell of a grid.

    Args:
        request: ``dataset`` is the file; ``index`` and ``runs`` are folders with one for each cell in them, ``index``
            by default that of the file's name without its ending; the rest is for what the file leaves out.
        progress: as :func:`eval.command.evaluate_dataset` has it.

    Returns:
        ``{"grid": the file's name, "cells": {name: what evaluate_dataset returns}}``.

    Raises:
        NotFoundError, InputError, UsageError: a file that is not there or no grid, and, before any work, what cannot be
            evaluated of it.
    """
    cells = read_grid(request)
    for cell in cells.values():
        views_of(cell.using)
        parse_measures(cell.measures)
        open_dataset(cell.dataset, queries=cell.queries, split=cell.split)
    return {
        "grid": Path(request.dataset).name,
        "cells": {name: evaluate_dataset(cell, progress) for name, cell in cells.items()},
    }


def read_grid(request: EvalRequest) -> dict[str, EvalRequest]:
    """Read a grid: the name of each cell, ``DATASET.ENCODER[.QUERIES][.SPLIT]``, and what is to be evaluated there.

    Raises:
        NotFoundError: no such file.
        InputError: no TOML (with the line), keys or values that a grid has not, or two cells of one name.
    """
    path = Path(request.dataset)
    table = _read(path)
    request = replace(
        request,
        using=tuple(_strings(path, table, "systems", request.using)),
        measures=tuple(_strings(path, table, "measures", request.measures)),
    )
    encoders = _strings(path, table, "encoders", (request.encoder or DEFAULT,))
    cells: dict[str, EvalRequest] = {}
    for dataset in _datasets(path, table):
        for encoder in encoders:
            asked = [dataset["path"], encoder, *(dataset[key] for key in ("queries", "split") if key in dataset)]
            name = ".".join(map(_short, asked))
            if name in cells:
                raise InputError(f"{path} has two cells that are called {name}: rename a folder")
            cells[name] = _cell(path, request, dataset, encoder, name)
    return cells


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"cannot read the grid {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise InputError(f"{path} says {unknown[0]!r}, which a grid does not know: it has {', '.join(_KEYS)}")
    return table


def _strings(path: Path, table: Mapping[str, Any], key: str, default: tuple[str, ...]) -> list[str]:
    if key not in table:
        return list(default)
    values = table[key]
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise InputError(f'{path}: {key} is a list of names, {key} = ["...", "..."], not {values!r}')
    return values


def _datasets(path: Path, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = table.get("datasets")
    if not isinstance(values, list) or not values:
        raise InputError(f'{path} names no datasets: datasets = ["FOLDER", {{path = "FOLDER", drop_self = true}}]')
    return [_dataset(path, value) for value in values]


def _dataset(path: Path, value: object) -> dict[str, Any]:
    told = {"path": value} if isinstance(value, str) else value
    if (
        not isinstance(told, dict)
        or not told.get("path")
        or not told.keys() <= _OF_DATASET.keys()
        or not all(isinstance(own, _OF_DATASET[key]) for key, own in told.items())
    ):
        raise InputError(f"{path}: a dataset is a folder or a table with {', '.join(_OF_DATASET)}, not {value!r}")
    return told


def _cell(path: Path, request: EvalRequest, dataset: Mapping[str, Any], encoder: str, name: str) -> EvalRequest:
    queries = dataset.get("queries")
    return replace(
        request,
        dataset=_beside(path, dataset["path"]),
        queries=Path(_beside(path, queries)) if queries else None,
        split=dataset.get("split", request.split),
        drop_self=dataset.get("drop_self", request.drop_self),
        encoder=_beside(path, encoder),
        index=(request.index or path.with_suffix("")) / f"{_short(dataset['path'])}.{_short(encoder)}",
        runs=request.runs / name if request.runs else None,
    )


def _beside(path: Path, name: str) -> str:
    """Return where something lies beside the grid, or its name where nothing does."""
    near = path.parent / name
    return str(near) if near.exists() else name


def _short(name: str) -> str:
    """Return what a dataset, a file of queries or an encoder is called in the name of a cell, and so of a folder."""
    last = name.removeprefix("irds:").replace("/", "-") if name.startswith("irds:") else Path(name).resolve().name
    return re.sub(r"[^\w.-]", "_", last.removesuffix(".gz").removesuffix(".jsonl"))
