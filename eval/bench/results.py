"""What a benchmark writes: one JSON file with the machine and a row for every system, and a table made from it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def write(name: str, rows: Sequence[Mapping[str, Any]], folder: Path = FOLDER) -> Path:
    """Write ``NAME.json`` and ``NAME.md``; return the JSON file.

    Args:
        name: of the benchmark, and after a dot, where there are several, of the dataset.
        rows: ``{"system", "parameters", "metrics"}``; a metric that was not measured is absent.
        folder: where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = name.partition(".")[0]
    body = {
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        # Of paths the last part: where things lie on a machine is nobody's business.
        "command": " ".join(["python -m", f"eval.bench.{module}", *(Path(given).name for given in sys.argv[1:])]),
        "rows": list(rows),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(table(rows), encoding="utf-8")
    return path


def peak_mb() -> float:
    """Return the most memory that this process has held, in MB, pages of mapped files included."""
    try:  # what getrusage tells on Linux begins with what the process that started this one held
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    lines = [["system", "parameters", *names], ["---"] * (2 + len(names))]
    for row in rows:
        parameters = ", ".join(f"{k} {v}" for k, v in row["parameters"].items())
        lines.append([row["system"], parameters, *(_shown(row["metrics"].get(name)) for name in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
