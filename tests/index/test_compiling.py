"""The cache of compiled functions: good while nothing that they are made from has changed."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from index import compiling
compiling.sources = lambda: sys.argv[1]
import numpy as np
from index.lexical import count_live
one = np.zeros(1, np.int64)
count_live(np.zeros(1, np.uint32), one, one + 1, np.ones(1, np.bool_), one.copy())
print(sum(count_live.stats.cache_hits.values()), sum(count_live.stats.cache_misses.values()))
"""


def test_what_other_files_say_is_part_of_what_is_cached(tmp_path):
    told = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, digest],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout.split()
        for digest in ("a", "a", "b", "b")
    ]  # fmt: skip
    assert told == [["0", "1"], ["1", "0"], ["0", "1"], ["1", "0"]]
