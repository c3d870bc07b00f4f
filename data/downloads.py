"""Test collections that can be had by name: what `downloads.toml` says of their files, fetched and verified.

A dataset appears whole or not at all: its files are made in a folder beside it, which is renamed when all of them are
what they should be.
"""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from urllib.request import urlopen

from data.errors import InputError, NotFoundError, UsageError

REGISTRY = Path(__file__).with_name("downloads.toml")
_CHUNK = 1 << 20
_PATIENCE = 60  # seconds without a byte
_ARCHIVES = (".zip", ".tar.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a download.

    Attributes:
        url: where it is; the last part is its name.
        size: its bytes.
        sha256: its checksum.
        md5: its checksum, where nobody has published the better one.
        folder: what in an archive, the only file then, becomes the dataset; empty for all of it.
    """

    url: str
    size: int
    sha256: str = ""
    md5: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """What it is called in the dataset's folder and in one that files are taken from."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A test collection that can be had.

    Attributes:
        title: what it is, for people.
        layout: whose files they are, of those that :func:`data.datasets.open_dataset` knows.
        licence: under which they may be used, as their publisher says.
        files: all of them.
    """

    title: str
    layout: str
    licence: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def read_registry(path: Path = REGISTRY) -> dict[str, Download]:
    """Read what can be had: name -> download.

    Raises:
        InputError: it is no TOML, or an entry lacks something or has too much.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {
            name: Download(files=tuple(File(**file) for file in table.pop("files")), **table)
            for name, table in tables.items()
        }
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no list of downloads: {error}") from error


def fetch(download: Download, to: Path, *, source: Path | None = None, on_bytes: Callable[[int, str], None]) -> None:
    """Put a test collection into a folder of its own.

    Args:
        download: which.
        to: the folder, which must not be there.
        source: a folder that holds the files under their own names; None to take them from where they are published.
        on_bytes: told how many more bytes are there, and of which file.

    Raises:
        UsageError: the folder is there.
        NotFoundError: a file cannot be had.
        InputError: it is not the one that the registry knows; nothing is left of it.
    """
    if to.exists():
        raise UsageError(f"{to} is there already: use it, or give --to another folder")
    home = next(folder for folder in to.absolute().parents if folder.exists())
    with TemporaryDirectory(prefix=".polyseek-fetch-", dir=home) as work:
        made = Path(work) / "dataset"
        made.mkdir()
        for file in download.files:
            _copy(file, made / file.name, source, on_bytes)
        for file in download.files:
            if file.name.endswith(_ARCHIVES):
                made = _unpacked(file, made)
        to.parent.mkdir(parents=True, exist_ok=True)
        made.rename(to)


def _copy(file: File, target: Path, source: Path | None, on_bytes: Callable[[int, str], None]) -> None:
    """Write a file while its size and checksum are computed, and no more of it than it should have."""
    kind, wanted = ("sha256", file.sha256) if file.sha256 else ("md5", file.md5)
    digest, size = hashlib.new(kind, usedforsecurity=False), 0
    with target.open("wb") as out:
        for chunk in _chunks(file, source):
            size += len(chunk)
            if size > file.size:
                break
            digest.update(chunk)
            out.write(chunk)
            on_bytes(len(chunk), file.name)
    where = file.url if source is None else source / file.name
    if size != file.size:
        found = "more" if size > file.size else f"{size:,}"
        raise InputError(f"{where} has {found} bytes where {file.size:,} are known: cut short, or another version")
    if digest.hexdigest() != wanted:
        raise InputError(f"{where} is not the file that is known: its {kind} is {digest.hexdigest()}, not {wanted}")


def _chunks(file: File, source: Path | None) -> Iterator[bytes]:
    """Yield a file's bytes; what goes wrong while they are used elsewhere is not taken for a fault of theirs."""
    try:
        with _open(file, source) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except (OSError, HTTPException) as error:
        if source is None:
            advice = f"without a network, get {file.name} elsewhere and give its folder as --source"
            raise NotFoundError(f"{file.url} cannot be read ({error}): {advice}") from error
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"{source / file.name} cannot be read ({reason}): it is {file.url}") from error


def _open(file: File, source: Path | None) -> AbstractContextManager[IO[bytes]]:
    if source is not None:
        return (source / file.name).open("rb")
    opened: AbstractContextManager[IO[bytes]] = urlopen(file.url, timeout=_PATIENCE)
    return opened


def _unpacked(file: File, folder: Path) -> Path:
    """Unpack an archive in its folder and return the folder of what is wanted of it."""
    archive = folder / file.name
    if file.name.endswith(".zip"):  # which has no such option, and needs none
        shutil.unpack_archive(archive, folder)
    else:
        shutil.unpack_archive(archive, folder, filter="data")
    archive.unlink()
    wanted = folder / file.folder
    if not wanted.is_dir():
        raise InputError(f"{file.name} holds no folder {file.folder}")
    return wanted
