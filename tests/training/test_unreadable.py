from __future__ import annotations

import os
from pathlib import Path

import pytest
from accelerate import Accelerator

from castssl.config import RunConfig
from castssl.errors import DataError
from castssl.training.log import Log
from castssl.training.unreadable import FILE, UnreadableList
from tests.training.processes import QUICK, Toy, agree, finished, lines, state

BROKEN = "--broken 3 7 20"
"""Three of the toy's 24 images."""


class Loader:
    """What the list needs of one."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.bad: dict[str, str] = {}


def _list(folder: Path, limit: float, after: int | None = None) -> UnreadableList:
    made = UnreadableList(RunConfig(max_bad=limit), folder, Accelerator(cpu=True), Log(folder))
    made.begin(after)
    return made


def _lines(folder: Path) -> list[str]:
    path = folder / FILE
    return path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1] if path.exists() else []


def test_each_image_is_listed_once_with_reason_and_step(tmp_path: Path) -> None:
    loader, listed = Loader(100), _list(tmp_path, 1.0)
    listed.open(loader, 0)
    assert _lines(tmp_path) == []
    assert listed.summary() == ()
    loader.bad["/data/a b.jpg"] = "the file is empty"
    listed.check(10)
    listed.check(20)
    loader.bad |= {"/data/a b.jpg": "still", "/data/c.jpg": "torn"}
    listed.check(30)
    assert _lines(tmp_path) == ["/data/a b.jpg\tthe file is empty\t10", "/data/c.jpg\ttorn\t30"]
    assert str(tmp_path / FILE) in listed.summary()[0]
    assert [(line["step"], line["images"], line["of"]) for line in lines(tmp_path)] == [
        (10, 1, 100),
        (30, 2, 100),
    ]


def test_any_name_is_one_line(tmp_path: Path) -> None:
    strange = os.fsdecode(b"/d/\xff\xfe\n\t\\n \xc3\xa9'\".jpg")
    loader, listed = Loader(9), _list(tmp_path, 1.0)
    loader.bad |= {strange: "not\nan image", "/d/\\n": "torn", "/d/\n": "torn"}
    listed.open(loader, 4)
    first, *others = _lines(tmp_path)
    assert os.fsencode(first) == b"/d/\xff\xfe\\n\\t\\\\n \xc3\xa9'\".jpg\tnot\\nan image\t4"
    assert others == ["/d/\\\\n\ttorn\t4", "/d/\\n\ttorn\t4"]
    again = _list(tmp_path, 1.0, after=4)
    again.open(loader, 4)
    assert _lines(tmp_path) == [first, *others]


def test_goes_on_from_a_checkpoint_with_what_was_known_there(tmp_path: Path) -> None:
    loader, listed = Loader(9), _list(tmp_path, 1.0)
    listed.open(loader, 0)
    for step in (5, 10, 12):
        loader.bad[f"{step}.jpg"] = "torn"
        listed.check(step)
    with (tmp_path / FILE).open("a") as file:
        file.write("cut off.jpg\tto")
    _list(tmp_path, 1.0, after=10)
    assert _lines(tmp_path) == ["5.jpg\ttorn\t5", "10.jpg\ttorn\t10"]
    _list(tmp_path, 1.0)
    assert _lines(tmp_path) == []


@pytest.mark.parametrize(
    ("limit", "images", "fine"), [(0, 50, 0), (0.01, 50, 0), (0.02, 50, 1), (0.29, 100, 29), (1, 4, 4)]
)
def test_the_limit_is_a_share_of_the_whole_data_set(
    tmp_path: Path, limit: float, images: int, fine: int
) -> None:
    loader, listed = Loader(images), _list(tmp_path, limit)
    loader.bad |= {f"{index}.jpg": "torn" for index in range(fine)}
    listed.open(loader, 0)
    if fine < images:
        loader.bad["one more.jpg"] = "torn"
        with pytest.raises(DataError, match=rf"^{fine + 1} unreadable images, in a data set of {images}, "):
            listed.check(1)


def test_the_error_says_what_to_do(tmp_path: Path) -> None:
    loader, listed = Loader(1000), _list(tmp_path, 0.01)
    loader.bad |= {f"/data/{index}.jpg": "the file is empty" for index in range(11)}
    with pytest.raises(DataError) as caught:
        listed.open(loader, 0)
    told = str(caught.value)
    assert "more than --max-bad 0.01 allows" in told
    assert "/data/0.jpg (the file is empty)" in told
    assert "and 6 more" in told
    assert str(tmp_path / FILE) in told
    assert "raise --max-bad" in told
    assert len(_lines(tmp_path)) == 11


def test_a_loader_may_know_nothing_of_it(tmp_path: Path) -> None:
    listed = _list(tmp_path, 0.0)
    listed.open(object(), 0)
    listed.check(1)
    assert not (tmp_path / FILE).exists()


def test_a_run_lists_them_and_goes_on(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} {BROKEN} --max-bad 0.2")
    assert toy.code() == 0, toy.told()
    listed = [line.split("\t") for line in _lines(tmp_path / "run")]
    assert sorted(name for name, _, _ in listed) == ["picture 20", "picture 3", "picture 7"]
    assert {reason for _, reason, _ in listed} == {"torn"}
    assert [int(step) for _, _, step in listed] == sorted(int(step) for _, _, step in listed)
    assert int(listed[-1][2]) <= 6
    assert "3 images could not be read" in toy.told()


def test_after_mending_the_run_ends_as_if_nothing_had_been_broken(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} {BROKEN} --max-bad 0 --save-every 1")
    assert toy.code() == 1
    assert "unreadable images, in a data set of 24" in toy.told()
    assert "Traceback" not in toy.told()
    assert 0 < state(out)["step"] < int(_lines(out)[0].split("\t")[2])
    mended = Toy(out, f"{QUICK} --max-bad 0")
    assert mended.code() == 0, mended.told()
    assert _lines(out) == []
    agree(out, unbroken)


@pytest.mark.distributed
@pytest.mark.parametrize("every", [1, 100])
def test_ranks_stop_together(tmp_path: Path, every: int) -> None:
    """Whether they meet at a report or only where a checkpoint would be written."""
    out = tmp_path / "run"
    flags = f"--epochs 3 --log-every {every}"
    toy = Toy(out, f"{flags} {BROKEN} --max-bad 0.1", world=2)
    assert toy.code() == 1
    assert [process.exitcode for process in toy.processes] == [1, 1]
    assert toy.told().count("3 unreadable images, in a data set of 24") == 1
    assert "Traceback" not in toy.told()
    assert len(_lines(out)) == 3
    assert not list(out.glob("checkpoints/step*"))
    more = Toy(out, f"{flags} {BROKEN} --max-bad 0.2", world=2)
    assert more.code() == 0, more.told()
    assert len(_lines(out)) == 3
    assert state(out)["step"] == 18


def test_killed_and_continued_it_lists_what_a_run_never_killed_does(tmp_path: Path) -> None:
    flags = f"{QUICK} {BROKEN} --max-bad 0.2"
    finished(tmp_path / "whole", flags)
    finished(tmp_path / "parts", f"{flags} --max-steps 3")
    finished(tmp_path / "parts", flags)
    assert _lines(tmp_path / "parts") == _lines(tmp_path / "whole")
