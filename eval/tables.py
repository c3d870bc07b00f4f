"""Results as people read them: aligned tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What stands beside the measures of a system.
NO_MEASURE = ("per_language", "ms_per_query", "queries_per_second", "measured", "languages")
# Differences whose p-value, corrected, is below this are marked.
SIGNIFICANT = 0.05


def format_table(result: Mapping[str, Any]) -> str:
    """Return aligned tables: every system with its measures and speed, then its first measure for each language.

    Args:
        result: what :func:`evaluate_dataset` returns, with at least one system.
    """
    systems = result["systems"]
    names = measures_of(list(systems.values()))
    overall = [["system", *names, "ms p50", "ms p95", "queries/s"]]
    overall += [[system, *_cells(values, names)] for system, values in systems.items()]
    neutral = "language-neutral" if result["neutral"] else "not language-neutral"
    encoder = f"encoder {result['encoder']}" if result["encoder"] else "no encoder"
    index = result["index"]
    built = f"indexed in {index['build_s']:.1f} s" if index["build_s"] else "indexed before"
    parts = [
        f"{result['dataset']}, {encoder}, {neutral}",
        aligned(overall),
        aligned(_by_language(systems, names[0])),
    ]
    if any("languages" in values for values in systems.values()):
        parts += _languages(systems)
    if "comparison" in result:
        parts.append(format_pairs(result["comparison"]))
    days = sorted({values["measured"] for values in systems.values()})
    end = f"{index['documents']:,} documents, {built}, {index['bytes'] / 1e6:,.1f} MB, measured on {' and '.join(days)}"
    return "\n\n".join([*parts, end])


def format_grid(result: Mapping[str, Any]) -> str:
    """Return one table of every system in every cell of a grid."""
    systems = systems_of(result)
    names = measures_of([own for _, _, own in systems])
    rows = [["cell", "system", *names, "ms p50", "ms p95", "queries/s", "measured"]]
    rows += [[name, system, *_cells(own, names), own["measured"]] for name, system, own in systems]
    return aligned(rows)


def systems_of(result: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return cell, system and values for every system of a grid."""
    return [
        (cell, system, values) for cell, told in result["cells"].items() for system, values in told["systems"].items()
    ]


def measures_of(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all measures that some system has."""
    return list(dict.fromkeys(name for values in systems for name in values if name not in NO_MEASURE))


def format_comparisons(result: Mapping[str, Any]) -> str:
    """Return the tables of `polyseek compare`: the means, then every pair, for each measure."""
    measures = [comparison["measure"] for comparison in result["comparisons"]]
    rows = [["run", *measures]]
    rows += [[run, *(f"{values[m]:.4f}" for m in measures)] for run, values in result["runs"].items()]
    return "\n\n".join(
        [f"{result['queries']:,} judged queries", aligned(rows), *map(format_pairs, result["comparisons"])]
    )


def format_bitext(result: Mapping[str, Any]) -> str:
    """Return the table of `polyseek bitext`: every file, then their mean."""
    tables = []
    for system, own in result["systems"].items():
        rows = [[system, "pairs", *own["mean"]]]
        for file, values in [*own["files"].items(), ("mean", own["mean"])]:
            pairs = f"{result['pairs'][file]:,}" if file in result["pairs"] else ""
            rows.append([file, pairs, *(f"{value:.4f}" for value in values.values())])
        tables.append(aligned(rows))
    return "\n\n".join([f"encoder {result['encoder']}", *tables])


def format_reproductions(result: Mapping[str, Any]) -> str:
    """Return a table of what was expected and found for each reproduction."""
    parts = []
    for told in result["reproductions"]:
        if "skipped" in told:
            parts.append(f"{told['name']}: {told['skipped']}")
            continue
        rows = [[told["name"], "measure", "expected", "found", ""]]
        for row in told["rows"]:
            wanted = "-" if row["expected"] is None else f"{row['expected']:.4f}"
            mark = "" if row["ok"] else "differs"
            rows.append([row["system"], row["measure"], wanted, f"{row['found']:.4f}", mark])
        parts.append(f"{told['title']}\n{told['command']}\n{aligned(rows)}")
    return "\n\n".join(parts)


def format_pairs(comparison: Mapping[str, Any]) -> str:
    """Return a table of compared pairs on one measure, and the queries that differ most."""
    head = ["second - first", "difference", "95 % interval", "t-test", "randomisation", "wins", "ties", "losses"]
    rows, extremes = [[comparison["measure"], *head[1:]]], []
    for pair in comparison["pairs"]:
        low, high = pair["interval"]
        mark = "*" if pair["randomisation_holm"] < SIGNIFICANT else " "
        name = f"{pair['second']} - {pair['first']}"
        tests = [f"{pair['t_test_holm']:.2g}", f"{pair['randomisation_holm']:.2g}{mark}"]
        counts = [f"{pair[count]:,}" for count in ("wins", "ties", "losses")]
        rows.append([name, f"{pair['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}", *tests, *counts])
        most = ", ".join(f"{query} {value:+.2f}" for query, value in pair["extremes"])
        extremes.append(f"{name} differ most on: {most or 'none'}")
    note = f"p-values after Holm's correction; * below {SIGNIFICANT}"
    return "\n".join([aligned(rows), note, *extremes])


def _languages(systems: Mapping[str, Any]) -> list[str]:
    """Return a table of gaps and bias, and the matrix of the last system."""
    told = {name: values["languages"] for name, values in systems.items() if "languages" in values}
    rows = [["languages", "monolingual", "crosslingual", "gap", "limit one", "own in top 10", "bias", "PEER@10"]]
    for name, values in told.items():
        numbers = [values["monolingual"], values["crosslingual"], values["gap"], values["limit_one"]["mean"]]
        numbers += [values["own"]["top"], values["bias"], values["PEER@10"]]
        rows.append([name, *("-" if number is None else f"{number:.4f}" for number in numbers)])
    name, values = list(told.items())[-1]
    spoken = sorted({language for row in values["matrix"].values() for language in row})
    matrix = [[f"{values['measure']}, {name}", *spoken]]
    for asked, row in values["matrix"].items():
        matrix.append([f"{asked} ->", *(f"{row[x]:.3f}" if x in row else "-" for x in spoken)])
    return [aligned(rows), aligned(matrix)]


def _cells(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    speed = values["ms_per_query"]
    measured = [f"{values[name]:.4f}" if name in values else "-" for name in names]
    return [*measured, f"{speed['p50']:.2f}", f"{speed['p95']:.2f}", f"{values['queries_per_second']:,.1f}"]


def _by_language(systems: Mapping[str, Any], measure: str) -> list[list[str]]:
    rows = [[measure, *systems]]
    for language in next(iter(systems.values()))["per_language"]:
        rows.append([language, *(f"{values['per_language'][language][measure]:.4f}" for values in systems.values())])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Join cells with two blanks: the first column to the left, the others, numbers above all, to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )
