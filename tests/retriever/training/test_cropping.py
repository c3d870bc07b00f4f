import json
import random
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError, NotFoundError, UsageError
from retriever.training.batches import Mixer, Mixing
from retriever.training.cropping import MOST, Cropping, pair, passages, units
from retriever.training.examples import Meaning, Pair, Passage, Skipped, Source, check_apart, letters, read_sources

BARE = Cropping(delete=0, replace=0)
CLOZE = Cropping(cloze=1, keep=0, delete=0, replace=0)
PIECES = [
    "coral", "reef ", "Fuchs, ", "e\u0301te\u0301 ", "ภาษาไทยน้ำ", "เกี่ยวกับ ", "ខ្មែរ", "ស្រី ", "海水变暖", "。",
    "狐狸 ", "が\u3099", "नमस्ते ", "க்ஷி", "👩‍👩‍👧", "🇰🇪🇩🇪", "👍🏽 ", "한국어 ", "བོད་སྐད", "\r\n", "  ", "\u0301",
    "\u200d", "a\u0308\u0323b",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60)
long_texts = texts.filter(lambda text: len(units(text)) > 1)
seeds = st.integers(0, 2**32)


def boundaries(text):
    """Return where grapheme clusters of a text begin and end."""
    ends = [0]
    for cluster in regex.findall(r"\X", text):
        ends.append(ends[-1] + len(cluster))
    return set(ends)


def whole(part, text):
    """Tell whether a part stands somewhere in a text between two boundaries of its clusters."""
    allowed = boundaries(text)
    places = [i for i in range(len(text)) if text.startswith(part, i)]
    return any(i in allowed and i + len(part) in allowed for i in places)


@given(texts)
def test_units_are_the_text_and_end_where_clusters_do(text):
    found = units(text)
    assert "".join(found) == text.strip()
    at, allowed = 0, boundaries(text.strip())
    for unit in found:
        at += len(unit)
        assert at in allowed


def test_units_by_hand():
    assert units(" The reef,\nis white ") == ["The ", "reef,\n", "is ", "white"]
    assert units("น้ำ ดี") == ["น้ำ ", "ดี"]
    assert units("海水 warm") == ["海", "水 ", "warm"]
    assert units("ខ្មែរ") == ["ខ្មែ", "រ"]
    assert units("👩‍👩‍👧 👍🏽") == ["👩‍👩‍👧 ", "👍🏽"]
    assert units(" \n") == []


@given(long_texts, seeds)
def test_crops_are_spans_of_the_text(text, seed):
    for side in pair(text, BARE, random.Random(seed)):
        assert side and whole(side, text.strip())


@given(long_texts, seeds)
def test_an_inverse_cloze_parts_the_text(text, seed):
    parts = units(text)
    query, passage = pair(text, CLOZE, random.Random(seed))
    splits = [
        (a, b)
        for a in range(len(parts))
        for b in range(a + 1, len(parts) + 1)
        if "".join(parts[a:b]).strip() == query and "".join(parts[:a] + parts[b:]).strip() == passage
    ]
    assert splits
    assert query and passage


@given(long_texts, seeds)
def test_an_inverse_cloze_may_keep_its_span(text, seed):
    query, passage = pair(text, Cropping(cloze=1, keep=1, delete=0, replace=0), random.Random(seed))
    assert passage == text.strip()
    assert whole(query, passage)


def test_spans_are_5_to_50_percent_and_kept_one_time_in_ten():
    words = [str(number) for number in range(200)]
    text, rng = " ".join(words), random.Random(0)
    lengths = [len(side.split()) for _ in range(1000) for side in pair(text, BARE, rng)]
    assert 10 == min(lengths) and 98 <= max(lengths) <= 100
    assert 52 < sum(lengths) / len(lengths) < 57  # the mean of 10 to 100 is 55, less half for rounding down
    kept = sum(pair(text, Cropping(cloze=1, delete=0, replace=0), rng)[1] == text for _ in range(1000))
    assert 70 < kept < 130  # 100 give or take three deviations of 9.5


@given(long_texts, texts, seeds)
def test_nothing_empty_comes_out_and_seeds_reproduce(text, other, seed):
    how = Cropping(cloze=0.5, delete=0.9, replace=0.5)
    sides = pair(text, how, random.Random(seed), other=other)
    assert all(sides)
    assert sides == pair(text, how, random.Random(seed), other=other)


