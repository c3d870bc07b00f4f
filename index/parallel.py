"""Work shared out among all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def share(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """Do the work on every item, on all cores, and return the results in order."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(pool.map(work, items))
