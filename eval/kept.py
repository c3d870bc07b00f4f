"""Results that are kept beside a collection: measuring the same again is reading it, and a stopped run goes on.

A file, ``results/DIGEST.json``, holds what one system is worth. The digest is of everything that decides it: the state
of the collection with its encoder, queries, judgements, measures, the system, and the code that measures. What differs
in any of these has another name, so nothing kept is ever wrong; it is merely not looked at any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import UsageError
from eval.report import environment
from index.storage import write_json

FOLDER = "results"
# The packages whose code decides what is found and what it is worth.
_PACKAGES = ("data", "index", "retriever", "eval")


class Kept:
    """The results of one collection on one task."""

    def __init__(self, collection: Path | None, facts: Any) -> None:  # noqa: ANN401
        """Name the place.

        Args:
            collection: its folder; None where nothing is kept.
            facts: what decides a result beside the system and the code; JSON must be able to hold it.
        """
        self._folder = None if collection is None else collection / FOLDER
        self._digest = hashlib.blake2b(json.dumps([_code(), facts], sort_keys=True).encode(), digest_size=16)

    def read(self, system: str) -> dict[str, Any] | None:
        """Return what was kept of a system; None where there is nothing, or a file that is damaged."""
        if self._folder is None:
            return None
        try:
            body = json.loads(self._path(self._folder, system).read_text(encoding="utf-8"))
            found: dict[str, Any] | None = json.loads(body["result"]) if body == _body(body["result"]) else None
            return found
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, system: str, result: Mapping[str, Any]) -> None:
        """Keep what a system is worth; the file appears when it is whole.

        Raises:
            UsageError: it cannot be written.
        """
        if self._folder is None:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            write_json(self._path(self._folder, system), _body(json.dumps(result)))
        except OSError as error:
            raise UsageError(f"cannot keep results in {self._folder}: {error.strerror or error}") from error

    def _path(self, folder: Path, system: str) -> Path:
        digest = self._digest.copy()
        digest.update(system.encode())
        return folder / f"{digest.hexdigest()}.json"


def _body(result: str) -> dict[str, str]:
    """Return what a file holds: the result as text, in which measures keep their order, and its checksum."""
    return {"result": result, "checksum": hashlib.blake2b(result.encode(), digest_size=16).hexdigest()}


@cache
def _code() -> str:
    """Digest the code that measures, its libraries' versions among it."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(environment()["libraries"].encode(), digest_size=16)
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
