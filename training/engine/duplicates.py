"""Files that show the same: equal bytes, or equal to the eye (another size, codec or bit rate).

Two files are near duplicates where they last equally long and the perceptual hashes of frames at
the same relative places agree. A part of a longer video is not found. Pairs to be compared are
looked up by quarters of the hashes, so millions of files need no comparison of each with each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .rows import Row, Section, file_name, source_of
from .work import Work

VERSION = 1
DISTANCE = 6.0  # mean of the bits, of 64, in which the hashes of a pair's frames may differ
_SAME_LENGTH = 0.02  # share by which lengths may differ,
_SAME_SECONDS = 0.5  # or so many seconds
_LARGEST_GROUP = 2000  # files that share a quarter of a hash; more of them are no evidence


def mark_duplicates(work: Work, distance: float = DISTANCE) -> int:
    """Writes the section `duplicate` into the rows of files, and returns how many are duplicates.

    Of files that show the same the one of most pixels stays, of these the first; `of` of the others
    is its path. `same_bytes_as` is the path of the first file of equal bytes. Holds about 1,250
    bytes per file in memory. Raises ValueError naming a bad row.
    """
    names, hashes, lengths, pixels, contents = [], [], [], [], []
    for row in work.rows("files"):
        if "error" in row.get("probe", {"error": 0}):
            continue
        source = source_of(row)
        names.append((row["id"], file_name(row)))
        hashes.append(row.get("fingerprint", {}).get("phash"))
        lengths.append(source["seconds"])
        pixels.append(source["height"] * source["width"])
        contents.append(source["hash"])
    originals = _originals(contents, hashes, np.array(lengths), np.array(pixels), distance)
    sections: dict[str, Section] = {}
    made_by = {"version": VERSION, "distance": distance}
    first_of: dict[str, int] = {}
    for index, original in enumerate(originals):
        of = None if index == original else names[original][1]
        bytes_of = first_of.setdefault(contents[index], index)
        sections[names[index][0]] = {
            "of": of,
            "same_bytes_as": None if bytes_of == index else names[bytes_of][1],
            "made_by": made_by,
        }
    _write(work, sections)
    return sum(section["of"] is not None for section in sections.values())


def _write(work: Work, sections: dict[str, Section]) -> None:
    def marked(row: Row) -> Row:
        return {**row, "duplicate": sections[row["id"]]} if row["id"] in sections else row

    for shard in work.shards("files"):
        with shard.changing():
            rows = list(shard.rows())
            new = list(map(marked, rows))
            if new != rows:
                shard.write(new)


def _originals(contents, hashes, lengths, pixels, distance: float) -> list[int]:
    """For every file the index of the one that stays of its group."""
    count = len(contents)
    first: dict[str, int] = {}
    pairs = [(first.setdefault(content, i), i) for i, content in enumerate(contents)]
    pairs += _near(hashes, lengths, distance)
    if not count:
        return []
    ends = np.array(pairs)
    edges = coo_array((np.ones(len(pairs), bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, groups = connected_components(edges, directed=False)
    best: dict[int, int] = {}
    for index, group in enumerate(groups):
        known = best.setdefault(group, index)
        if pixels[index] > pixels[known]:
            best[group] = index
    return [best[group] for group in groups]


def _near(hashes, lengths: np.ndarray, distance: float) -> Iterator[tuple[int, int]]:
    """Pairs of files whose hashes agree, found by equal quarters of a hash of one frame."""
    by_count: dict[int, list[int]] = {}
    for index, values in enumerate(hashes):
        by_count.setdefault(len(values or ()), []).append(index)
    for frames, members in by_count.items():
        files = np.array(members)
        for frame in range(frames):
            known = np.array([hashes[i][frame] is not None for i in files])
            there = files[known]
            bits = np.array([int(hashes[i][frame], 16) for i in there], np.uint64)
            for quarter in range(4):
                keys = (bits >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
                for group in _groups(there, keys):
                    yield from _agreeing(group, hashes, lengths, distance)


def _groups(files: np.ndarray, keys: np.ndarray) -> Iterator[np.ndarray]:
    order = np.argsort(keys, kind="stable")
    for group in np.split(files[order], np.flatnonzero(np.diff(keys[order])) + 1):
        if 1 < len(group) <= _LARGEST_GROUP:
            yield group


def _agreeing(group, hashes, lengths, distance: float) -> Iterator[tuple[int, int]]:
    packed = np.array([[int(h or "0", 16) for h in hashes[i]] for i in group], np.uint64)
    known = np.array([[h is not None for h in hashes[i]] for i in group])
    for at, index in enumerate(group[:-1]):
        others = slice(at + 1, None)
        both = known[others] & known[at]
        differing = np.unpackbits((packed[others] ^ packed[at]).view(np.uint8), axis=1)
        bits = differing.reshape(*both.shape, 64).sum(-1)
        mean = np.where(both, bits, 0).sum(1) / np.maximum(both.sum(1), 1)
        off = np.abs(lengths[group[others]] - lengths[index])
        alike = off <= np.maximum(_SAME_SECONDS, _SAME_LENGTH * lengths[index])
        for other in group[others][(mean <= distance) & alike & both.any(1)]:
            yield int(index), int(other)
