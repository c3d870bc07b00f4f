"""What guards a collection's folder: one writer at a time, and a disk that may refuse."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from data.errors import CollectionError, PolyseekError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the writer's lock; the system releases it when the process ends, however it ends."""
    try:
        with writes(folder):
            lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout:
        raise CollectionError(f"somebody else is writing to {folder}: try again when that is done") from None
    with lock:
        yield


@contextlib.contextmanager
def writes(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line; the manifest was not replaced, so what it names is whole."""
    try:
        yield
    except Timeout:  # of the lock; it is an OSError too
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else (error.strerror or str(error))
        remedy = "free some space" if full else "check the folder's permissions"
        raise PolyseekError(
            f"cannot write to {folder}: {why}; what was committed before is whole; {remedy} and run it again"
        ) from error
