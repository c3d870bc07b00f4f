"""Reports: what stands in them, hostile names, and files that cannot be written."""

import pytest

from data.errors import UsageError
from eval.report import check_path, plots, write_report

SYSTEM = {
    "nDCG@10": 0.5,
    "Recall@100": 0.75,
    "per_language": {"de": {"nDCG@10": 0.5}, "th": {"nDCG@10": 0.25}},
    "ms_per_query": {"p50": 2.0, "p95": 3.0},
    "queries_per_second": 100.0,
    "measured": "2026-01-31",
}
LANGUAGES = {
    "measure": "nDCG@10",
    "matrix": {"de": {"de": 0.9, "th": 0.1}, "th": {"th": 0.5}},
    "monolingual": 0.7,
    "crosslingual": 0.1,
    "gap": 0.6,
    "limit_one": {"matrix": {}, "mean": None},
    "shares": {"de": {"top": 0.6, "relevant": 0.5}, "th": {"top": 0.4, "relevant": 0.5}},
    "own": {"top": 0.9, "relevant": 0.5},
    "bias": 0.25,
    "PEER@10": 0.125,
}
PAIR = {
    "first": "a", "second": "b", "difference": 0.1, "interval": [0.05, 0.15], "t_test_holm": 0.01,
    "randomisation_holm": 0.02, "wins": 3, "ties": 2, "losses": 1, "extremes": [["<q>", 0.5]],
}  # fmt: skip
RESULT = {
    "dataset": "<script>alert(1)</script>",
    "encoder": "x & y",
    "neutral": True,
    "systems": {"a": SYSTEM, "b": {**SYSTEM, "nDCG@10": 0.625, "languages": LANGUAGES}},
    "comparison": {"measure": "nDCG@10", "pairs": [PAIR]},
    "index": {"documents": 12345, "build_s": 1.5, "bytes": 1_000_000},
}


def test_a_page_holds_every_number_and_no_code_of_others(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, RESULT, "polyseek eval 'a <b>'")
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "x &amp; y" in page
    assert "polyseek eval &#39;a &lt;b&gt;&#39;" in page
    assert '<td class="best">0.6250</td>' in page
    assert "+0.1000 *" in page
    assert "&lt;q&gt; (+0.50)" in page
    assert "12,345 documents" in page
    assert "<td>–</td>" in page  # no mean where there is nothing
    assert not [name for name in tmp_path.iterdir() if name != path]


def test_markdown_by_hand(tmp_path):
    path = tmp_path / "report.md"
    write_report(path, RESULT, "polyseek eval x")
    text = path.read_text(encoding="utf-8")
    assert "| a | 0.5000 | **0.7500** | 2.00 | 100.0 | 2026-01-31 |\n" in text
    assert "| b | **0.6250** | **0.7500** | 2.00 | 100.0 | 2026-01-31 |\n" in text
    assert "| b - a | +0.1000* | +0.0500 to +0.1500 | 0.01 | 0.02 | 3, 2, 1 |" in text
    assert "| th | 0.2500 | 0.2500 |\n" in text
    assert "| b | 0.7000 | 0.1000 | 0.6000 | - | 0.9000 | 0.2500 | 0.1250 |\n" in text
    assert "`polyseek eval x`" in text
    assert "<script" not in text


def test_names_that_are_no_text_are_written_escaped(tmp_path):
    write_report(tmp_path / "report.html", {**RESULT, "dataset": "x\udcff"}, "polyseek eval x\udcff")
    assert "<h1>x\\udcff</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_plot_places_systems_by_what_they_are_worth():
    quick, slow = (dict(SYSTEM, ms_per_query={"p50": ms}, **{"Recall@100": r}) for ms, r in ((1.0, 0.5), (10.0, 1.0)))
    (plot,) = plots({"quick": quick, "slow": slow}, ["nDCG@10", "Recall@100"])
    assert plot.title == "Recall@100 against the time of one query"
    assert [point.name for point in plot.points] == ["quick", "slow"]
    assert plot.points[0].x < plot.points[1].x
    assert plot.points[0].y > plot.points[1].y  # further down
    assert plots({"one": SYSTEM}, ["nDCG@10"])[0].points[0].told == "one: milliseconds, median 2, nDCG@10 0.5000"
    assert plots({"zero": dict(SYSTEM, **{"nDCG@10": 0.0})}, ["nDCG@10"])


def test_reports_of_other_kinds_and_to_nowhere_are_refused(tmp_path):
    (tmp_path / "b.html").mkdir()
    for wrong, told in (
        (tmp_path / "b.html", "is a folder"),
        (tmp_path / "a.pdf", "a report is a .html or a .md file"),
        (tmp_path / "x" / "a.md", "no folder"),
    ):
        with pytest.raises(UsageError, match=told):
            check_path(wrong)
