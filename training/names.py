"""Names and captions of strangers: they may hold anything that a file system or JSON allows."""

from __future__ import annotations

import hashlib


def readable(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs (from odd file names) are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def short_hash(text: str) -> bytes:
    """8 bytes in place of a name, for sets of many: the names of 90M clips are many GB."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def one_line(text: str) -> str:
    """Text for a terminal: line breaks and control characters are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
