"""Topics in lines and in the elements of TREC's tracks, beside what ir_datasets reads of them."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_datasets.formats import TrecQueries
from ir_datasets.util import LocalDownload

from data.errors import InputError
from data.records import Query
from data.topics import read_topics

ADHOC = """\

<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in international criminal
activity.

<narr> Narrative:
A relevant document must as a minimum identify the organization.

</top>

<top>
<num> Number: 302
<title> Poliomyelitis and
Post-Polio

<desc> Description:
Is the disease under control?

<narr> Narrative:
Yes or no.

</top>
"""


def written(folder, content):
    path = folder / "topics.txt"
    path.write_text(content, encoding="utf-8")
    return path


def test_topics_are_what_ir_datasets_reads(tmp_path):
    path = written(tmp_path, ADHOC)
    theirs = [(q.query_id, " ".join(q.title.split())) for q in TrecQueries(LocalDownload(path)).queries_iter()]
    assert [(q.id, q.text) for q in read_topics(path)] == theirs
    assert theirs[1] == ("302", "Poliomyelitis and Post-Polio")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # TREC 1 to 3 write zeros and labels, TREC 4 no titles, CLEF and TREC's cross-lingual tracks close their fields.
        ("<top>\n<head> Tipster\n<num> Number:  051\n<title> Topic: One Topic: two\n</top>", ("051", "One Topic: two")),
        ("<top>\n<num> Number: 201\n<desc> Description:\nWho is\nit?\n</top>", ("201", "Who is it?")),
        ("<TOP><NUM>C041</NUM><TITLE lang='de'>Äpfel &amp; a<b</TITLE><DESC>x</DESC></TOP>", ("C041", "Äpfel & a<b")),
        ("1\ta query: with\ttabs\r\n", ("1", "a query: with\ttabs")),
        ("\n 7 \t水\n\n", ("7", "水")),
    ],
)  # fmt: skip
def test_the_forms_of_a_topic(tmp_path, content, expected):
    name, text = expected
    assert read_topics(written(tmp_path, content), "sw") == [Query(text, lang="sw", id=name)]


def test_topics_may_be_zipped_and_empty(tmp_path):
    path = tmp_path / "topics.txt.gz"
    path.write_bytes(gzip.compress(ADHOC.encode()))
    assert [q.id for q in read_topics(path)] == ["301", "302"]
    assert read_topics(written(tmp_path, "")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\ta\n\nno tab\n", "line 3: an id, a tab and a query are needed, got 'no tab'"),
        ("1\ta\n2\tb\n1\tc\n", "line 3: the topic '1' is already that of line 1"),
        ("\n<top>\n<title> x\n</top>", "line 2: a <top> needs a <num>, and a <title> or a <desc>"),
        ("<top>\n<num> Number: \n<title> x\n</top>", "line 1: a <top> needs a <num>"),
        ("<top>\n<num> 1 <title> Topic: \n</top>", "line 1: a <top> needs a <num>"),
        ("<top>\n<num> 1 <title> x\n<top>", "line 3: <top> before the <top> of line 1 is closed by </top>"),
        ("<top>\n<num> 1 <title> x\n", "line 1: this <top> is never closed by </top>"),
        ("<topic number='1'><query>x</query></topic>", "line 1: text outside of <top>...</top>"),
        ("<top><num>1<title>a</top>\n<top><num>1<title>b</top>", "line 2: the topic '1' is already that of line 1"),
    ],
)
def test_a_broken_file_of_topics_names_its_line(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_topics(path)
    assert str(caught.value).startswith(f"{path}, {message}")
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_any_text_is_read_or_told(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("topics") / "t"
    for text in (content, f"<top>{content}", f"<top><num>1<title>{content}</top>"):
        path.write_text(text, encoding="utf-8", newline="")
        try:
            assert all(query.id for query in read_topics(path))
        except InputError as error:
            assert ", line " in str(error)
