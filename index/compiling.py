"""How the loops of `index` are compiled, and the arrays that they take."""

from __future__ import annotations

from collections.abc import Callable
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
    try:
        return cast("F", numba.njit(nogil=True, cache=True, fastmath=True)(function))
    except RuntimeError:  # no folder to keep it in
        return cast("F", numba.njit(nogil=True, fastmath=True)(function))
