"""No byte of a tar can be damaged so that a member disappears without a report."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from castssl.datasets.tarfiles import Entry, Lost, entries

MEMBERS = 5


def archive(kind: int, folder: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as written:
        for number in range(MEMBERS):
            entry = tarfile.TarInfo(f"{folder}/{number}.jpg")
            entry.size = 700
            written.addfile(entry, io.BytesIO(bytes([65 + number]) * 700))
    return stream.getvalue()


def read(content: bytes) -> tuple[list[Entry], list[Lost]]:
    found = list(entries(io.BytesIO(content)))
    return [e for e in found if isinstance(e, Entry)], [e for e in found if isinstance(e, Lost)]


@pytest.fixture(
    params=[
        (tarfile.USTAR_FORMAT, "a"),
        (tarfile.GNU_FORMAT, "a"),
        (tarfile.GNU_FORMAT, "é" * 90),
        (tarfile.PAX_FORMAT, "é" * 90),
    ],
    ids=["ustar", "gnu", "gnu-long", "pax-long"],
)
def whole(request: pytest.FixtureRequest) -> bytes:
    return archive(*request.param)


def test_a_whole_archive_is_read_without_remarks(whole: bytes) -> None:
    found, lost = read(whole)
    assert [whole[entry.offset : entry.offset + entry.size] for entry in found] == [
        bytes([65 + number]) * 700 for number in range(MEMBERS)
    ]
    assert not lost
    assert len(read(whole + whole)[0]) == 2 * MEMBERS
    assert not read(whole + whole)[1]


def test_a_cut_anywhere_is_reported(whole: bytes) -> None:
    silent = []
    for cut in range(0, len(whole), 97):
        found, lost = read(whole[:cut])
        if len(found) < MEMBERS and not lost:
            silent.append(cut)
    assert silent == []


def test_a_flipped_bit_anywhere_loses_one_member_at_most(whole: bytes) -> None:
    draw, silent, many = random.Random(0), [], []
    for _ in range(400):
        content, at = bytearray(whole), draw.randrange(len(whole))
        content[at] ^= 1 << draw.randrange(8)
        found, lost = read(bytes(content))
        if len(found) < MEMBERS and not lost:
            silent.append(at)
        if len(found) < MEMBERS - 1:
            many.append(at)
    assert (silent, many) == ([], [])


@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 8])
def test_what_is_no_archive_is_reported(content: bytes) -> None:
    found, lost = read(content)
    assert not found
    assert [part.torn for part in lost] == [True]


def test_archives_inside_an_archive_are_read_to_their_end_only(whole: bytes) -> None:
    start, end = 512 * 3, 512 * 3 + len(whole) - 6000
    both = bytes(start) + whole[: end - start] + whole
    found = list(entries(io.BytesIO(both), start, end))
    assert all(not isinstance(part, Entry) or part.offset + part.size <= end for part in found)