def test_one_unit_in_ten_is_dropped_and_one_replaced():
    text, other = " ".join(["own"] * 200), " ".join(["other"] * 50)
    rng = random.Random(0)
    how = Cropping(cloze=1, keep=1)
    seen = [pair(text, how, rng, other=other)[1].split() for _ in range(200)]
    left = sum(map(len, seen)) / 40_000
    replaced = sum(words.count("other") for words in seen) / sum(map(len, seen))
    assert {word for words in seen for word in words} == {"own", "other"}
    assert abs(left - 0.9) < 0.005 and abs(replaced - 0.1) < 0.005  # three deviations are .0045


@given(texts.filter(str.strip))
def test_passages_are_the_text_in_parts_of_like_length(text):
    parts = passages(text * 30)
    assert all(parts)
    lengths = [len(units(part)) for part in parts]
    assert max(lengths) <= MOST and max(lengths) - min(lengths) <= 2
    assert "".join("".join(parts).split()) == "".join((text * 30).split())


def test_a_text_with_one_unit_and_wrong_shares_are_refused():
    with pytest.raises(ValueError, match="1 units has no two sides"):
        pair("reef", BARE, random.Random(0))
    for wrong in ({"cloze": 1.5}, {"keep": -0.1}, {"shortest": 0.6}, {"longest": 1.0}):
        with pytest.raises(ValueError, match="should"):
            Cropping(**wrong)


REEF = "The coral reef turns white when the sea is warm, and the fishes leave it."
RIFF = "Das Riff wird weiß, wenn das Meer warm ist, und die Fische verlassen es bald."
THAI = "ปะการังฟอกขาวเมื่อน้ำทะเลอุ่นขึ้น และปลาก็ว่ายจากไป"


