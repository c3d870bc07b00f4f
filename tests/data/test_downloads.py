"""The registry of downloads, and files that come from a folder, over HTTP, broken, or not at all."""

import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ir_datasets
import pytest

from data.datasets import open_dataset
from data.downloads import Download, File, fetch, read_registry
from data.errors import InputError, NotFoundError, UsageError

BEIR = {
    "small/corpus.jsonl": '{"_id": "1", "text": "x"}\n',
    "small/queries.jsonl": '{"_id": "q", "text": "x"}\n',
    "small/qrels/test.tsv": "query-id\tcorpus-id\tscore\nq\t1\t1\n",
}


def test_the_registry_says_all_that_is_needed_of_each_file():
    for name, download in read_registry().items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert download.title and download.licence
        assert download.layout in ("BEIR", "LAReQA", "MIRACL", "Mr.TyDi", "mMARCO", "TREC")
        assert len({file.name for file in download.files}) == len(download.files)
        for file in download.files:
            assert file.url.startswith("https://")
            assert file.size > 0
            assert (
                re.fullmatch(r"[0-9a-f]{64}", file.sha256) if file.sha256 else re.fullmatch(r"[0-9a-f]{32}", file.md5)
            )
            assert not (file.sha256 and file.md5)
            assert not file.folder or (len(download.files) == 1 and file.name.endswith((".zip", ".tar.gz")))


def test_sizes_and_md5_are_those_that_ir_datasets_publishes():
    published = json.loads((Path(ir_datasets.__file__).parent / "etc" / "downloads.json").read_text())
    theirs = {}
    for group in ("mr-tydi", "mmarco", "beir"):
        for entry in published[group].values():
            theirs[re.sub("/resolve/main/", "/resolve/", entry.get("url", ""))] = entry
    compared = 0
    for download in read_registry().values():
        for file in download.files:
            if entry := theirs.get(re.sub("/resolve/[0-9a-f]{40}/", "/resolve/", file.url)):
                assert (file.size, file.md5 or entry["expected_md5"]) == (entry["size_hint"], entry["expected_md5"])
                compared += 1
    assert compared == 11  # all but XQuAD-R's files and mMARCO's small sets of queries


def test_xquad_r_is_as_large_as_its_publisher_says():
    assert read_registry()["xquad-r"].size == 17_863_417


@pytest.mark.parametrize(
    "text",
    ["[x", "x = 3", "[x]\ntitle = 'x'", "[x]\ntitle='x'\nlayout='x'\nlicence='x'\nfiles=[{url='x'}]",
     "[x]\ntitle='x'\nlayout='x'\nfiles=[]", "[x]\ntitle='x'\nlayout='x'\nlicence='x'\nmore='x'\nfiles=[]", b"\xff"],
)  # fmt: skip
def test_a_broken_registry_is_told(tmp_path, text):
    path = tmp_path / "downloads.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"downloads\.toml is no list of downloads"):
        read_registry(path)


