import contextlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from index.manifest import Manifest
from retriever.bundled import bundled_model
from server.cli import main

ROOT = Path(__file__).resolve().parents[2]
CORAL = [
    {"_id": "en", "title": "Coral", "text": "The coral reef turns white when the sea is warm.", "lang": "en"},
    {"_id": "de", "text": "Das Riff wird weiß, wenn das Meer warm ist.", "lang": "de", "year": 2021},
    {"_id": "zh", "text": "海水变暖时珊瑚会变白。" * 30, "lang": "zh"},
]


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def run(capsys):
    """Run a command in this process: status, what it printed, its errors."""

    def command(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def told(run):
    """Run a command with --json that must succeed and return what it says."""

    def command(name, *arguments):
        status, out, errors = run(name, "--json", *arguments)
        assert (status, errors) == (0, "")
        return json.loads(out)

    return command


@pytest.fixture
def failed(run):
    """Run a command that must fail and return its one line."""

    def command(status, *arguments):
        found, out, errors = run(*arguments)
        assert (found, out) == (status, ""), errors
        assert re.fullmatch(r"polyseek[^\n]*: [^\n]*\n", errors), errors
        return errors.rstrip("\n")

    return command


@pytest.fixture
def corpus(tmp_path):
    return write_lines(tmp_path / "coral.jsonl", *CORAL)


@pytest.fixture
def lexical(tmp_path, corpus, told):
    told("index", corpus, "--to", tmp_path / "bm25", "--views", "bm25")
    return tmp_path / "bm25"


@pytest.fixture(scope="module")
def full(tmp_path_factory, tiny_folder):
    """A collection with all views."""
    folder = tmp_path_factory.mktemp("cli")
    path = write_lines(folder / "coral.jsonl", *CORAL)
    assert main(["index", str(path), "--to", str(folder / "Sammlung é"), "--encoder", str(tiny_folder), "--json"]) == 0
    return folder / "Sammlung é"


def launch(*arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    command = [sys.executable, "-m", "server.cli", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **{**pipes, **options})


def test_index_builds_and_says_what_it_did(tmp_path, corpus, tiny_folder, run, told):
    folder = tmp_path / "c"
    made = told("index", corpus, "--to", folder, "--encoder", tiny_folder, "--batch-size", 2)
    seconds, tokens = made.pop("seconds"), made.pop("tokens")
    assert made == {"folder": str(folder), "added": 3, "updated": 0, "unchanged": 0, "split": 1}
    assert seconds > 0
    assert tokens > 64  # what the model takes, so one is split
    generation = Manifest.read(folder).generation
    status, out, errors = run("index", corpus, "--to", folder)
    assert (status, errors) == (0, "")
    assert re.fullmatch(rf"0 added, 0 updated, 3 unchanged in \d+\.\d s: {folder}\n", out)
    assert Manifest.read(folder).generation == generation


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal as POSIX has them")
def test_a_terminal_is_shown_how_far_it_is(tmp_path, tiny_folder):
    lines = [{"id": str(n), "text": f"reef {n} " * (1 if n else 90)} for n in range(300)]
    corpus = write_lines(tmp_path / "many.jsonl", *lines)
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    command = ["index", corpus, "--to", tmp_path / "c", "--encoder", tiny_folder, "--batch-size", "2", "--json"]
    process = launch(*command, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # which says that the other side is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert json.loads(out)["added"] == 300
    told = shown.decode()
    assert re.search(r"index: 100%.* 300/300 .*documents/s, [\d,]+ tokens/s, 1 in windows, merging segments\]", told)
    assert re.search(r"<\d\d:\d\d, ", told)  # the time left


def test_index_reads_standard_input_beside_files(tmp_path, corpus, told, monkeypatch):
    line = b'{"id": "sw", "text": "Bahari ikipata joto matumbawe huwa meupe."}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert told("index", corpus, "-", "--to", tmp_path / "c", "--views", "bm25")["added"] == 4
    (hit,) = told("search", tmp_path / "c", "matumbawe")["hits"]
    assert hit["id"] == "sw"


def test_add_replaces_by_id(lexical, tmp_path, told):
    more = write_lines(
        tmp_path / "more.jsonl", {**CORAL[0], "text": "a fox"}, CORAL[1], {"_id": "new", "text": "a fox"}
    )
    added = told("add", lexical, more)
    assert (added["added"], added["updated"], added["unchanged"]) == (1, 1, 1)
    assert {hit["id"] for hit in told("search", lexical, "fox")["hits"]} == {"en", "new"}
    assert told("add", lexical, more)["unchanged"] == 3


def test_delete_and_compact(lexical, run, told):
    assert told("delete", lexical, "en", "nobody") == {"deleted": 1, "asked": 2}
    assert told("info", lexical)["deleted_rows"] == 1
    assert run("delete", lexical, "en")[1] == "0 of 1 documents deleted\n"
    assert told("compact", lexical)["deleted_rows"] == 0
    assert told("search", lexical, "coral")["hits"] == []
    assert run("search", lexical, "coral")[:2] == (0, "nothing found\n")
    assert told("verify", lexical) == {"ok": True, "problems": []}


def test_info_describes(full, run, told, tiny_folder):
    found = told("info", full)
    assert found["documents"] == 3
    assert found["languages"] == {"de": 1, "en": 1, "zh": 1}
    assert found["views"] == ["bm25", "dense", "late"]
    assert found["encoder"]["model"] == str(tiny_folder)
    assert {"name", "deleted_rows", "segments", "generation", "bytes"} <= found.keys()
    status, out, _ = run("info", full)
    assert status == 0
    assert "documents  3\n" in out
    assert "languages  de 1, en 1, zh 1\n" in out


def test_verify_finds_what_changed(lexical, run):
    assert run("verify", lexical)[:2] == (0, "all files are as they were written\n")
    path = next(lexical.rglob("documents.blob.npy"))
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    status, out, errors = run("verify", lexical)
    assert (status, errors) == (1, "")
    assert str(path) in out
    status, out, _ = run("verify", lexical, "--json")
    assert status == 1
    assert json.loads(out)["ok"] is False


def test_search_answers_as_the_interface_does(full, told):
    found = told("search", full, "coral reef", "-k", 2)
    assert found.keys() == {"query", "language", "using", "took_ms", "hits", "truncated"}
    assert (found["query"], found["using"], found["truncated"]) == ("coral reef", "hybrid", False)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert found["hits"][0].keys() == {"rank", "id", "score", "title", "text", "lang", "metadata"}
    for using in ("hybrid", "cascade", "dense", "late"):
        assert len(told("search", full, "reef", "--using", using, "--no-neutral")["hits"]) == 3
    (german,) = told("search", full, "reef", "--languages", "deu, sw")["hits"]
    assert (german["id"], german["lang"], german["metadata"]) == ("de", "de", {"year": 2021})


def test_search_explains(full, run, told):
    found = told("search", full, "coral reef", "--explain", "--languages", "en")["explain"]
    assert found.keys() == {"language", "neutral", "terms", "hits"}
    assert found["hits"]["en"]["bm25"]["rank"] == 1
    out = run("search", full, "coral reef", "--explain")[1]
    assert re.search(r"bm25 1 \(\d+\.\d{4}\), dense \d \(-?\d\.\d{4}\), late \d \(-?\d+\.\d{4}\)", out)
    assert "bm25 -" in out


def test_search_shows_each_hit_in_two_lines(full, run):
    status, out, errors = run("search", full, "coral reef")
    assert (status, errors) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 6
    assert any(re.fullmatch(r"  \d\. -?\d\.\d{4} \[en\] Coral  \(en\)", line) for line in lines)
    # A text without blanks is cut like any other.
    assert any(re.fullmatch(r"     海水变暖时珊瑚会变白。\S{220,230} \.\.\.", line) for line in lines)


def write_dataset(folder):
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", *CORAL)
    write_lines(folder / "queries.jsonl", {"_id": "q", "text": "coral", "lang": "en"})
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ten\t1\n")
    return folder


def test_eval_prints_one_object(tmp_path, run, told):
    dataset = write_dataset(tmp_path / "tiny")
    found = told("eval", dataset, "--using", "bm25,rank-bm25", "--measures", "nDCG@10,P@1", "--runs", tmp_path / "runs")
    assert found["dataset"] == "tiny"
    assert found["systems"].keys() == {"bm25", "rank-bm25"}
    assert found["systems"]["bm25"]["nDCG@10"] == 1.0
    assert found["systems"]["bm25"]["ms_per_query"].keys() == {"p50", "p95"}
    assert found["index"]["documents"] == 3
    assert (tmp_path / "runs" / "bm25.run").read_text().startswith("q Q0 en 1 ")
    status, out, _ = run("eval", dataset, "--using", "bm25")
    assert status == 0
    assert re.search(r"^bm25 +1\.0000", out, re.MULTILINE)


def test_systems_are_compared_and_languages_told(tmp_path, run, told):
    demo = ROOT / "data" / "demo"
    systems = "bm25,bm25/no-neutral,rank-bm25"
    found = told("eval", demo, "--using", systems, "--index", tmp_path / "c", "--runs", tmp_path / "runs")
    pairs = found["comparison"]["pairs"]
    assert [(p["first"], p["second"]) for p in pairs] == [
        ("bm25", "bm25/no-neutral"),
        ("bm25", "rank-bm25"),
        ("bm25/no-neutral", "rank-bm25"),
    ]
    assert (pairs[0]["difference"], pairs[0]["t_test"], pairs[0]["ties"]) == (0.0, 1.0, 126)
    languages = found["systems"]["bm25"]["languages"]
    assert languages["matrix"]["de"]["de"] > languages["matrix"]["de"]["zh"]
    assert languages["own"]["top"] > languages["own"]["relevant"]
    runs = [tmp_path / "runs" / f"{name}.run" for name in ("bm25", "bm25.no-neutral", "rank-bm25")]
    again = told("compare", *runs, "--qrels", demo / "qrels" / "test.tsv")
    first = again["comparisons"][0]
    assert [p["difference"] for p in first["pairs"]] == pytest.approx([p["difference"] for p in pairs], abs=1e-4)
    assert again["runs"]["rank-bm25"]["nDCG@10"] == pytest.approx(found["systems"]["rank-bm25"]["nDCG@10"], abs=1e-4)
    status, out, _ = run("eval", demo, "--using", "bm25,rank-bm25", "--index", tmp_path / "c")
    assert status == 0
    assert re.search(r"^languages +monolingual", out, re.MULTILINE)
    assert re.search(r"^de -> +0\.", out, re.MULTILINE)
    status, out, _ = run("compare", *runs[::2], "--qrels", demo / "qrels" / "test.tsv", "--measures", "P@1")
    assert status == 0
    assert re.search(r"^126 judged queries", out)
    assert re.search(r"^rank-bm25 - bm25 +[+-]0\.\d{4} +[+-]", out, re.MULTILINE)


def test_datasets_are_listed_and_fetched(tmp_path, run, told, failed):
    known = told("fetch")["datasets"]
    assert known["scifact"]["licence"] == "claims CC BY 4.0, abstracts ODC-By 1.0"
    status, out, _ = run("fetch")
    assert status == 0
    assert re.search(r"^scifact +2\.8 MB +SciFact", out, re.MULTILINE)
    assert "no dataset is called 'x': choose from xquad-r, " in failed(2, "fetch", "x")
    (tmp_path / "scifact.zip").write_bytes(b"PK")
    message = failed(1, "fetch", "scifact", "--to", tmp_path / "new" / "scifact", "--source", tmp_path)
    assert "scifact.zip has 2 bytes where 2,816,079 are known: cut short, or another version" in message
    assert [path.name for path in tmp_path.iterdir()] == ["scifact.zip"]


def test_translations_are_found(tmp_path, run, told, failed):
    pairs = tmp_path / "deu.tsv"
    pairs.write_text("Guten Morgen!\tGood morning!\nEs regnet.\tIt is raining.\n", encoding="utf-8")
    assert told("bitext", pairs)["systems"]["dense"]["files"]["deu"]["accuracy"] == 1.0
    status, out, _ = run("bitext", tmp_path)
    assert status == 0
    assert re.search(r"^dense/no-neutral.*^deu +2 +1\.0000.*^mean +1\.0000", out, re.MULTILINE | re.DOTALL)
    assert "is no file of pairs" in failed(1, "bitext", tmp_path / "none")


def test_what_cannot_be_compared_is_told_with_file_and_line(tmp_path, failed):
    qrels, run, other = (tmp_path / name for name in ("qrels.tsv", "a.run", "b.run"))
    qrels.write_text("query-id\tcorpus-id\tscore\nq\ten\t1\n")
    run.write_text("q Q0 en 1 0.5 t\n")
    other.write_text("q Q0 en 1 0.5 t\nq Q0 de x\n")
    assert f"{other}, line 2: 4 columns" in failed(1, "compare", run, other, "--qrels", qrels)
    assert "needs two or more" in failed(2, "compare", run, "--qrels", qrels)
    assert "stands twice" in failed(2, "compare", run, run, "--qrels", qrels)
    other.write_text("p Q0 en 1 0.5 t\n")
    assert "ranks no query that" in failed(1, "compare", run, other, "--qrels", qrels)
    assert "unknown measure 'nonsense'" in failed(2, "compare", run, run, "--qrels", qrels, "--measures", "nonsense")
    assert "cannot read the run" in failed(1, "compare", run, tmp_path / "none", "--qrels", qrels)


@pytest.mark.parametrize(
    ("part", "line", "told"),
    [
        ("corpus.jsonl", b'{"_id": "x", "text": "a"', "not valid JSON"),
        ("corpus.jsonl", b'{"_id": "en", "text": "twice"}', "the document id 'en' is already that of line 1"),
        ("corpus.jsonl", b'{"_id": "x", "text": "\xff"}', "not UTF-8"),
        ("queries.jsonl", b'{"_id": "p"}', "query 'p' has no text"),
        ("queries.jsonl", b'{"_id": "q", "text": "again"}', "is already that of line 1"),
        ("qrels/test.tsv", b"q\ten", "three columns"),
        ("qrels/test.tsv", b"q\tde\tgood", "the grade 'good' is not a whole number"),
        ("qrels/test.tsv", b"q\ten\t2", "was graded 1 before and is 2 here"),
    ],
)
def test_a_broken_dataset_is_told_with_file_and_line(tmp_path, failed, part, line, told):
    path = write_dataset(tmp_path / "tiny") / part
    good = path.read_bytes()
    path.write_bytes(good + line + b"\n")
    message = failed(1, "eval", tmp_path / "tiny", "--using", "bm25", "--index", tmp_path / "index")
    assert told in message
    assert f"{path}, line {good.count(10) + 1}: " in message
    assert not (tmp_path / "index").exists()


def test_a_grid_is_evaluated_and_told(tmp_path, run, told, failed):
    write_dataset(tmp_path / "tiny")
    write_dataset(tmp_path / "other")
    grid, report = tmp_path / "grid.toml", tmp_path / "grid.md"
    grid.write_text('datasets = ["tiny", "other"]\nsystems = ["bm25", "rank-bm25"]\nmeasures = ["P@1"]\n')
    found = told("eval", grid, "--report", report, "--using", "late")
    assert found["cells"].keys() == {"tiny.bundled-trained", "other.bundled-trained"}
    assert found["cells"]["tiny.bundled-trained"]["systems"]["bm25"]["P@1"] == 1.0
    assert report.read_text().startswith("# grid.toml\n")
    status, out, _ = run("eval", grid)
    assert status == 0
    assert re.search(r"^other.bundled-trained +rank-bm25 +1\.0000 ", out, re.MULTILINE)
    grid.write_text("datasets = [")
    assert f"{grid} is no TOML" in failed(1, "eval", grid)


def test_a_query_that_is_a_document_does_not_find_itself(tmp_path, told):
    dataset = write_dataset(tmp_path / "tiny")
    write_lines(dataset / "queries.jsonl", {"_id": "en", "text": "coral", "lang": "en"})
    (dataset / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nen\tzh\t1\n")
    for more, first in (((), "en Q0 en 1 "), (("--drop-self",), "")):
        told("eval", dataset, "--using", "bm25", "--runs", tmp_path / "runs", *more)
        assert (tmp_path / "runs" / "bm25.run").read_text().startswith(first)
    assert "Q0 en " not in (tmp_path / "runs" / "bm25.run").read_text()


def test_wrong_input_is_told_in_one_line_and_changes_nothing(tmp_path, corpus, lexical, failed):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"_id": "new", "text": ""}' + '\n{"_id": "x"\n', encoding="utf-8")
    twice = write_lines(tmp_path / "twice.jsonl", *CORAL, CORAL[0])
    before = Manifest.read(lexical)
    for arguments in (["index"], ["add", lexical]):
        target = [] if arguments[0] == "add" else ["--to", tmp_path / "new", "--views", "bm25"]
        assert f"{broken}, line 2: not valid JSON" in failed(1, *arguments, corpus, broken, *target)
        assert re.search("'en' stands twice in .*: give every", failed(1, *arguments, twice, *target))
        assert re.search(r"nowhere.jsonl' does not exist: give", failed(1, *arguments, "nowhere.jsonl", *target))
        assert re.search("unknown kind: give", failed(2, *arguments, lexical / "manifest.json", *target))
    assert Manifest.read(lexical) == before
    assert not (tmp_path / "new").exists()


def test_wrong_collections_are_told_in_one_line(tmp_path, corpus, lexical, full, tiny_folder, late_folder, failed):
    for command in (["search", "q"], ["info"], ["verify"], ["compact"], ["delete", "x"], ["add", corpus], ["serve"]):
        message = failed(1, command[0], tmp_path / "nowhere", *command[1:])
        assert "holds no collection: build one with `polyseek index" in message
    assert not (tmp_path / "nowhere").exists()
    assert "exists with the views bm25: give those" in failed(
        2, "index", corpus, "--to", lexical, "--views", "bm25,late"
    )
    assert "exists and holds no collection" in failed(2, "index", corpus, "--to", tmp_path, "--views", "bm25")
    assert failed(2, "index", corpus, "--to", corpus, "--views", "bm25")
    assert re.search(
        "was built with .* and this is .*: open it with", failed(1, "search", full, "q", "--encoder", late_folder)
    )
    assert "makes no dense" in failed(2, "index", corpus, "--to", tmp_path / "new", "--encoder", late_folder)
    (lexical / "manifest.json").write_text("{}")
    assert "build it anew" in failed(1, "info", lexical)


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (r"the following arguments are required: COMMAND; see `polyseek --help`", []),
        (r"invalid choice: 'find'", ["find"]),
        (r"required: DIR, QUERY; see `polyseek search --help`", ["search"]),
        (r"unrecognized arguments: --fast", ["info", "DIR", "--fast"]),
        (r"-k: a whole number from 1 on is wanted, not '0'; see", ["search", "DIR", "q", "-k", "0"]),
        (r"-k: a whole number from 1 on is wanted, not '1\.5'", ["search", "DIR", "q", "-k", "1.5"]),
        (r"-k: a whole number from 1 on is wanted, not 'ten'", ["search", "DIR", "q", "-k", "ten"]),
        (r"--batch-size: a whole number", ["index", "x.jsonl", "--to", "DIR", "--batch-size", "-3"]),
        (
            r"unknown view 'sparse': choose from bm25, dense, late",
            ["index", "x.jsonl", "--to", "DIR", "--views", "sparse"],
        ),
        (r"--views: a list of names", ["index", "x.jsonl", "--to", "DIR", "--views", ","]),
        (r"--backend: invalid choice: 'tpu'", ["index", "x.jsonl", "--to", "DIR", "--backend", "tpu"]),
        (r"required: --to", ["index", "x.jsonl"]),
        (r"--port: invalid int value: 'http'", ["serve", "DIR", "--port", "http"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line(failed, expected, arguments):
    assert re.search(expected, failed(2, *arguments))


def test_wrong_values_are_one_line(lexical, tmp_path, corpus, failed):
    assert "'klingonese' is no language code; give ISO 639" in failed(
        2, "search", lexical, "q", "--languages", "klingonese"
    )
    assert "unknown mode 'best': choose from bm25" in failed(2, "search", lexical, "q", "--using", "best")
    assert "cannot search with dense: it has bm25" in failed(2, "search", lexical, "q", "--using", "dense")
    assert "the query holds a lone surrogate" in failed(1, "search", lexical, "caf\udce9")
    assert "99999 is no port" in failed(2, "serve", lexical, "--port", "99999")
    assert "Hugging Face Hub" in failed(1, "index", corpus, "--to", tmp_path / "new", "--encoder", tmp_path)
    dataset = write_dataset(tmp_path / "tiny")
    assert "cannot evaluate 'exact': choose among" in failed(2, "eval", dataset, "--using", "exact")
    assert failed(2, "eval", dataset, "--using", "bm25", "--measures", "nonsense")
    assert failed(1, "eval", tmp_path / "nowhere", "--using", "bm25")


def test_a_taken_port_is_one_line(lexical, failed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken" in failed(2, "serve", lexical, "--port", port)


def test_what_the_system_refuses_is_one_line(lexical, failed, tmp_path):
    (lexical / "manifest.json").rename(tmp_path / "aside")
    (lexical / "manifest.json").mkdir()  # a folder cannot be read as a file, not even by the administrator
    assert "Is a directory: check " in failed(1, "info", lexical)


def test_any_query_is_a_query(lexical, told):
    for query in ["", " ", "👩‍👩‍👧", "e\u0301 \u202e", "\x00", "x" * 10_000]:
        assert told("search", lexical, query)["hits"] == []
    assert told("search", lexical, "-k", 5, "--", "--reef")["hits"][0]["id"] == "en"
    assert len(told("search", lexical, "coral", "-k", 10**20)["hits"]) == 1


def test_help_and_light_commands_load_no_models(lexical):
    script = f"""if True:
        import contextlib, io, sys
        from server.cli import main
        texts = []
        names = "demo index add delete compact info verify search serve eval fetch compare bitext reproduce"
        for command in ["", *names.split()]:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                main([*command.split(), "--help"])
            texts.append((command, out.getvalue()))
        with contextlib.redirect_stdout(io.StringIO()):
            for command in (["info"], ["verify"], ["delete", "en"], ["compact"]):
                main([command[0], {str(lexical)!r}, *command[1:]])
        print([c for c, t in texts if not t.startswith(f"usage: polyseek {{c}}".rstrip()) or "positional" not in t])
        print("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['demo']\nFalse\n", "")  # demo has no positional arguments


def test_version(run):
    assert re.fullmatch(r"polyseek \d+\.\d+\.\d+\n", run("--version")[1])


def test_a_reader_that_has_enough_ends_it_quietly(lexical):
    reader, writer = os.pipe()
    os.close(reader)
    process = launch("info", lexical, stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0


def test_results_that_cannot_be_written_are_one_line(lexical):
    with Path("/dev/full").open("wb") as full:
        process = launch("info", lexical, stdout=full)
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    assert re.fullmatch(r"polyseek: No space left on device: [^\n]*\n", errors)


def test_results_are_utf8_in_any_locale(lexical):
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONCOERCECLOCALE": "0",
    }
    told, _ = launch("delete", lexical, "\udcff", "--json", env=environment).communicate(timeout=60)
    assert json.loads(told) == {"deleted": 0, "asked": 1}
    name = lexical.parent / os.fsdecode(b"caf\xe9 \xe6\xb5\xb7")
    lexical.rename(name)
    told, errors = launch("info", name, env=environment).communicate(timeout=60)
    assert errors == b""
    assert told.startswith(b"documents  3\n")


def test_ctrl_c_leaves_a_collection_that_goes_on(tmp_path, told):
    lines = (json.dumps({"_id": f"d{n}", "text": f"reef {n} " * 50, "lang": "en"}) for n in range(8000))
    corpus = tmp_path / "many.jsonl"
    corpus.write_text("\n".join(lines))
    process = launch("index", corpus, "--to", tmp_path / "c", "--views", "bm25")
    limit = time.monotonic() + 120
    while not (tmp_path / "c" / "segments" / "000002").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert errors.decode() == "polyseek: stopped; what was committed stays, and the same command goes on from there\n"
    assert told("verify", tmp_path / "c")["ok"]
    before = told("info", tmp_path / "c")["documents"]
    assert 0 < before < 8000
    report = told("index", corpus, "--to", tmp_path / "c", "--views", "bm25")
    assert (report["added"], report["unchanged"]) == (8000 - before, before)
    assert told("verify", tmp_path / "c")["ok"]


def test_the_demo_is_built_and_served_until_ctrl_c(tmp_path):
    model = bundled_model()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / model.name).symlink_to(model)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLYSEEK_CACHE": str(tmp_path / "cache")}
    with launch("demo", "--port", 0, env=environment) as process:
        try:
            line = process.stderr.readline().decode()
            told = re.fullmatch(r"Polyseek is at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
            assert told, line
            with urllib.request.urlopen(f"{told[1]}/info") as answer:
                assert json.load(answer)["documents"] > 100
        finally:
            process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, b"", b"")
