"""Draw what `eval.bench.late` has measured: recall against latency, by the size of the index.

python -m eval.bench.plot [RESULTS.json] [PICTURE.png]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from eval.bench.results import FOLDER

STYLES = {"polyseek-late": ("#0b7285", "o"), "fastplaid": ("#c92a2a", "s"), "xtr-warp": ("#e67700", "^")}


def draw(results: Path, picture: Path) -> None:
    """Draw a file of results."""
    body = json.loads(results.read_text(encoding="utf-8"))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    curves: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in body["rows"]:
        metrics = row["metrics"]
        if row["system"] in STYLES:
            curve = (row["system"], round(metrics["bytes_per_token"]))
            curves.setdefault(curve, []).append((metrics["ms_p50"], metrics["recall@10"]))
    for (system, size), points in curves.items():
        color, marker = STYLES[system]
        axes.plot(*zip(*sorted(points), strict=True), color=color, marker=marker)
        right = min(points)[0] > 30  # the picture ends there
        axes.annotate(
            f"{system}, {size} bytes a token", min(points), xytext=(-8 if right else 8, -14), color=color,
            textcoords="offset points", horizontalalignment="right" if right else "left",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.12)
    axes.set_xlabel(f"milliseconds a query, median, {body['machine']['cores']} cores (less is better)")
    axes.set_ylabel("recall@10 against exact MaxSim")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    draw(*(given + [FOLDER / "late.json", FOLDER / "late.png"][len(given) :]))
