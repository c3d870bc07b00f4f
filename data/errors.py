"""The tree of exceptions. Every message is one line that says what was wrong, where, and what to do."""

from __future__ import annotations


class PolyseekError(Exception):
    """The work failed (exit status 1). Base of everything that Polyseek raises on purpose."""


class UsageError(PolyseekError):
    """The request itself was wrong: an unknown option value, a missing path (exit status 2, HTTP 400)."""


class InputError(PolyseekError):
    """A file or record that cannot be read: says the file, the line and the reason (HTTP 400)."""


class NotFoundError(PolyseekError):
    """A collection, a document or a file that does not exist (HTTP 404)."""


class CollectionError(PolyseekError):
    """A collection that is damaged, locked, of another format or made by another encoder (HTTP 409)."""


class EncoderError(PolyseekError):
    """A model that cannot be loaded or does not have what was asked of it."""
