"""Building a collection with all three views, killed and not: speed, memory, and that nothing is lost or done twice.

    python -m eval.bench.build DATASET [--kills 3] [--most N] [--quick]

DATASET is a BEIR folder. Half of its passages are indexed, then all, then all in a build that is killed with SIGKILL
at equal parts of the way and run again. "repeated" is how many passages were encoded, but not committed, at a kill: the
most of all kills. The two collections of all passages must be the same byte by byte. Each build has a process of its
own: "peak_rss_mb" is the most that it held, pages of mapped files included, which the system takes back when memory is
short, and "own_mb" the most without these, looked up every 50 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import NotFoundError
from data.readers import BeirFolder
from eval.bench import results
from index.snapshot import Snapshot
from retriever.engine import build_collection

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run the benchmark, or one build where the first argument is ``build``."""
    if sys.argv[1:2] == ["build"]:
        _build(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--kills", type=int, default=3, help="of the build that is killed (default: %(default)s)")
    parser.add_argument("--most", type=int, help="passages (default: all)")
    parser.add_argument("--quick", action="store_true", help="300 passages and one kill")
    parser.add_argument("--to", type=Path, default=results.FOLDER, help="folder for the results")
    given = parser.parse_args()
    count = sum(1 for _ in BeirFolder.open(given.dataset).documents())
    count, kills = (min(count, 300), 1) if given.quick else (min(count, given.most or count), given.kills)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        half, whole, killed = (Path(name) / kind / "collection" for kind in ("half", "whole", "killed"))
        rows.append(_measured(given.dataset, half, count // 2))
        rows.append(_measured(given.dataset, whole, count))
        rows.append(_measured(given.dataset, killed, count, kills))
        if not _contents(whole) == _contents(killed):
            raise SystemExit("the build that was killed ended otherwise than the one that was not")
    print(results.table(rows))
    print(results.write("build", rows, given.to))


def _measured(dataset: Path, folder: Path, count: int, kills: int = 0) -> dict[str, Any]:
    """Build a collection of the first ``count`` passages and return its row."""
    repeated = [_killed(dataset, folder, count, count * n // (kills + 1)) for n in range(1, kills + 1)]
    told: dict[str, Any] = {}
    own: list[float] = [0.0]
    with _started(dataset, folder, count) as process:
        watch = threading.Thread(target=_watch, args=(process, own))
        watch.start()
        for line in process.stdout or ():
            told = json.loads(line)
    watch.join()
    if process.returncode:
        raise SystemExit(f"the build ended with status {process.returncode}")
    encoded = told["added"] / told["seconds"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    metrics = {"bytes": size, "build_s": told["seconds"], "passages_per_s": encoded, "peak_rss_mb": told["peak_rss_mb"]}
    metrics |= {"own_mb": max(own), "tokens_per_s": told["tokens"] / told["seconds"]}
    if kills:
        metrics["repeated"] = max(repeated)
    return {"system": "polyseek index", "parameters": {"passages": count, "kills": kills}, "metrics": metrics}


def _killed(dataset: Path, folder: Path, count: int, after: int) -> int:
    """Kill a build that has done so many passages; return how many of what it had encoded were not committed."""
    done = 0
    with _started(dataset, folder, count) as process:
        for line in process.stdout or ():
            done = max(done, json.loads(line)["documents"])
            if done >= after:
                process.kill()
                break
    try:
        return done - len(Snapshot.open(folder))
    except NotFoundError:
        return done


def _watch(process: subprocess.Popen[str], own: list[float]) -> None:
    """Note what memory a process has of its own, in MB, until it ends."""
    status = Path("/proc") / str(process.pid) / "status"
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):  # it has ended, or this is no Linux
            text = status.read_text(encoding="utf-8")
            own.append(int(text.split("RssAnon:")[1].split()[0]) / 1024)
        time.sleep(0.05)


def _started(dataset: Path, folder: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eval.bench.build", "build", str(dataset), str(folder), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _build(dataset: Path, folder: Path, count: int) -> None:
    """Build, printing a line of JSON for each step and one at the end."""
    started = time.perf_counter()
    report = build_collection(
        islice(BeirFolder.open(dataset).documents(), count),
        folder,
        on_progress=lambda progress: print(json.dumps(progress._asdict()), flush=True),
    )
    told = {"added": report.added, "tokens": report.tokens, "documents": report.total, "peak_rss_mb": results.peak_mb()}
    print(json.dumps({**told, "seconds": time.perf_counter() - started}), flush=True)


def _contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a collection with its bytes, but for the lock."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "lock"}


if __name__ == "__main__":
    main()
