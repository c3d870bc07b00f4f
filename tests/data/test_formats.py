"""Tables, TREC files and folders of text."""

import csv
import gzip
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError, NotFoundError
from data.readers import read_documents
from data.records import Document


def read(path):
    return list(read_documents(str(path)))


def written(folder, content, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fails(path):
    """Return the message of the error after the file: one line."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line ") and "\n" not in message
    return message.removeprefix(f"{path}, ")


# Tables


def test_a_table_with_every_column(tmp_path):
    content = "\ufefftitle,_id,lang,text,year\r\nA title,1,sw-KE,Habari,1999\r\n,2,,,\r\n"
    assert read(written(tmp_path, content, "c.csv")) == [
        Document("1", "Habari", "A title", "sw", {"year": "1999"}),
        Document("2", "", metadata={"year": ""}),
    ]


def test_quoted_fields_hold_commas_quotes_and_lines(tmp_path):
    content = 'id,text\n1,"a, ""b""\n\nc"\n\n2,plain "quote" inside\n'
    documents = [Document("1", 'a, "b"\n\nc'), Document("2", 'plain "quote" inside')]
    assert read(written(tmp_path, content, "c.csv")) == documents
    assert read(written(tmp_path, gzip.compress(content.encode()), "d.csv.gz")) == documents


def test_a_table_by_tabs_keeps_commas(tmp_path):
    content = 'id\ttext\tnote\n1\tone, two\t"a\tb"\n'
    assert read(written(tmp_path, content, "c.tsv")) == [Document("1", "one, two", metadata={"note": "a\tb"})]


def test_a_field_longer_than_the_csv_module_takes_by_itself(tmp_path):
    text = "ข" * 300_000
    assert read(written(tmp_path, f"id,text\n1,{text}\n", "c.csv")) == [Document("1", text)]


def test_the_id_column_and_a_second_one(tmp_path):
    assert read(written(tmp_path, "id,_id,text\nb,a,t\n", "c.csv")) == [Document("a", "t", metadata={"id": "b"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,t\n2,t,u\n", "line 3: 3 columns where the header has 2"),
        ("id,text\n1\n", "line 2: 1 columns where the header has 2"),
        ('id,text\n1,"a\nb"\n2\n', "line 4: 1 columns where the header has 2"),
        ("id,text,text\n1,a,b\n", "line 1: the header has the column 'text' twice"),
        ("id,text, text\n1,a,b\n", "line 1: the header has the column 'text' twice"),
        ("\nid,text,\n1,a,b\n", "line 2: column 3 of the header has no name"),
        ("id,body\n1,a\n", "line 1: the header has no column `text`, only: id, body"),
        ("name,text\n1,a\n", "line 1: the header has no column `id` or `_id`, only: name, text"),
        ("id;text\n1;a\n", "line 1: the header has no column `id` or `_id`, only: id;text"),
        ("id,text\n,a\n", "line 2: a document has an empty id"),
        ("id,text\n1,a\n2,a\0b\n", "line 3: a NUL byte"),
        ('id,text\n1,t\n2,"never\nclosed\n', "line 3: a broken row (unexpected end of data)"),
        ('id,text\n1,t\n2,"a"b\n', "line 3: a broken row ("),
        ("id,text\n1,a\rb\n", "line 2: a broken row (new-line character"),
    ],
)
def test_a_broken_table_names_its_line(tmp_path, content, message):
    assert fails(written(tmp_path, content, "c.csv")).startswith(message)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))


@given(
    st.lists(st.tuples(CELLS.filter(bool), CELLS, CELLS), max_size=5), st.sampled_from([(",", "csv"), ("\t", "tsv")])
)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, rows, kind):
    delimiter, extension = kind
    path = tmp_path_factory.mktemp("table") / f"c.{extension}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("id", "text", "note"), *rows])
    assert read(path) == [Document(i, text, metadata={"note": note}) for i, text, note in rows]


# TREC

TREC = """\
<DOC>
<DOCNO> FT-1 </DOCNO>
<DATE>1999</DATE>
<!-- a comment with <TEXT> -->
<TITLE>Ein <B>Titel</B></TITLE>
<TEXT>
<P>
First &amp; second: a<b and c>d.
</P>
<F P=100>Third</F>
</TEXT>
<text>ภาษาไทย</text>
</DOC>

<doc><docno>2</docno><text>zwei</text><lang>deu</lang></doc><DOC><DOCNO>3</DOCNO><TEXT></TEXT></DOC>
"""


@pytest.mark.parametrize("name", ["c.trec", "c.trec.gz", "C.TREC"])
def test_a_trec_file_holds_several_documents(tmp_path, name):
    first = Document(
        "FT-1",
        "First & second: a<b and c>d.\n\nThird\nภาษาไทย",
        "Ein Titel",
        metadata={"date": "1999"},
    )
    content = gzip.compress(TREC.encode()) if name.endswith("gz") else TREC
    assert read(written(tmp_path, content, name)) == [first, Document("2", "zwei", lang="de"), Document("3", "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<DOC>\n<TEXT>t</TEXT>\n</DOC>", "line 1: a document has no <DOCNO>...</DOCNO>"),
        ("\n<DOC><DOCNO></DOCNO><TEXT>t</TEXT></DOC>", "line 2: a document has an empty id"),
        ("<DOC><DOCNO>1</DOCNO></DOC>", "line 1: document '1' has no <TEXT>...</TEXT>"),
        ("<DOC><DOCNO>1</DOCNO><TEXT>t</DOC>", "line 1: document '1' has text outside of its elements"),
        ("<DOC><DOCNO>1</DOCNO>free<TEXT>t</TEXT></DOC>", "line 1: document '1' has text outside of its elements"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n<TEXT>t</TEXT>\n<DOC>", "line 4: <DOC> before the <DOC> of line 1 is closed"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n<TEXT>cut sh", "line 1: this <DOC> is never closed by </DOC>"),
        ("\n</DOC>", "line 2: </DOC> without a <DOC> before it"),
        ("{}\n", "line 1: text outside of <DOC>...</DOC>: '{}'"),
    ],
)
def test_a_broken_trec_file_names_its_line(tmp_path, content, message):
    assert fails(written(tmp_path, content, "c.trec")).startswith(message)


# Folders of text


def test_a_folder_of_texts_in_the_order_of_names(tmp_path):
    written(tmp_path, "\ufeffAlpha\r\n\r\nBeta\r\n", "b.txt")
    written(tmp_path, "intro\n\n## The  heading ##\n\n# Later", "a/note.MD")
    written(tmp_path, "سلام", "a/ب/ملف.txt")
    written(tmp_path, "no heading", "z.md")
    for name in (".hidden.txt", ".git/x.txt", "image.png", "a/data.json"):
        written(tmp_path, b"\xff", name)
    assert read(tmp_path) == [
        Document("a/note.MD", "intro\n\n## The  heading ##\n\n# Later", title="The heading"),
        Document("a/ب/ملف.txt", "سلام", title="ملف"),
        Document("b.txt", "Alpha\n\nBeta", title="b"),
        Document("z.md", "no heading", title="z"),
    ]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# One", "One"),
        ("###### C#", "C#"),
        ("   ## 三 四 #", "三 四"),
        ("Under\n=====\n# Later", "Under"),
        ("```sh\n# comment\n```\n# Real", "Real"),
        ("~~~~\n# a\n~~~\n# b\n~~~~\n# Real", "Real"),
        ("    # code\n\t# code\n# Real", "Real"),
        ("#hashtag\n####### seven\n#\n# Real", "Real"),
        ("\n=====\ntext", "stem"),
        ("", "stem"),
    ],
)
def test_the_title_of_a_markdown_file(tmp_path, text, title):
    written(tmp_path, text, "stem.md")
    assert [document.title for document in read(tmp_path)] == [title]


def test_an_empty_text_file_is_a_document_with_a_title(tmp_path):
    written(tmp_path, "", "empty.txt")
    assert read(tmp_path) == [Document("empty.txt", "", title="empty")]


def test_a_folder_with_nothing_to_read_says_so(tmp_path):
    written(tmp_path, b"%PDF", "paper.pdf")
    with pytest.raises(NotFoundError, match=r"holds no corpus.jsonl\[.gz\] and no \*.txt or \*.md file"):
        read(tmp_path)


@pytest.mark.parametrize(("content", "reason"), [(b"one\ntwo\ncaf\xe9\n", "0xe9"), (b"one\ntwo\n\0\n", "NUL")])
def test_a_text_that_is_not_utf8_names_its_file_and_line(tmp_path, content, reason):
    path = written(tmp_path, content, "a/latin.txt")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert reason in str(caught.value) and "convert it to UTF-8" in str(caught.value)


def test_links_to_folders_are_not_followed(tmp_path):
    written(tmp_path, "text", "a/b.txt")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [document.id for document in read(tmp_path)] == ["a/b.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a file name")
def test_a_file_name_that_is_no_unicode_is_an_error_that_can_be_printed(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:  # noqa: PTH123 (a Path takes no bytes)
        file.write(b"text")
    with pytest.raises(InputError, match="lone surrogate") as caught:
        read(tmp_path)
    str(caught.value).encode("utf-8")
