import json

import numpy as np
import pytest

from data.errors import EncoderError
from data.records import Document
from index.collection import first_to_merge
from index.ragged import Ragged
from index.segment import VIEWS, Segment, Vectors, content_hash, describe, merge_segments, write_segment
from tests.index.toy import DIMS, ToyEncoder, documents

HARD = [
    Document("ไทย", "สุนัขวิ่งเร็วมาก", "หัวข้อ", "th"),
    Document("ខ្មែរ", "ឆ្កែរត់លឿន\u200b", lang="km"),
    Document("عربي", "الكلب\u200f سريع", lang="ar", metadata={"مفتاح": ["قيمة", 1, None]}),
    Document("👩‍👩‍👧", "🦊🇩🇪 e\u0301 \x00 \u2028", lang="en"),
    Document("𠀀", "𐍈𠜎 中文", "𝕋", "zh"),
    Document("../x y", " two  blanks\r\n ", lang=""),
    Document("empty", "", lang="de"),
]


def write(folder, given, views=VIEWS):
    vectors = ToyEncoder().encode_documents([d.content() for d in given])
    return write_segment(folder, given, [d.lang for d in given], views, vectors)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_documents_of_every_script_come_back_byte_for_byte(tmp_path):
    write(tmp_path / "s", HARD)
    segment = Segment.open(tmp_path / "s")
    assert list(segment.ids) == [d.id for d in HARD]
    assert [Document.from_json(json.loads(text)) for text in segment.documents] == HARD
    assert [segment.languages[code] for code in segment.codes] == [d.lang for d in HARD]


def test_vectors_are_stored_as_float16_and_an_empty_text_has_no_token(tmp_path):
    write(tmp_path / "s", HARD)
    segment, made = Segment.open(tmp_path / "s"), ToyEncoder().encode_documents([d.content() for d in HARD])
    assert segment.vectors["dense"].values.dtype == np.float16
    np.testing.assert_array_equal(segment.vectors["dense"].values, made.dense.astype(np.float16))
    np.testing.assert_array_equal(segment.vectors["late"].values, made.late.values.astype(np.float16))
    assert segment.vectors["late"][len(HARD) - 1].shape == (0, DIMS)


def test_the_entry_describes_every_file(tmp_path):
    entry = write(tmp_path / "000007", HARD)
    assert (entry["name"], entry["rows"]) == ("000007", len(HARD))
    assert entry["files"] == {path.name: describe(path) for path in (tmp_path / "000007").iterdir()}


@pytest.mark.parametrize("views", [("bm25",), ("dense",), ("late",), ("bm25", "late")])
def test_only_the_views_asked_for_are_written(tmp_path, views):
    write(tmp_path / "s", HARD, views)
    names = {path.name.split(".")[0] for path in (tmp_path / "s").iterdir()}
    assert names & set(VIEWS) == set(views)
    assert set(Segment.open(tmp_path / "s").vectors) == set(views) - {"bm25"}


def test_what_a_killed_build_left_goes(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "rest.npy").write_bytes(b"half")
    entry = write(tmp_path / "s", HARD)
    assert "rest.npy" not in entry["files"]


@pytest.mark.parametrize(
    "keep",
    [
        [[1, 1, 1, 1], [1, 1, 1], [1, 1, 1, 1, 1]],
        [[0, 1, 1, 0], [0, 0, 0], [1, 0, 0, 0, 1]],
        [[0, 0, 0, 0], [0, 1, 0], [0, 0, 0, 0, 0]],
    ],
)
def test_merging_gives_the_files_of_a_fresh_build_byte_for_byte(tmp_path, keep):
    given, sources, start = [*HARD, *documents(5)], [], 0
    for number, mask in enumerate(keep):
        write(tmp_path / str(number), given[start : start + len(mask)])
        sources.append((Segment.open(tmp_path / str(number)), np.array(mask, np.bool_)))
        start += len(mask)
    merged = merge_segments(tmp_path / "merged", sources)
    kept = [d for d, flag in zip(given, np.concatenate(keep), strict=True) if flag]
    assert merged["rows"] == len(kept)
    write(tmp_path / "fresh", kept)
    assert contents(tmp_path / "merged") == contents(tmp_path / "fresh")


