import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError, NotFoundError, UsageError
from data.records import Hit
from eval.runs import RunWriter, read_run

TOKENS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda t: t.split() == [t])
SCORES = st.floats(width=32, allow_nan=False, allow_infinity=False)
RUNS = st.dictionaries(TOKENS, st.dictionaries(TOKENS, SCORES, min_size=1, max_size=5), max_size=4)


def write(path, run, tag="polyseek"):
    with RunWriter(path, tag) as writer:
        for query, hits in run.items():
            writer.write(query, hits)


@settings(max_examples=100, deadline=None)
@given(scores=RUNS)
def test_what_is_written_reads_back_equal(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("runs") / "system.run"
    run = {
        query: [Hit(d, of[d]) for d in sorted(of, key=lambda d: (of[d], d), reverse=True)]
        for query, of in scores.items()
    }
    write(path, run)
    assert read_run(path) == run


def test_the_lines_are_those_of_trec(tmp_path):
    hits = [Hit("मुंबई-1", np.float32(0.1)), Hit("กรุงเทพ", -2.5), Hit("بيروت🙂", -1e-30)]
    write(tmp_path / "new" / "dense.run", {"q1": hits, "q2": []}, tag="polyseek-dense")
    lines = (tmp_path / "new" / "dense.run").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "q1 Q0 मुंबई-1 1 0.10000000149011612 polyseek-dense",
        "q1 Q0 กรุงเทพ 2 -2.5 polyseek-dense",
        "q1 Q0 بيروت🙂 3 -1e-30 polyseek-dense",
    ]
    with (tmp_path / "new" / "dense.run").open(encoding="utf-8") as file:
        assert pytrec_eval.parse_run(file)["q1"]["กรุงเทพ"] == -2.5


def test_a_run_is_read_in_trec_evals_order_whatever_its_ranks(tmp_path):
    path = tmp_path / "other.run"
    path.write_text("q Q0 a 1 0.5 t\n\nq Q0 b 2 0.5 t\nq\tQ0\tc\t3\t7e-1\tt\n", encoding="utf-8")
    assert read_run(path) == {"q": [Hit("c", 0.7), Hit("b", 0.5), Hit("a", 0.5)]}


def test_nothing_stands_there_until_it_is_complete(tmp_path):
    path = tmp_path / "dense.run"
    with RunWriter(path, "t") as writer:
        writer.write("q", [Hit("a", 1.0)])
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["dense.run"]


def test_a_failure_leaves_the_old_run_and_nothing_else(tmp_path):
    path = tmp_path / "dense.run"
    write(path, {"old": [Hit("a", 1.0)]})
    with pytest.raises(ZeroDivisionError), RunWriter(path, "t") as writer:
        writer.write("new", [Hit("a", 1.0)])
        raise ZeroDivisionError
    assert read_run(path) == {"old": [Hit("a", 1.0)]}
    assert [p.name for p in tmp_path.iterdir()] == ["dense.run"]


@pytest.mark.parametrize("bad", ["", " ", "a b", "a\tb", "a\n", "a\u00a0b", "a\u2028b", "\u3000a"])
def test_ids_that_the_format_cannot_hold_are_refused(tmp_path, bad):
    for query, hits in ((bad, [Hit("a", 1.0)]), ("q", [Hit("fine", 2.0), Hit(bad, 1.0)])):
        with pytest.raises(InputError, match="whitespace"):
            write(tmp_path / "x.run", {query: hits})
    with pytest.raises(InputError, match="tag"):
        RunWriter(tmp_path / "x.run", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q Q0 b 1 0.5", "5 columns"),
        ("q Q0 b 1 0.5 t more", "7 columns"),
        ("q Q0 b 1 high t", "'high' is not a finite number"),
        ("q Q0 b 1 nan t", "not a finite number"),
        ("q Q0 a 1 0.5 t", "'a' stands twice for query 'q'"),
        (b"q Q0 \xff 1 0.5 t", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    path = tmp_path / "bad.run"
    path.write_bytes(b"q Q0 a 1 0.5 t\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(InputError, match=reason) as caught:
        read_run(path)
    assert f"{path}, line 2: " in str(caught.value)


def test_a_missing_run_and_a_folder_that_cannot_be_made_are_told(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.run"):
        read_run(tmp_path / "none.run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write runs"), RunWriter(tmp_path / "file" / "x.run", "t"):
        pass
