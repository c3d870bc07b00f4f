"""Reproductions: what is measured, with what command, and what comes out, kept as data in ``expected.toml``.

A table of the README stands between two lines, ``<!-- reproduce NAME -->`` and ``<!-- end -->``, and is written from
what was found; none is typed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError, NotFoundError, UsageError
from data.readers import demo_folder
from eval.bitext import evaluate_bitext, files_of
from eval.command import EvalRequest, Progress, evaluate_dataset, no_progress
from retriever.bundled import DEFAULT, bundled_model
from retriever.encoder import Encoder

EXPECTED = Path(__file__).with_name("expected.toml")
DEMO = "demo"
_TABLE = r"(<!-- reproduce {name} -->\r?\n)(?:(?!<!-- reproduce ).)*?(<!-- end -->)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One reproduction.

    Attributes:
        name: its own.
        title: for people.
        dataset: a folder below the data, or ``demo``.
        encoder: the name of one of `retriever.bundled`.
        tolerance: how far a value may lie from what is expected.
        using: systems, as `polyseek eval` knows them.
        measures: of a ranking.
        queries: a file of the dataset that stands in for its queries.
        bitext: the dataset holds pairs of sentences.
        published: what others have found, in words.
        expected: system -> measure -> value.
    """

    name: str
    title: str
    dataset: str
    tolerance: float
    encoder: str = DEFAULT
    using: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    queries: str | None = None
    bitext: bool = False
    published: str = ""
    expected: Mapping[str, Mapping[str, float]]

    def command(self) -> str:
        """Return the command that measures the same."""
        folder = "data/demo" if self.dataset == DEMO else self.dataset
        encoder = f" --encoder {self.encoder}" if self.encoder != DEFAULT else ""
        if self.bitext:
            return f"polyseek bitext {folder}{encoder}"
        queries = f" --queries {folder}/{self.queries}" if self.queries else ""
        how = f" --using {','.join(self.using)} --measures {','.join(self.measures)}"
        return f"polyseek eval {folder}{encoder}{queries}{how}"


def read_checks(path: Path = EXPECTED) -> dict[str, Check]:
    """Read a file of reproductions.

    Raises:
        InputError: it is no TOML, or a reproduction lacks something or has too much.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {
            name: Check(
                name=name,
                dataset=table.pop("dataset", name),
                expected=table.pop("expected", {}),
                using=tuple(table.pop("using", ())),
                measures=tuple(table.pop("measures", ())),
                **table,
            )
            for name, table in tables.items()
        }
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file of reproductions: {error}") from error


def reproduce(
    names: Sequence[str], data: Path | None, work: Path, progress: Progress = no_progress
) -> Iterator[dict[str, Any]]:
    """Run reproductions, one after the other.

    Args:
        names: which; empty for all whose dataset is there.
        data: the folder of the datasets; None where there is the demo alone.
        work: where collections are kept, so that doing it again need not encode anything.
        progress: as `polyseek eval` has it.

    Yields:
        ``{"name", "title", "command", "published", "tolerance", "rows": [{"system", "measure", "expected", "found",
        "ok"}], "ok"}``; a value that nothing is expected of is ok. For a dataset that is not there: ``{"name",
        "skipped"}``.

    Raises:
        UsageError: an unknown name.
        NotFoundError: a dataset that was asked for by name is not there.
    """
    checks = read_checks()
    unknown = [name for name in names if name not in checks]
    if unknown:
        raise UsageError(f"nothing to reproduce is called {unknown[0]!r}: choose from {', '.join(checks)}")
    folders = {name: _folder(checks[name], data) for name in names or checks}
    for name, folder in folders.items():
        if names and folder is None:
            raise NotFoundError(f"{name} needs the folder {checks[name].dataset}: give --data where it lies")
    for name, folder in folders.items():
        if folder is None:
            yield {"name": name, "skipped": f"no folder {checks[name].dataset} in --data"}
        else:
            yield _run(checks[name], folder, work, progress)


def _folder(check: Check, data: Path | None) -> Path | None:
    """Return where a dataset lies, None where it is not there."""
    if check.dataset == DEMO:
        return demo_folder()
    return data / check.dataset if data and (data / check.dataset).is_dir() else None


def _run(check: Check, folder: Path, work: Path, progress: Progress) -> dict[str, Any]:
    found = _bitext(check, folder, progress) if check.bitext else _ranked(check, folder, work, progress)
    rows: list[dict[str, Any]] = []
    for system, values in check.expected.items():
        lost = [measure for measure in values if measure not in found.get(system, {})]
        if lost:
            raise InputError(f"{check.name} expects {lost[0]} of {system}, which it does not measure")
    for system, values in found.items():
        for measure, value in values.items():
            wanted = check.expected.get(system, {}).get(measure)
            ok = wanted is None or abs(value - wanted) <= check.tolerance
            rows.append({"system": system, "measure": measure, "expected": wanted, "found": round(value, 4), "ok": ok})
    told = {name: getattr(check, name) for name in ("name", "title", "published", "tolerance")}
    return {**told, "command": check.command(), "rows": rows, "ok": all(row["ok"] for row in rows)}


def _ranked(check: Check, folder: Path, work: Path, progress: Progress) -> dict[str, dict[str, float]]:
    request = EvalRequest(
        dataset=str(folder),
        queries=folder / check.queries if check.queries else None,
        using=check.using,
        measures=check.measures,
        index=work / _collection(check),
        encoder=check.encoder,
    )
    systems = evaluate_dataset(request, progress)["systems"]
    return {system: {measure: values[measure] for measure in check.measures} for system, values in systems.items()}


def _collection(check: Check) -> str:
    """Return the name of a check's collection: with the digest of what the encoder was unpacked from."""
    return f"{check.dataset}-{bundled_model(check.encoder).name}"


