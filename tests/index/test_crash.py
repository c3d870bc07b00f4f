"""Writers killed with SIGKILL: whatever the moment, what was committed is there, and doing it again finishes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import NotFoundError
from index.collection import Collection
from index.manifest import Manifest
from index.snapshot import Snapshot, files
from tests.index.toy import hits, same_hits, state
from tests.index.writer import ADDED, BASE, BATCH

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX has them")
JOBS = ("build", "add", "atomic", "compact")
SECONDS = 0.004  # of encoding a document takes, so that kills land there too


class Writer:
    """The other process, see `tests.index.writer`."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.index.writer"],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, work, folder, *, seconds=0.0, step=0):
        """Begin a job and return its process."""
        self._process.stdin.write(json.dumps([work, str(folder), seconds, step]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self):
        """Return the job's exit status when it has ended."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(20) == 0
        self._process.stdout.close()


@pytest.fixture(scope="module")
def writer():
    process = Writer()
    yield process
    process.close()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, writer):
    """For every job the folder before it, the one after it undisturbed, what that answers, and the seconds it took."""
    root, known = tmp_path_factory.mktemp("jobs"), {}
    before = root / "nothing"
    for name in JOBS:
        after = root / name
        if before.exists():
            shutil.copytree(before, after)
        started = time.perf_counter()
        writer.start(name, after, seconds=SECONDS)
        assert writer.wait() == 0
        seconds = time.perf_counter() - started
        known[name] = (before, after, hits(Snapshot.open(after)), seconds)
        before = {"build": after, "add": root / "build", "atomic": root / "add", "compact": after}[name]
    return known


def texts(folder):
    snapshot = Snapshot.open(folder)
    return {x: snapshot.document(snapshot.row(x)).text for x in snapshot.ids(snapshot.live.nonzero()[0])}


def check(name, folder, job, writer):
    """Check what a killed job left, then do it again and compare it with the undisturbed one, byte by byte."""
    before, after, wanted, _ = job
    if (folder / "manifest.json").exists():
        assert Collection(folder).verify() == []
        found, earlier, later = texts(folder), texts(before) if before.exists() else {}, texts(after)
        given = BASE if name == "build" else ADDED if name != "compact" else []
        batch = {"build": BATCH, "add": BATCH}.get(name, max(len(given), 1))
        # The documents before, and of those given the first so many batches: no half of one.
        states = [earlier | {d.id: later[d.id] for d in given[:n]} for n in range(0, len(given) + 1, batch)]
        assert found in states
    else:
        assert name == "build"
        if folder.exists():
            with pytest.raises(NotFoundError):
                Snapshot.open(folder)
    writer.start(name, folder)
    assert writer.wait() == 0
    assert Collection(folder).verify() == []
    held = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    named = {p.relative_to(folder) for p, _ in files(folder, Manifest.read(folder))}
    assert held == named | {Path("manifest.json"), Path("lock")}
    assert texts(folder) == texts(after)
    same_hits(hits(Snapshot.open(folder)), wanted)
    assert state(folder) == state(after)


def copied(before, folder):
    if before.exists():
        shutil.copytree(before, folder)
    return folder


def test_killed_at_any_moment(tmp_path, writer, jobs):
    draw, killed = random.Random(0), 0
    for number in range(30):
        name = JOBS[number % len(JOBS)]
        before, _, _, seconds = jobs[name]
        folder = copied(before, tmp_path / str(number) / "build")
        process = writer.start(name, folder, seconds=SECONDS)
        time.sleep(draw.random() * seconds)
        os.kill(process, signal.SIGKILL)
        killed += writer.wait() == -signal.SIGKILL
        check(name, folder, jobs[name], writer)
    assert killed >= 10


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_any_change_to_the_folder(tmp_path, writer, jobs, name):
    # Every step until the job outlives it would take minutes; a few of every stretch are drawn.
    draw, step, killed = random.Random(name), 1, 0
    while True:
        folder = copied(jobs[name][0], tmp_path / str(step) / "build")
        writer.start(name, folder, step=step)
        if writer.wait() == 0:
            break
        killed += 1
        check(name, folder, jobs[name], writer)
        step += draw.randint(1, {"build": 50, "add": 70, "atomic": 40, "compact": 12}[name])
    assert killed >= 3
