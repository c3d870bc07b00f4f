"""The manifest: the one small file that says what a collection is. It is written last, and in one step.

What the manifest does not name does not exist: a build that was killed leaves folders that the next writer removes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import CollectionError, NotFoundError
from index.storage import write_json

FORMAT = 3
# The cosine of what two arithmetics make of one text, from which on their vectors may stand beside each other.
ALIKE = 0.998
NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of a collection.

    Attributes:
        name: what people call the collection.
        views: which of bm25, dense, late it holds.
        encoder: the encoder's fingerprint, or None for a collection without vectors.
        generation: rises by one with every commit.
        next_segment: the number that the next segment's folder gets; numbers are never used twice.
        segments: entries as `index.segment` describes them, oldest first.
        deleted: the file with the deleted rows ({"name", "bytes", "blake2b"}), or None.
        priors: the files with the shipped centroids, by name.
        late_bits: for a dimension, where the late view is coded.
    """

    name: str
    views: tuple[str, ...]
    encoder: Mapping[str, Any] | None
    generation: int = 0
    next_segment: int = 1
    segments: tuple[Mapping[str, Any], ...] = ()
    deleted: Mapping[str, Any] | None = None
    priors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    late_bits: int = 4

    def next(self, **changes: Any) -> Manifest:  # noqa: ANN401
        """Return the manifest of the next commit."""
        return replace(self, generation=self.generation + 1, **changes)

    def commit(self, folder: Path) -> None:
        """Make this the state of the collection: before the call the old one is read, after it the new one."""
        write_json(folder / NAME, {**self._body(), "checksum": self.checksum})

    @property
    def checksum(self) -> str:
        """A digest of all of it, and so of every file that it names."""
        return _checksum(self._body())

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the state of a collection.

        Raises:
            NotFoundError: no collection there.
            CollectionError: a damaged manifest, or one of another format version.
        """
        path = folder / NAME
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"{folder} holds no collection: build one with `polyseek index INPUT --to {folder}`"
            ) from None
        except OSError as error:
            raise CollectionError(f"cannot read {path}: {error.strerror or error}: check its permissions") from error
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise CollectionError(
                f"{path} is damaged ({error}): restore it from a copy or build the collection anew"
            ) from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            found = body.get("format") if isinstance(body, dict) else type(body).__name__
            raise CollectionError(
                f"{folder} has format {found} and this version of Polyseek reads format {FORMAT}: build it anew"
            )
        if body.pop("checksum", None) != _checksum(body):
            raise CollectionError(f"{path} is damaged (checksum): restore it from a copy or build the collection anew")
        body.pop("format")
        return cls(**{**body, "views": tuple(body["views"]), "segments": tuple(body["segments"])})


def _checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(canonical.encode("utf-8"), digest_size=16).hexdigest()


def check_fingerprint(folder: Path, stored: Mapping[str, Any] | None, given: Mapping[str, Any]) -> None:
    """Refuse vectors of another encoder. The name may differ, for the same model can lie elsewhere.

    So may the arithmetic, if what it made of the same text lies near enough.

    Raises:
        CollectionError: with both fingerprints in full.
    """
    if stored is None:
        return
    free = {"model": "", "arithmetic": "", "probe": []}
    if {**stored, **free} != {**given, **free} or _cosine(stored["probe"], given["probe"]) < ALIKE:
        built, this = (json.dumps(x, ensure_ascii=False, sort_keys=True) for x in (dict(stored), dict(given)))
        raise CollectionError(
            f"{folder} was built with the encoder {built} and this is {this}: "
            f"open it with `--encoder {stored['model']}` or build it anew"
        )


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.dot(a, b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)) if len(a) == len(b) else 0.0
