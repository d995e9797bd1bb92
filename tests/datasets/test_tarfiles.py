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
    result = list(entries(io.BytesIO(content)))
    return [e for e in result if isinstance(e, Entry)], [e for e in result if isinstance(e, Lost)]


@pytest.fixture(
    params=[
        (tarfile.USTAR_FORMAT, "a"),
        (tarfile.GNU_FORMAT, "a"),
        (tarfile.GNU_FORMAT, "é" * 90),
        (tarfile.PAX_FORMAT, "é" * 90),
    ],
    ids=["ustar", "gnu", "gnu-long", "pax-long"],
)
def full(request: pytest.FixtureRequest) -> bytes:
    return archive(*request.param)


def test_a_whole_archive_is_read_without_remarks(full: bytes) -> None:
    result, lost = read(full)
    assert [full[entry.offset : entry.offset + entry.size] for entry in result] == [
        bytes([65 + number]) * 700 for number in range(MEMBERS)
    ]
    assert not lost
    assert len(read(full + full)[0]) == 2 * MEMBERS
    assert not read(full + full)[1]


def test_a_cut_anywhere_is_reported(full: bytes) -> None:
    silent = []
    for length in range(0, len(full), 97):
        result, lost = read(full[:length])
        if len(result) < MEMBERS and not lost:
            silent.append(length)
    assert silent == []


def test_a_flipped_bit_anywhere_loses_one_member_at_most(full: bytes) -> None:
    draw, silent, many = random.Random(0), [], []
    for _ in range(400):
        content, index = bytearray(full), draw.randrange(len(full))
        content[index] ^= 1 << draw.randrange(8)
        result, lost = read(bytes(content))
        if len(result) < MEMBERS and not lost:
            silent.append(index)
        if len(result) < MEMBERS - 1:
            many.append(index)
    assert (silent, many) == ([], [])


@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 8])
def test_what_is_no_archive_is_reported(content: bytes) -> None:
    result, lost = read(content)
    assert not result
    assert [part.torn for part in lost] == [True]


def test_archives_inside_an_archive_are_read_to_their_end_only(full: bytes) -> None:
    start, end = 512 * 3, 512 * 3 + len(full) - 6000
    both = bytes(start) + full[: end - start] + full
    result = list(entries(io.BytesIO(both), start, end))
    assert all(not isinstance(part, Entry) or part.offset + part.size <= end for part in result)


def linked(folders: dict[str, int], links: dict[str, str]) -> bytes:
    """Folders of so many empty files, and symbolic links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as written:
        for folder, count in folders.items():
            for number in reversed(range(count)):
                written.addfile(tarfile.TarInfo(f"{folder}/{number}.png"))
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            written.addfile(link)
    return stream.getvalue()


def test_links_to_folders_have_their_files_in_their_order() -> None:
    made = linked(
        {"t/a": 3, "t/a-b": 1, "t/a0": 1, "t/a/x": 1}, {"t/l": "a", "u": "./t", "v": "t/b", "w": "."}
    )
    result, lost = read(made)
    assert [entry.name for entry in result[6:]] == [
        *(f"t/l/{name}.png" for name in ("2", "1", "0", "x/0")),
        *(f"u/{name}.png" for name in ("a/2", "a/1", "a/0", "a-b/0", "a0/0", "a/x/0")),
    ]
    assert [(part.name, part.torn) for part in lost] == [("v", False), ("w", False)]


def test_links_to_folders_add_a_limited_number_of_files() -> None:
    result, lost = read(linked({"a": 400, "b": 1}, {f"l{number}": "a" for number in range(40)}))
    assert len(result) == 401 + 400 * ((4 * 401 + 10_000) // 400)
    assert [part.reason.partition(":")[0] for part in lost] == [
        "11 links to folders, such as l29, are not followed"
    ]


def test_a_name_longer_than_any_path_is_lost() -> None:
    result, lost = read(linked({"a": 1, "b" * 5000: 1}, {}))
    assert [entry.name for entry in result] == ["a/0.png"]
    assert [(part.name[-6:], part.reason) for part in lost] == [
        ("/0.png", "a name of 5006 characters, expected at most 4096")
    ]
