"""A collection that others use too: readers and writers at once, full disks, folders without rights."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from data.errors import CollectionError, UsageError
from data.records import Document
from index import collection as module
from index.adding import Writing
from index.collection import Collection
from index.snapshot import Snapshot
from tests.index.toy import ToyEncoder, build, documents, hits, identify, named, same_answers, same_hits, state

WRITING = Writing(ToyEncoder(), identify)
ATOMIC = Writing(ToyEncoder(), identify, atomic=True)
ROOT = Path(__file__).parents[2]


def test_a_snapshot_answers_on_whatever_the_writer_does(tmp_path, small_batches):
    given = documents(20)
    build(tmp_path / "c", given)
    untouched, used, wanted = Snapshot.open(tmp_path / "c"), Snapshot.open(tmp_path / "c"), None
    wanted = hits(used)
    collection = Collection(tmp_path / "c")
    collection.add([Document(d.id, "ganz anders", lang="de") for d in given[:10]], WRITING)
    collection.delete([d.id for d in given[15:]])
    collection.compact()
    same_hits(hits(used), wanted, tolerance=0)
    same_hits(hits(untouched), wanted, tolerance=0)  # nothing was asked of it while its files were there
    assert [untouched.document(row).text for row in range(20)] == [d.text for d in given]
    shutil.rmtree(tmp_path / "c")
    same_hits(hits(untouched), wanted, tolerance=0)


def test_threads_search_while_one_writes_and_readers_open_while_it_compacts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENTS", 2)
    given = documents(40)
    build(tmp_path / "c", given)
    done, failures = threading.Event(), []

    def read(number):
        held = Snapshot.open(tmp_path / "c")
        wanted = hits(held)
        while not done.is_set():
            try:
                same_hits(hits(held), wanted, tolerance=0)
                opened = Snapshot.open(tmp_path / "c")
                assert len(opened) >= 40
                if number == 0:
                    assert Collection(tmp_path / "c").verify() == []
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    collection = Collection(tmp_path / "c")
    try:
        for i in range(3):
            collection.add(documents(3, seed=i, prefix=f"n{i}-"), ATOMIC)
            collection.add([Document(given[i].id, f"neu {i}", lang="de")], ATOMIC)
            collection.compact()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(Snapshot.open(tmp_path / "c")) == 49


def test_threads_share_one_view(tmp_path):
    snapshot, views, barrier = build(tmp_path / "c", documents(10)), [], threading.Barrier(8)

    def ask():
        barrier.wait()
        views.append((snapshot.bm25, snapshot.dense, snapshot.late))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(views)) == 1


def test_the_second_of_two_writers_is_told_at_once(tmp_path):
    build(tmp_path / "c", documents(3))
    inside, go_on, collection = threading.Event(), threading.Event(), Collection(tmp_path / "c")

    def slow():
        inside.set()
        assert go_on.wait(20)
        yield from documents(1, prefix="x")

    writer = threading.Thread(target=lambda: collection.add(slow(), WRITING))
    writer.start()
    assert inside.wait(20)
    try:
        for work in (
            lambda: collection.add(documents(1), WRITING),
            lambda: collection.delete(["a"]),
            collection.compact,
        ):
            with pytest.raises(CollectionError, match=r"somebody else is writing to .*: try again when that is done"):
                work()
        assert collection.verify() == []  # reading goes on
    finally:
        go_on.set()
        writer.join()
    assert len(Snapshot.open(tmp_path / "c")) == 4


def test_two_who_make_the_same_collection_do_not_undo_each_other(tmp_path):
    folder, outcomes, barrier = tmp_path / "c", [], threading.Barrier(4)

    def make(i):
        barrier.wait()
        try:
            build(folder, documents(3, prefix=f"w{i}-"))
            outcomes.append(i)
        except (CollectionError, UsageError):
            outcomes.append(None)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [i for i in outcomes if i is not None] or [None]
    if winner is not None:
        assert Snapshot.open(folder).row(f"w{winner}-0000") is not None
    assert Collection(folder).verify() == []


def run(code, *arguments):
    """Run code in a process of its own; it may lower its limits and rights."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# The manifest does not fit, an array does not fit, only the large texts do not fit.