def zipped(members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


def tarred(members):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def described(contents, *, host="https://example.org", kind="sha256", **more):
    """Return the download of files with these contents."""
    files = (
        File(url=f"{host}/{name}", size=len(raw), **{kind: hashlib.new(kind, raw).hexdigest()}, **more)
        for name, raw in contents.items()
    )
    return Download(title="x", layout="x", licence="x", files=tuple(files))


def put(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        (folder / name).write_bytes(raw)
    return folder


def quietly(count, name):
    pass


def test_an_archive_from_a_folder_becomes_a_dataset(tmp_path):
    contents = {"small.zip": zipped(BEIR)}
    told = []
    download = described(contents, folder="small")
    fetch(download, tmp_path / "a" / "b", source=put(tmp_path / "source", contents), on_bytes=lambda *x: told.append(x))
    assert open_dataset(str(tmp_path / "a" / "b")).qrels() == {"q": {"1": 1}}
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["corpus.jsonl", "qrels", "queries.jsonl"]
    assert told == [(download.size, "small.zip")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "source"]


def test_an_archive_by_md5_keeps_the_folder_that_names_its_language(tmp_path):
    docs = gzip.compress(b'{"id": "1", "contents": "Ni ugonjwa."}\n')
    home = "mrtydi-v1.0-swahili"
    members = {"collection/docs.jsonl.gz": docs, "topic.test.tsv": b"0\tNini?\n", "qrels.test.txt": b"0 Q0 1 1\n"}
    contents = {f"{home}.tar.gz": tarred({f"{home}/{name}": raw for name, raw in members.items()})}
    download = described(contents, kind="md5")
    fetch(download, tmp_path / "sw", source=put(tmp_path / "source", contents), on_bytes=quietly)
    found = open_dataset(str(tmp_path / "sw"))
    assert [(d.id, d.lang) for d in found.documents()] == [("1", "sw")]
    assert found.queries()[0].text == "Nini?"


@pytest.fixture
def server():
    """Serve what is put into it: content, and how many bytes of it are promised; None where that is no HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            raw, promised = self.server.contents.get(self.path[1:], (None, 0))
            if promised is None:
                self.wfile.write(raw)
                return
            self.send_response(404 if raw is None else 200)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(raw or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.contents = {}
        thread = threading.Thread(target=functools.partial(made.serve_forever, poll_interval=0.01))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


FILES = {"de.json": b'{"data": []}', "sw.json": b"[" * 3_000_000}


def test_files_come_over_http_whole_or_not_at_all(tmp_path, server):
    host = f"http://127.0.0.1:{server.server_port}"
    download = described(FILES, host=host)
    server.contents = {name: (raw, len(raw)) for name, raw in FILES.items()}
    fetch(download, tmp_path / "here", on_bytes=quietly)
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == FILES
    large = FILES["sw.json"]
    for content, promised, error, message in (
        (None, 0, NotFoundError, r"sw\.json cannot be read \(HTTP Error 404.*give its folder as --source"),
        (b"no HTTP\r\n\r\n", None, NotFoundError, r"sw\.json cannot be read \(no HTTP"),
        (large[:-1], len(large), InputError, r"has 2,999,999 bytes where 3,000,000 are known: cut short"),
        (large[:-1], len(large) - 1, InputError, r"has 2,999,999 bytes where 3,000,000 are known: cut short"),
        (large + b"[", len(large) + 1, InputError, r"has more bytes where 3,000,000 are known"),
        (large[:-1] + b"]", len(large), InputError, r"is not the file that is known: its sha256 is [0-9a-f]{64}, not"),
    ):
        server.contents["sw.json"] = (content, promised)
        with pytest.raises(error, match=message):
            fetch(download, tmp_path / "new" / "there", on_bytes=quietly)
        assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_what_a_folder_lacks_or_holds_wrongly_is_told(tmp_path):
    source = put(tmp_path / "source", {"de.json": FILES["de.json"]})
    for change, error, message in (
        ({}, NotFoundError, r"source/sw\.json cannot be read \(No such file.*it is https://example\.org/sw\.json"),
        ({"sw.json": b"["}, InputError, r"source/sw\.json has 1 bytes where 3,000,000 are known"),
        ({"de.json": b'{"data": {}}'}, InputError, r"source/de\.json is not the file that is known"),
    ):
        put(source, change)
        with pytest.raises(error, match=message):
            fetch(described(FILES), tmp_path / "to", source=source, on_bytes=quietly)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
    contents = {"small.zip": zipped(BEIR)}
    with pytest.raises(InputError, match=r"small\.zip holds no folder large"):
        fetch(described(contents, folder="large"), tmp_path / "to", source=put(source, contents), on_bytes=quietly)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    there = put(tmp_path / "there", {"mine": b"1"})
    with pytest.raises(UsageError, match="is there already: use it, or give --to another folder"):
        fetch(described(FILES), there, source=put(tmp_path / "source", FILES), on_bytes=quietly)
    assert [path.name for path in there.iterdir()] == ["mine"]


def test_a_name_that_can_be_fetched_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="scifact is not here yet: `polyseek fetch scifact` gets it"):
        open_dataset("scifact")
