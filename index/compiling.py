"""How the inner loops of `index` and `retriever` are compiled, and the arrays that they take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
U32 = NDArray[np.uint32]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a function at its first call, or take it from the cache beside its file or in the user's folder.

    It runs without the interpreter's lock. There are no infinities and nothing that is not a number in it, so sums
    may be made in whatever order is fastest; that order is the same every time.
    """
    return _compile(function, fastmath=True)


def compiled_exactly(function: F) -> F:
    """Compile a function whose numbers are those that IEEE 754 has for each operation, in lanes or one by one."""
    return _compile(function, fastmath=False)


def _compile(function: F, *, fastmath: bool) -> F:
    # Python's error model asks of every divisor whether it is 0, and that keeps loops out of vector lanes.
    compiler = partial(numba.njit, nogil=True, fastmath=fastmath, error_model="numpy")
    try:
        made = compiler(cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        made = compiler()(function)
    # Numba looks whether the function's own file has changed, but much of what it compiles lies in the others.
    kept = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if kept is not None:
        kept._source_stamp = (kept._source_stamp, sources())
    return cast("F", made)


@lru_cache(maxsize=1)
def sources() -> str:
    """Return a digest of the files that compiled functions are made from."""
    digest = hashlib.blake2b(digest_size=16)
    here = Path(__file__).parent
    encoding = [f"../retriever/{name}" for name in ("attention", "kernels", "lanes")]
    for name in ("compiling", "kernels", "lanes", "lexical", "packing", *encoding):
        digest.update((here / f"{name}.py").read_bytes())
    return digest.hexdigest()
