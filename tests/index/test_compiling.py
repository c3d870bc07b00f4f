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


FILTERED = """
import sys
from pathlib import Path
import numpy as np
from index import lexical
from index.bm25 import Bm25View
from index.postings import Postings, write_postings
write_postings(Path(sys.argv[1]), [("a b", "en"), ("a c", "en")])
live = np.ones(2, np.bool_)
live.setflags(write=False)
view = Bm25View([Postings.open(Path(sys.argv[1]))], live, np.arange(2))
print(len(view.search([["a"]], 2)[0].rows), len(view.search([["a"]], 2, within=[np.arange(1)])[0].rows))
print(len(lexical.search.signatures))
"""


def test_a_filter_compiles_nothing_anew(tmp_path):
    command = [sys.executable, "-c", FILTERED, str(tmp_path)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert out.split() == ["2", "1", "1"]