def test_plain_text_is_documents_by_blank_lines_in_their_languages(tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text(f"{REEF}\nSecond line of it.\n\n \n{RIFF}\n\n{THAI}\n\nToo short\n\n{RIFF}\n", encoding="utf-8")
    skipped = Skipped()
    found = read_sources(path, skipped)
    assert found == [
        Source("raw.txt:de", [Passage(RIFF, "de")]),
        Source("raw.txt:en", [Passage(f"{REEF}\nSecond line of it.", "en")]),
        Source("raw.txt:th", [Passage(THAI, "th")]),
    ]
    assert skipped.counts == {"duplicates": 1, "too short to be cut": 1}


def test_folders_json_lines_and_the_corpus_of_a_beir_folder_are_raw_text(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text(REEF, encoding="utf-8")
    (found,) = read_sources(tmp_path / "folder", Skipped())
    assert [e.text for e in found.examples] == [f"a {REEF}"]
    rows = [{"text": REEF, "lang": "en-GB", "title": "Coral"}, {"text": RIFF}]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_sources(lines, Skipped()) == [
        Source("rows.jsonl:de", [Passage(RIFF, "de")]),
        Source("rows.jsonl:en", [Passage(f"Coral {REEF}", "en")]),
    ]
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(json.dumps({"_id": "1", "text": REEF}) + "\n", encoding="utf-8")
    assert read_sources(beir, Skipped(), kind="text") == [Source("beir:en", [Passage(REEF, "en")])]
    with pytest.raises(NotFoundError, match=r"queries\.jsonl"):
        read_sources(beir, Skipped())


def test_raw_text_that_cannot_be_read_says_where(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "{REEF}"}}\n{{"text": 7}}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: text of raw text must be a string, got int"):
        read_sources(path, Skipped())
    (tmp_path / "short.txt").write_text("Too short\n\nAs well", encoding="utf-8")
    with pytest.raises(UsageError, match=r"nothing to train on \(2 too short to be cut\)"):
        read_sources(tmp_path / "short.txt", Skipped())
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    with pytest.raises(InputError, match=r"latin\.txt, line 1: the file is not UTF-8"):
        read_sources(tmp_path / "latin.txt", Skipped())
    with pytest.raises(NotFoundError, match="does not exist"):
        read_sources(tmp_path / "nowhere.txt", Skipped())


def test_raw_text_of_a_dataset_to_evaluate_with_is_refused(tmp_path):
    long = " ".join(f"word{number}" for number in range(MOST + 10))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": long}) + "\n", encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "which words?"}\n', encoding="utf-8")
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n", encoding="utf-8")
    (tmp_path / "raw.txt").write_text(long, encoding="utf-8")
    sources = read_sources(tmp_path / "raw.txt", Skipped())
    assert [len(source.examples) for source in sources] == [2]
    with pytest.raises(InputError, match="cannot be evaluated"):
        check_apart(sources, [tmp_path])


def numbered(language, count):
    """Return a source of passages whose words say where they are from."""
    text = "{0}{1}a {0}{1}b {0}{1}c {0}{1}d {0}{1}e {0}{1}f {0}{1}g {0}{1}h"
    return Source(language, [Passage(text.format(language, number), language) for number in range(count)])


def languages_of(rows):
    return {side[:2] for row in rows for side in (row.query, row.positive)}


def test_a_batch_is_of_one_language_or_of_all_as_asked():
    sources = [numbered("de", 40), numbered("en", 40), numbered("sw", 40)]
    bare = {"cropping": BARE}
    mixer = Mixer(sources, Mixing(rows=16), 0, **bare)
    batches = [mixer.batch() for _ in range(20)]
    assert all(len(languages_of(rows)) == 1 and len(rows) == 16 for rows in batches)
    assert set.union(*map(languages_of, batches)) == {"de", "en", "sw"}
    mixed = Mixer(sources, Mixing(rows=16, mixed=True), 0, **bare).batch()
    assert languages_of(mixed) == {"de", "en", "sw"}


@pytest.mark.parametrize("mixed", [False, True])
def test_languages_are_drawn_with_the_temperature(mixed):
    sources = [numbered("de", 16), numbered("en", 1600)]
    mixer = Mixer(sources, Mixing(rows=4, smoothing=0.5, mixed=mixed), 0, cropping=BARE)
    drawn = [row.query[:2] for _ in range(500) for row in mixer.batch()]
    assert abs(drawn.count("de") / len(drawn) - 1 / 11) < 0.04  # 16 ** .5 : 1600 ** .5 is 1 : 10


def test_crops_are_drawn_anew_and_the_same_for_the_same_seed():
    def drawn(seed):
        mixer = Mixer([numbered("en", 8)], Mixing(rows=8), seed)
        return [mixer.batch() for _ in range(6)]

    assert drawn(1) == drawn(1) != drawn(2)
    queries = [row.query for rows in drawn(1) for row in rows]
    assert len(set(queries)) > 8


def test_no_passage_stands_twice_in_a_batch_and_sides_without_letters_are_left_out():
    mixer = Mixer([numbered("en", 5)], Mixing(rows=64, mixed=True), 0, cropping=BARE)
    for _ in range(20):
        owners = [{word[:3] for word in f"{row.query} {row.positive}".split()} for row in mixer.batch()]
        assert all(len(owner) == 1 for owner in owners)
        assert len({min(owner) for owner in owners}) == len(owners)
    dashes = Source("en", [Passage(f"- - - - - - - - - - - - word{n}", "en") for n in range(40)])
    mixer = Mixer([dashes], Mixing(rows=8), 0)
    assert all(letters(row.query) and letters(row.positive) for _ in range(20) for row in mixer.batch())


def test_raw_text_joins_other_kinds_by_its_share():
    pairs = Source("p", [Pair(f"what is thing {n}?", f"this is thing {n}") for n in range(30)])
    meanings = Source("m", [Meaning(f"sentence {n}", (("de", f"Satz {n}"),)) for n in range(30)])
    mixer = Mixer([pairs, meanings, numbered("en", 30)], Mixing(rows=4, parallel=0.5, text=0.5), 0)
    firsts = [mixer.batch()[0].query for _ in range(600)]
    cut = sum(query.startswith("en") for query in firsts)
    asked = sum("thing" in query for query in firsts)
    assert abs(cut / 600 - 0.5) < 0.07 and abs(asked / 600 - 0.25) < 0.06
    alone = Mixer([numbered("en", 30)], Mixing(text=0.1), 0)
    assert alone.batch()
    with pytest.raises(UsageError, match="shares"):
        Mixer([numbered("en", 30)], Mixing(text=0), 0)


def test_marks_never_begin_a_crop():
    text = "".join(unicodedata.normalize("NFD", piece) for piece in ("été ", "ñandú ", "Việt ", "がぎぐ", "ก็ดี"))
    rng = random.Random(0)
    for _ in range(300):
        assert not any(unicodedata.combining(side[0]) for side in pair(text, BARE, rng))
