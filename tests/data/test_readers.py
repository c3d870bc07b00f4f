"""Reading documents: which reader a path gets, JSON Lines, encodings, damaged files, and that nothing is read ahead."""

import gzip
import io
import itertools
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError, NotFoundError, UsageError
from data.readers import read_documents
from data.records import Document

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.builds(
    Document,
    id=UNICODE.filter(bool),
    text=UNICODE,
    title=UNICODE,
    lang=st.sampled_from(["", "en", "km", "ar"]),
    metadata=st.dictionaries(UNICODE, UNICODE | st.integers() | st.none(), max_size=3),
)
TEXTS = [
    "ภาษาไทยไม่มีช่องว่าง",
    "中文没有空格",
    "日本語 カタカナ",
    "\u200fالعربية من اليمين",
    "हिन्दी में मात्राएँ",
    "ភាសាខ្មែរ",
    "👩‍👩‍👧 😀 🇰🇪",
    "e\u0301 ≠ é",
    "𐎀𐎁 𝒜 𠮷",
    "line\u2028separator\x85next\x0bline\rreturn",
]


def read(path):
    return list(read_documents(str(path)))


def written(folder, content, name="c.jsonl"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fails(path, error=InputError):
    """Return the message of the error: one line, with the name of the file."""
    with pytest.raises(error) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def stdin_of(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


@given(st.lists(DOCUMENTS, max_size=5), st.booleans(), st.booleans())
def test_documents_survive_json_lines(tmp_path_factory, documents, ascii_only, packed):
    lines = "".join(json.dumps(d.to_json(), ensure_ascii=ascii_only) + "\n" for d in documents).encode()
    folder = tmp_path_factory.mktemp("round")
    path = written(folder, gzip.compress(lines, 1), "c.jsonl.gz") if packed else written(folder, lines)
    assert read(path) == documents


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_difficult_scripts_come_back_as_they_were(tmp_path, text):
    path = written(tmp_path, json.dumps({"_id": text, "text": text}, ensure_ascii=False))
    assert read(path) == [Document(text, text)]


@pytest.mark.parametrize("name", ["c.jsonl", "c.ndjson", "C.JSONL"])
def test_json_lines_by_name(tmp_path, name):
    assert read(written(tmp_path, '{"_id": "1", "text": "t", "n": 3}', name)) == [Document("1", "t", metadata={"n": 3})]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark(tmp_path):
    lines = b'\xef\xbb\xbf{"_id": "1", "text": "a"}\r\n\r\n  \t\n{"id": 2, "text": "b"}'
    assert read(written(tmp_path, lines)) == [Document("1", "a"), Document("2", "b")]


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.tsv", "c.trec", "c.ndjson"])
def test_an_empty_file_holds_no_documents(tmp_path, name):
    assert read(written(tmp_path, b"", name)) == []
    assert read(written(tmp_path, b"\xef\xbb\xbf\n\n", name)) == []
    assert read(written(tmp_path, gzip.compress(b""), f"{name}.gz")) == []


def test_standard_input_is_json_lines(monkeypatch):
    stdin_of(monkeypatch, '\ufeff{"_id": "1", "text": "ภาษา"}\n\n{"_id": "2", "text": ""}\n'.encode())
    assert list(read_documents("-")) == [Document("1", "ภาษา"), Document("2", "")]


def test_faults_on_standard_input_have_their_line(monkeypatch):
    stdin_of(monkeypatch, b'\n{"_id": "1"}\n')
    with pytest.raises(InputError, match=r"^standard input, line 2: document '1' has no text"):
        list(read_documents("-"))


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_folder_with_a_corpus_is_a_beir_folder(tmp_path, name):
    line = b'{"_id": "1", "text": "t"}\n'
    written(tmp_path, gzip.compress(line) if name.endswith("gz") else line, name)
    written(tmp_path, "not a passage", "README.md")
    assert read(tmp_path) == [Document("1", "t")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"_id": "2", "text": "t"', "line 2: not valid JSON (Expecting ',' delimiter at column 25)"),
        (b"hello", "line 2: not valid JSON (Expecting value at column 1)"),
        (b'{"_id": "2", "text": "a\tb"}', "line 2: not valid JSON (Invalid control character at at column 24)"),
        (b"[1]", "line 2: every line must be a JSON object, got list"),
        (b'"text"', "line 2: every line must be a JSON object, got str"),
        (b'{"text": "t"}', "line 2: a document has no id"),
        (b'{"_id": "2", "text": 5}', "line 2: document '2': text must be a string, got int"),
        (b'{"_id": "2", "text": "\\ud800"}', "line 2: document '2': text holds a lone surrogate"),
        (b'{"_id": "2", "text": "", "m": {"x": "\\udc00"}}', "line 2: document '2': metadata holds a lone surrogate"),
        (b'{"_id": "2", "text": "", "x": NaN}', "line 2: document '2': metadata cannot be written as JSON"),
        (b'{"_id": "2", "text": "", "x": ' + b"9" * 5000 + b"}", "line 2: not valid JSON (Exceeds the limit"),
        (b"[" * 200_000, "line 2: not valid JSON ("),
        (
            b'{"_id": "2", "text": "caf\xe9"}',
            "line 2: the file is not UTF-8 (byte 0xe9, Latin-1 perhaps): convert it to",
        ),
        (b'{"_id": "2", "text": "\0"}', "line 2: a NUL byte"),
    ],
)
def test_a_broken_line_is_named_after_the_good_ones_were_read(tmp_path, line, message):
    path = written(tmp_path, b'{"_id": "1", "text": "fine"}\n' + line + b"\n")
    documents = read_documents(str(path))
    assert next(documents) == Document("1", "fine")
    with pytest.raises(InputError) as caught:
        next(documents)
    assert str(caught.value).startswith(f"{path}, {message}")


def test_a_whole_surrogate_pair_is_one_character(tmp_path):
    assert read(written(tmp_path, r'{"_id": "1", "text": "\ud83d\ude00"}')) == [Document("1", "😀")]


@pytest.mark.parametrize("array", ['[{"_id": "1", "text": "t"}]', '\n[\n  {"_id": "1", "text": "t"}\n]'])
def test_a_json_array_is_told_what_to_become(tmp_path, array):
    assert "a JSON array: write one object per line instead" in fails(written(tmp_path, array))


def test_a_pretty_printed_object_is_told_what_to_become(tmp_path):
    message = fails(written(tmp_path, '{\n  "_id": "1",\n  "text": "t"\n}'))
    assert "line 1" in message and "every line must be one whole object" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "shift_jis"])