def test_the_hash_is_of_all_that_the_user_sent_and_of_nothing_else():
    first = Document("a", "text", "title", "de", {"x": 1, "y": [2]})
    assert content_hash(first) == content_hash(Document("a", "text", "title", "deu", {"y": [2], "x": 1}))
    for other in [
        Document("b", "text", "title", "de", {"x": 1, "y": [2]}),
        Document("a", "text ", "title", "de", {"x": 1, "y": [2]}),
        Document("a", "title", "text", "de", {"x": 1, "y": [2]}),
        Document("a", "text", "title", "", {"x": 1, "y": [2]}),
        Document("a", "text", "title", "de", {"x": 1, "y": [3]}),
        Document("a", "text", "title", "de"),
    ]:
        assert content_hash(other) != content_hash(first)
    assert len(content_hash(first)) == 16


def test_vectors_that_are_not_finite_are_refused_with_the_document(tmp_path):
    made = ToyEncoder().encode_documents([d.content() for d in HARD])
    for spoiled in (np.nan, np.inf, 1e6):  # 1e6 is beyond float16
        dense = made.dense.copy()
        dense[5, 1] = spoiled
        with pytest.raises(EncoderError, match=r"dense vector of document '../x y' is not finite"):
            write_segment(tmp_path / "s", HARD, [""] * len(HARD), VIEWS, Vectors(dense, made.late))
    values = made.late.values.copy()
    values[-1] = np.nan
    with pytest.raises(EncoderError, match=r"late vector of document '../x y' is not finite"):
        late = Ragged(values, made.late.offsets)
        write_segment(tmp_path / "s", HARD, [""] * len(HARD), VIEWS, Vectors(made.dense, late))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("missing", ["dense", "late"])
def test_an_encoder_that_makes_too_little_is_refused(tmp_path, missing):
    made = ToyEncoder().encode_documents([d.content() for d in HARD])
    with pytest.raises(EncoderError, match=f"{missing} vectors of 0 texts, not of 7"):
        write_segment(tmp_path / "s", HARD, [""] * 7, VIEWS, made._replace(**{missing: None}))
    few = ToyEncoder().encode_documents(["a", "b"])
    with pytest.raises(EncoderError, match=f"{missing} vectors of 2 texts, not of 7"):
        write_segment(tmp_path / "s", HARD, [""] * 7, VIEWS, made._replace(**{missing: getattr(few, missing)}))


@pytest.mark.parametrize(
    ("sizes", "first"),
    [
        ([], 0),
        ([5] * 8, 8),  # few enough
        ([1] * 9, 0),
        ([8, *[1] * 8], 0),  # 8 are no more than the 8 newer ones together
        ([9, *[1] * 8], 1),
        ([100, 9, *[1] * 7], 2),
        ([512, 256, 128, 64, 32, 16, 8, 4, 2], 9),  # each larger than all newer ones together
        ([600, 300, 150, 75, 32, 16, 8, 4, 2, 2], 4),
    ],
)
def test_which_segments_are_merged(sizes, first):
    assert first_to_merge(sizes) == first


def test_however_much_is_added_there_are_few_segments_and_little_is_copied():
    sizes, copied = [], 0
    for _ in range(5000):
        sizes.append(1)
        first = first_to_merge(sizes)
        if first < len(sizes):
            copied += sum(sizes[first:])
            sizes = [*sizes[:first], sum(sizes[first:])]
        assert len(sizes) <= 14  # log2(5000) is 12.3
    assert sum(sizes) == 5000
    assert copied <= 5000 * 12
