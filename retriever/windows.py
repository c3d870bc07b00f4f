"""Windows: a text longer than a model takes is split into several, and nothing is cut in silence."""

from __future__ import annotations

from typing import Any

# How far back from a window's end a blank is looked for, so that words stay whole, in tokens.
LOOK_BACK = 32


def split(text: str, *, prompt: str, tokenizer: Any, limit: int) -> list[str]:  # noqa: ANN401
    """Split a text into windows of at most ``limit`` tokens; the windows joined are the text, but for blank ones.

    Args:
        text: not blank.
        prompt: stands before every window.
        tokenizer: a fast tokenizer of `transformers`.
        limit: tokens that the model takes, prompt and special tokens included.
    """
    around = _count(tokenizer, prompt) + tokenizer.num_special_tokens_to_add()
    room = max(limit - around, 1)
    starts = _starts(tokenizer, text)
    if len(starts) <= room:
        return [text]
    windows: list[str] = []
    token = begin = 0
    while begin < len(text):
        # A piece that begins inside a word often takes a token or two more than it did there.
        token, end = _end(text, starts, token, max(room - room // 32 - 1, 1))
        piece = text[begin:end]
        if len(piece) == 1 or len(_starts(tokenizer, piece)) <= room:
            windows.append(piece)
        else:  # rare: many more
            windows += split(piece, prompt=prompt, tokenizer=tokenizer, limit=limit)
        begin = end
    return [window for window in windows if window.strip()]


def _end(text: str, starts: list[int], token: int, room: int) -> tuple[int, int]:
    """Return the token and the character where the window that begins at ``token`` ends.

    That is beside a blank if one is near the end, else between two tokens; at least one character on.
    """
    last = token + room
    if last >= len(starts):
        return len(starts), len(text)
    for candidate in range(last, max(last - LOOK_BACK, token + 1), -1):
        at = starts[candidate]
        if at > starts[token] and (text[at].isspace() or text[at - 1].isspace()):
            return candidate, at
    # Byte-level tokenizers give several tokens the same first character: end where one begins.
    while last < len(starts) and starts[last] <= starts[token]:
        last += 1
    return (last, starts[last]) if last < len(starts) else (last, len(text))


def _starts(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    """Return the character at which each token of a text begins."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [start for start, _ in encoded["offset_mapping"]]


def _count(tokenizer: Any, text: str) -> int:  # noqa: ANN401
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
