"""Collections with damage: every file that is not what was written is named, and nothing ends in a traceback."""

import json
import random
import shutil

import numpy as np
import pytest

from data.errors import CollectionError
from index.collection import Collection
from index.manifest import Manifest
from index.segment import describe
from index.snapshot import Snapshot, files
from tests.index.toy import ToyEncoder, build, documents, prior


def test_another_format_version_is_named(tmp_path):
    build(tmp_path / "c", documents(3))
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "format": 99}), "utf-8")
    with pytest.raises(CollectionError, match="has format 99 and this version of Polyseek reads format 3"):
        Snapshot.open(tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": 2}', b"[" * 100_000])
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    build(tmp_path / "c", documents(3))
    (tmp_path / "c" / "manifest.json").write_bytes(content)
    for work in (
        Snapshot.open,
        lambda folder: Collection(folder).verify(),
        lambda folder: Collection(folder).compact(),
    ):
        with pytest.raises(CollectionError, match=r"damaged|has format") as caught:
            work(tmp_path / "c")
        assert "\n" not in str(caught.value)


def test_a_manifest_that_was_edited_is_refused(tmp_path):
    build(tmp_path / "c", documents(3))
    path = tmp_path / "c" / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"rows": 3', '"rows": 2'), "utf-8")
    with pytest.raises(CollectionError, match=r"manifest.json is damaged \(checksum\)"):
        Snapshot.open(tmp_path / "c")


@pytest.fixture(scope="module")
def damaged_source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "c"
    encoder = ToyEncoder(priors={"dense": prior(1), "late": prior(2)})
    build(folder, documents(12), encoder=encoder)
    Collection(folder).delete(["d0003"])
    return folder


def test_every_missing_or_short_file_is_named(tmp_path, damaged_source):
    paths = [path.relative_to(damaged_source) for path, _ in files(damaged_source, Manifest.read(damaged_source))]
    assert len(paths) > 20
    folder = tmp_path / "c"
    shutil.copytree(damaged_source, folder)
    for path in paths:
        whole = (folder / path).read_bytes()
        (folder / path).unlink()
        with pytest.raises(CollectionError, match=f"{path.name} is missing: restore it"):
            Snapshot.open(folder)
        assert Collection(folder).verify() == [f"{folder / path} is missing"]
        (folder / path).write_bytes(whole[:-1])
        with pytest.raises(CollectionError, match=f"has {len(whole) - 1} bytes instead of {len(whole)}: restore it"):
            Snapshot.open(folder)
        (wrong,) = Collection(folder).verify()
        assert path.name in wrong
        (folder / path).write_bytes(whole)
    assert Collection(folder).verify() == []


def test_a_flipped_bit_anywhere_is_found_and_never_a_traceback(tmp_path, damaged_source):
    paths = [path.relative_to(damaged_source) for path, _ in files(damaged_source, Manifest.read(damaged_source))]
    folder, draw = tmp_path / "c", random.Random(0)
    shutil.copytree(damaged_source, folder)
    for path in paths:
        whole = (folder / path).read_bytes()
        for position in [*draw.sample(range(min(len(whole), 128)), 6), draw.randrange(len(whole))]:
            spoiled = bytearray(whole)
            spoiled[position] ^= 1 << draw.randrange(8)
            (folder / path).write_bytes(spoiled)
            (wrong,) = Collection(folder).verify()
            assert wrong == f"{folder / path} has another checksum: its content changed after it was written"
            try:
                Snapshot.open(folder)
            except CollectionError as error:
                assert "\n" not in str(error)
                assert "polyseek verify" in str(error)
        (folder / path).write_bytes(whole)


def test_files_that_contradict_each_other_are_found(tmp_path):
    # Two collections' parts under one manifest, with the checksums that belong to it.
    folder = tmp_path / "c"
    build(folder, documents(6))
    build(tmp_path / "other", documents(4))
    manifest = Manifest.read(folder)
    segment, other = (f / "segments" / "000001" for f in (folder, tmp_path / "other"))
    for name in ("languages.npy", "bm25.lengths.npy", "dense.values.npy", "dense.offsets.npy"):
        shutil.copy(other / name, segment / name)
        entry = dict(manifest.segments[0])
        entry["files"] = {p.name: describe(p) for p in segment.iterdir()}
        manifest.next(segments=(entry,)).commit(folder)
    wrong = Collection(folder).verify()
    assert wrong
    assert "4" in wrong[0]
    assert "6" in wrong[0]


def test_an_id_that_lives_twice_is_found(tmp_path):
    folder = tmp_path / "c"
    build(folder, documents(4))
    manifest = Manifest.read(folder)
    shutil.copytree(folder / "segments" / "000001", folder / "segments" / "000002")
    manifest.next(segments=(*manifest.segments, {**manifest.segments[0], "name": "000002"})).commit(folder)
    assert Collection(folder).verify() == [f"{folder}: 4 document ids occur twice"]


def test_ids_in_another_order_than_is_said_are_found(tmp_path):
    folder = tmp_path / "c"
    build(folder, documents(6))
    manifest = Manifest.read(folder)
    (path,) = folder.rglob("ids.order.npy")
    order = np.load(path)
    for wrong, told in ((order[::-1], "not the order"), (order + 1, "damaged"), (order[:5], "damaged")):
        np.save(path, wrong)
        entry = dict(manifest.segments[0])
        entry["files"] = {p.name: describe(p) for p in path.parent.iterdir()}
        manifest.next(segments=(entry,)).commit(folder)
        assert any(told in problem for problem in Collection(folder).verify())