def _bitext(check: Check, folder: Path, progress: Progress) -> dict[str, dict[str, float]]:
    with progress(folder.name, len(files_of([folder]))) as advance:
        found = evaluate_bitext([folder], Encoder.load(check.encoder), lambda name: advance(1, name))["systems"]
    return {system: {name: own["mean"][name] for name in ("accuracy", "F1")} for system, own in found.items()}


def markdown(told: Mapping[str, Any]) -> str:
    """Return the table of one reproduction."""
    measures = list(dict.fromkeys(row["measure"] for row in told["rows"]))
    lines = [[told["title"], *measures], ["---"] * (1 + len(measures))]
    values = {(row["system"], row["measure"]): row["found"] for row in told["rows"]}
    best = {measure: max(value for (_, own), value in values.items() if own == measure) for measure in measures}
    for system in dict.fromkeys(row["system"] for row in told["rows"]):
        cells = []
        for measure in measures:
            value = f"{values[system, measure]:.3f}".removeprefix("0")
            cells.append(f"**{value}**" if values[system, measure] == best[measure] else value)
        lines.append([system, *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    published = f"\n\nPublished: {told['published']}." if told["published"] else ""
    return f"{table}\n\n`{told['command']}`{published}\n"


def update(path: Path, told: Sequence[Mapping[str, Any]]) -> int:
    """Write the tables of reproductions into a file that has places for them; return how many there were.

    Raises:
        NotFoundError, InputError: see :func:`places`.
    """
    text, written = places(path), 0
    for one in told:
        if "rows" in one:
            table = markdown(one)
            place = re.compile(_TABLE.format(name=re.escape(one["name"])), re.DOTALL)
            text, count = place.subn(rf"\g<1>{_escaped(table)}\g<2>", text)
            written += count
    path.write_bytes(text.encode())
    return written


def places(path: Path) -> str:
    """Return the text of a file that has places for tables.

    Raises:
        NotFoundError: no such file.
        InputError: it has no place, or is no text.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason}") from error
    if not re.search(_TABLE.format(name=r"\S+"), text, re.DOTALL):
        raise InputError(f"{path} has no place for a table: <!-- reproduce NAME --> and below it <!-- end -->")
    return text


def _escaped(table: str) -> str:
    """Return text that stands for itself where it replaces a pattern."""
    return table.replace("\\", "\\\\")
