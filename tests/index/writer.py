"""A process that writes to collections and is killed: it forks for every job, so that a job begins at once.

A job is a line of JSON on standard input: [work, folder, seconds each document takes to encode, step]. The answer is
the process that does it, and to the next line, when that has ended, its exit status: before, the process is not reaped,
so that its number names nobody else. With a step from 1 up the job kills itself with
SIGKILL at that change to the folder (files opened, moved, removed), whichever comes then.
"""

import json
import os
import signal
import sys
from pathlib import Path

from data.records import Document
from index import adding
from index import collection as module
from index.adding import Writing
from index.collection import Collection
from index.segment import VIEWS
from tests.index.toy import ToyEncoder, documents, identify, prior

BASE = documents(30, seed=1)
# Of batches of six: two with changed documents, one with both, two with new ones.
CHANGED = [Document(d.id, f"{d.text} neu", lang=d.lang) for d in BASE[:15]]
ADDED = [*CHANGED, *documents(15, seed=2, prefix="n")]
BATCH = 6
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def work(name, folder, seconds=0.0):
    """Do a job; doing it again after it was cut short goes on."""
    encoder = ToyEncoder(priors={"dense": prior(1), "late": prior(2)}, seconds=seconds)
    collection = Collection(folder)
    if name == "build" and not (folder / "manifest.json").exists():
        collection = Collection.create(folder, VIEWS, encoder)
    match name:
        case "build":
            collection.add(BASE, Writing(encoder, identify))
        case "add":
            collection.add(ADDED, Writing(encoder, identify))
        case "atomic":
            collection.add(ADDED, Writing(encoder, identify, atomic=True))
        case "compact":
            collection.compact()


def kill_at(step, folder):
    """Kill this process at its ``step``-th change to the folder."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event not in CHANGES or str(folder) not in str(arguments[0]):
            return
        if event == "open" and arguments[1] is not None and not set(str(arguments[1])) & set("wax+"):
            return
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def tell(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main():
    adding.BATCH_DOCUMENTS, module.SEGMENTS = BATCH, 3
    while line := sys.stdin.readline():
        name, folder, seconds, step = json.loads(line)
        child = os.fork()
        if child == 0:
            if step:
                kill_at(step, folder)
            work(name, Path(folder), seconds)
            os._exit(0)
        tell(child)
        sys.stdin.readline()
        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