@pytest.mark.parametrize("name", ["c.jsonl", "c.csv", "c.trec"])
def test_other_encodings_are_refused_with_advice(tmp_path, encoding, name):
    text = "日本" if encoding == "shift_jis" else "café"
    content = {
        "c.jsonl": f'{{"_id": "1", "text": "{text}"}}\n',
        "c.csv": f"id,text\n1,{text}\n",
        "c.trec": f"<DOC><DOCNO>1</DOCNO>\n<TEXT>{text}</TEXT></DOC>\n",
    }[name]
    message = fails(written(tmp_path, content.encode(encoding), name))
    assert "convert it to UTF-8" in message
    line = 1 if encoding.startswith("utf-16") or name == "c.jsonl" else 2
    assert f"line {line}:" in message
    assert ("UTF-16" in message) == encoding.startswith("utf-16")


@pytest.mark.parametrize("kept", [5, 60, -9, -1])
def test_a_truncated_gzip_file_is_one_clear_error(tmp_path, kept):
    lines = b"".join(b'{"_id": "%d", "text": "t"}\n' % i for i in range(1000))
    message = fails(written(tmp_path, gzip.compress(lines)[:kept], "c.jsonl.gz"))
    assert "no whole gzip file, broken after line" in message


def test_what_only_calls_itself_gzip(tmp_path):
    assert "no whole gzip file" in fails(written(tmp_path, b'{"_id": "1", "text": "t"}', "c.jsonl.gz"))


@pytest.mark.parametrize("position", [10, -8], ids=["block type", "checksum"])
def test_a_damaged_gzip_file_is_one_clear_error(tmp_path, position):
    damaged = bytearray(gzip.compress(b'{"_id": "1", "text": "t"}\n'))
    damaged[position] ^= 0xFF
    assert "no whole gzip file" in fails(written(tmp_path, bytes(damaged), "c.jsonl.gz"))


@pytest.mark.parametrize("name", ["c.json", "c.txt", "c.pdf", "c", "c.gz", ".jsonl"])
def test_an_unknown_extension_lists_what_is_accepted(tmp_path, name):
    path = written(tmp_path, b"", name)
    with pytest.raises(UsageError, match="unknown kind: give a BEIR folder") as caught:
        read_documents(str(path))
    for accepted in ("*.jsonl", "*.csv", "*.tsv", "*.trec", "*.txt", "*.md", "standard input"):
        assert accepted in str(caught.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent", ""])
def test_a_missing_path_is_told_at_once_with_what_is_accepted(tmp_path, name):
    with pytest.raises(NotFoundError, match="does not exist: give a BEIR folder"):
        read_documents(str(tmp_path / name) if name else "")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    path = written(tmp_path, b'{"_id": "1", "text": "t"}\nbroken\n')
    documents = read_documents(str(path))
    assert next(documents).id == "1"
    documents.close()


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.csv", "c.trec"])
def test_memory_holds_one_record_and_not_the_file(tmp_path, name):
    text = "word " * 400  # 2,000 characters; 2,000 records are 4 MB
    record = {
        "c.jsonl.gz": json.dumps({"_id": "1", "text": text}) + "\n",
        "c.csv": f"1,{text}\n",
        "c.trec": f"<DOC><DOCNO>1</DOCNO><TEXT>{text}</TEXT></DOC>\n",
    }[name]
    content = ("id,text\n" if name == "c.csv" else "") + record * 2000
    path = written(tmp_path, gzip.compress(content.encode(), 1) if name.endswith("gz") else content, name)
    del content
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_documents(str(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2000
    assert peak < 1_000_000


def test_an_endless_input_can_be_read_from(monkeypatch):
    class Endless:
        buffer = (b'{"_id": "%d", "text": "t"}\n' % i for i in itertools.count())

    monkeypatch.setattr("sys.stdin", Endless())
    assert [d.id for d in itertools.islice(read_documents("-"), 3)] == ["0", "1", "2"]