@pytest.mark.parametrize(("limit", "atomic"), [(300, False), (3_000, True), (20_000, False)])
def test_a_full_disk_is_one_line_and_the_next_run_finishes(tmp_path, small_batches, limit, atomic):
    folder = tmp_path / "c"
    build(folder, documents(8))
    large = [Document(f"big{i}", "wort " * 200 * (i // 4), lang="de") for i in range(20)]
    code = """
        import resource, signal, sys
        from pathlib import Path
        from data.errors import PolyseekError
        from data.records import Document
        from index import adding
        from index.collection import Collection
        from tests.index.toy import ToyEncoder, identify
        adding.BATCH_DOCUMENTS = 4
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        large = [Document(f"big{i}", "wort " * 200 * (i // 4), lang="de") for i in range(20)]
        writing = adding.Writing(ToyEncoder(), identify, atomic=sys.argv[3] == "True")
        try:
            Collection(Path(sys.argv[1])).add(large, writing)
        except PolyseekError as error:
            print(error)
    """
    told = run(code, folder, limit, atomic)
    assert told.count("\n") == 1
    assert "the disk is full" in told
    assert "free some space and run it again" in told
    assert Collection(folder).verify() == []
    assert set(state(folder)) == named(folder)
    assert len(Snapshot.open(folder)) == 8 or not atomic
    Collection(folder).add(large, Writing(ToyEncoder(), identify, atomic=atomic))
    same_answers(Snapshot.open(folder), build(tmp_path / "fresh", [*documents(8), *large]))


@pytest.fixture
def public_folder():
    """A folder that somebody without any rights can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_folder_without_the_right_to_write_can_be_searched_and_says_so_to_writers(public_folder):
    build(public_folder / "c", documents(8))
    for path in [public_folder, *public_folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(public_folder / "c")
    code = """
        import os, sys
        from pathlib import Path
        from data.errors import PolyseekError
        from index.adding import Writing
        from index.collection import Collection
        from index.snapshot import Snapshot
        from tests.index.toy import VIEWS, ToyEncoder, build, documents, hits, identify
        folder = Path(sys.argv[1])
        hits(Snapshot.open(folder))  # loads all of Numba, which the next user may have no right to read
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        assert len(hits(Snapshot.open(folder))["dense True", "mbwa"]) == 8
        collection = Collection(folder)
        assert collection.verify() == []
        for work in (
            lambda: collection.add(documents(1, prefix="x"), Writing(ToyEncoder(), identify)),
            lambda: collection.delete(["d0000"]),
            collection.compact,
            lambda: Collection.create(folder.with_name("new"), VIEWS, ToyEncoder()),
        ):
            try:
                work()
            except PolyseekError as error:
                print(error)
    """
    told = run(code, public_folder / "c").splitlines()
    assert len(told) == 4
    for line in told:
        assert line.startswith("cannot write to ")
        assert "Permission denied" in line
        assert "check the folder's permissions" in line
    assert state(public_folder / "c") == before


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_collection_that_may_not_be_read_says_so(public_folder):
    build(public_folder / "c", documents(8))
    code = """
        import os, sys
        from pathlib import Path
        from data.errors import CollectionError
        from index.snapshot import Snapshot
        path = Path(sys.argv[1])
        path.chmod(0)
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            Snapshot.open(Path(sys.argv[2]))
        except CollectionError as error:
            print(error)
    """
    for name in ("segments/000001/hashes.npy", "manifest.json"):
        told = run(code, public_folder / "c" / name, public_folder / "c")
        assert told.count("\n") == 1
        assert "cannot read" in told
        assert "Permission denied" in told
