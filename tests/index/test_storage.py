import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.storage import MAPPED, StringArray, checksum, read_array, write_array, write_json, write_parts

TEXTS = ["", "plain", "ไม่มีช่องว่าง", "ភាសាខ្មែរ", "مرحبا\u200f", "👩‍👩‍👧", "𠀀𐍈", "e\u0301", "\x00\n\u2028", "中文"]


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (5,), (7, 3), (20_000, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8, np.bool_])
def test_arrays_come_back_as_they_were(tmp_path, shape, dtype):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    write_array(tmp_path / "a.npy", values)
    found = read_array(tmp_path / "a.npy")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)  # an ordinary .npy, for everybody


def test_an_array_that_is_not_contiguous_comes_back_too(tmp_path):
    values = np.arange(12).reshape(3, 4).T[::2]
    write_array(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), values)


def test_parts_are_one_array(tmp_path):
    parts = (np.full((n, 2), n) for n in (2, 0, 1))
    write_parts(tmp_path / "a.npy", parts, (3, 2), np.float16)
    assert read_array(tmp_path / "a.npy").tolist() == [[2, 2], [2, 2], [1, 1]]


@pytest.mark.parametrize("count", [4, MAPPED])
def test_what_was_read_cannot_be_written(tmp_path, count):
    write_array(tmp_path / "a.npy", np.zeros(count))
    with pytest.raises(ValueError, match="read-only"):
        read_array(tmp_path / "a.npy")[0] = 1


@pytest.mark.parametrize("count", [4, MAPPED])
def test_an_opened_array_outlives_its_file(tmp_path, count):
    write_array(tmp_path / "a.npy", np.arange(count))
    found = read_array(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    np.testing.assert_array_equal(found, np.arange(count))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux shows them")
def test_only_large_files_hold_a_descriptor(tmp_path):
    write_array(tmp_path / "small.npy", np.zeros(8))
    write_array(tmp_path / "large.npy", np.zeros(MAPPED))
    small = [read_array(tmp_path / "small.npy") for _ in range(20)]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    large = [read_array(tmp_path / "large.npy") for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before + 20  # noqa: PTH208
    assert len(small) == len(large)


def test_a_pickle_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        read_array(tmp_path / "a.npy")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_disk_that_is_full_says_so_in_its_error():
    with pytest.raises(OSError) as caught:
        write_array(Path("/dev/full"), np.zeros(100_000))
    assert caught.value.errno == errno.ENOSPC


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_strings_come_back_as_they_were(tmp_path_factory, strings):
    folder = tmp_path_factory.mktemp("strings")
    StringArray.write(folder, "s", strings)
    found = StringArray.open(folder, "s")
    assert len(found) == len(strings)
    assert [found[i] for i in range(len(found))] == strings
    assert list(found) == strings


@settings(deadline=None)  # the first look-up compiles or loads it
@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]))), st.text(st.characters(exclude_categories=["Cs"])))
def test_find_looks_up_sorted_strings(tmp_path_factory, strings, other):
    # Python compares code points, and UTF-8 keeps their order.
    folder = tmp_path_factory.mktemp("strings")
    ordered = sorted(strings)
    StringArray.write(folder, "s", ordered)
    found = StringArray.open(folder, "s")
    assert found.find(ordered).tolist() == list(range(len(ordered)))
    assert (
        found.find([other, *ordered[:1]]).tolist()
        == [ordered.index(other) if other in strings else -1, 0][: 1 + bool(ordered)]
    )
    assert found.find([]).tolist() == []


def test_strings_of_every_script_are_stored_as_utf8(tmp_path):
    StringArray.write(tmp_path, "s", TEXTS)
    assert read_array(tmp_path / "s.blob.npy").tobytes() == "".join(TEXTS).encode("utf-8")
    assert list(StringArray.open(tmp_path, "s")) == TEXTS


def test_a_blob_of_another_size_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"offsets end at \[3\] but the blob has 2 bytes"):
        StringArray(np.zeros(2, np.uint8), np.array([0, 3]))


def test_json_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ภาษา": "ไทย"})
    write_json(path, {"b": 1, "a": "ខ្មែរ"})
    assert json.loads(path.read_text("utf-8")) == {"a": "ខ្មែរ", "b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert json.loads(path.read_text("utf-8")) == 1


def test_the_checksum_is_that_of_the_content(tmp_path):
    # echo -n abc | b2sum -l 128
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == "cf4ab791c62b8d2b2109c90275287816"


@settings(deadline=None)  # the first look-up compiles or loads it
@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=9), max_size=4), st.text()
)
def test_strings_in_any_order_are_found_and_runs_of_them_merged(tmp_path_factory, groups, other):
    folder = tmp_path_factory.mktemp("strings")
    for i, strings in enumerate(groups):
        StringArray.write(folder, str(i), strings)
    parts = [StringArray.open(folder, str(i)) for i in range(len(groups))]
    everything = [string for strings in groups for string in strings]
    joined = StringArray.join(parts)
    assert list(joined) == everything
    runs = [sorted(range(len(strings)), key=strings.__getitem__) for strings in groups]
    firsts = [sum(map(len, groups[:i])) for i in range(len(groups))]
    merged = joined.merge([np.array(run, np.int64) + first for run, first in zip(runs, firsts, strict=True)])
    assert merged.tolist() == sorted(range(len(everything)), key=everything.__getitem__)
    wanted = [*everything, other.encode("utf-8", "replace").decode()]
    found = joined.find(wanted, merged.astype(np.uint32)).tolist()
    assert [everything[i] if i >= 0 else None for i in found] == [x if x in everything else None for x in wanted]
