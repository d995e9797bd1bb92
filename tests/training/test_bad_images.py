from __future__ import annotations

import os
from pathlib import Path

import pytest
from accelerate import Accelerator

from castssl.config import RunConfig
from castssl.datasets.unreadable import Clipped, Ledger
from castssl.errors import DataError
from castssl.feed import Unreadable
from castssl.training.bad_images import BadImages
from castssl.training.logging import FILE, Log
from tests.training.processes import QUICK, Toy, agree, finished, lines, state

BROKEN = "--broken 3 7 20"
"""Three of the toy's 24 images."""


class Loader:
    """What the list needs of one."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.bad = Ledger()


def _list(folder: Path, limit: float, after: int | None = None) -> BadImages:
    made = BadImages(RunConfig(max_bad=limit), folder, Accelerator(cpu=True), Log(folder))
    made.begin(after)
    return made


def _listed(folder: Path, event: str = "unreadable") -> list[tuple[str, str, int]]:
    """Name, reason and step of the images that a log lists."""
    if not (folder / FILE).exists():
        return []
    found = [line for line in lines(folder) if line.get("event") == event]
    return [(line["image"], line["reason"], line["step"]) for line in found]


def test_each_image_is_listed_once_with_reason_and_step(tmp_path: Path) -> None:
    loader, listed = Loader(100), _list(tmp_path, 1.0)
    listed.open(loader, 0)
    assert _listed(tmp_path) == []
    assert listed.summary() == ()
    loader.bad["/data/a b.jpg"] = "the file is empty"
    listed.check(10)
    listed.check(20)
    loader.bad |= {"/data/a b.jpg": "still", "/data/c.jpg": "torn"}
    listed.check(30)
    assert _listed(tmp_path) == [("/data/a b.jpg", "the file is empty", 10), ("/data/c.jpg", "torn", 30)]
    assert str(tmp_path / FILE) in listed.summary()[0]


def test_clipped_images_are_listed_and_do_not_count(tmp_path: Path) -> None:
    loader, listed = Loader(2), _list(tmp_path, 0.0)
    loader.bad.note([Clipped("a.tif", "clipped 3 values outside 0:1 (they reach from 0 to 2)")])
    listed.open(loader, 0)
    ((name, reason, step),) = _listed(tmp_path, "clipped")
    assert (name, step, "outside 0:1" in reason) == ("a.tif", 0, True)
    assert _listed(tmp_path) == []
    assert "1 images hold values outside their declared range" in listed.summary()[0]
    loader.bad.note([Unreadable("b.tif", "torn")])
    with pytest.raises(DataError, match=r"^1 unreadable images, in a data set of 2, "):
        listed.check(1)


def test_any_name_is_one_line(tmp_path: Path) -> None:
    strange = os.fsdecode(b"/d/\xff\xfe\n\t\\n \xc3\xa9'\".jpg")
    loader, listed = Loader(9), _list(tmp_path, 1.0)
    loader.bad |= {strange: "not\nan image", "/d/\\n": "torn", "/d/\n": "torn"}
    listed.open(loader, 4)
    expected = [(strange, "not\nan image", 4), ("/d/\\n", "torn", 4), ("/d/\n", "torn", 4)]
    assert _listed(tmp_path) == expected
    again = _list(tmp_path, 1.0, after=4)
    again.open(loader, 4)
    assert _listed(tmp_path) == expected


def test_goes_on_from_a_checkpoint_with_what_was_known_there(tmp_path: Path) -> None:
    loader, listed, positions = Loader(9), _list(tmp_path, 1.0), []
    listed.open(loader, 0)
    for step in (5, 10, 12):
        loader.bad[f"{step}.jpg"] = "torn"
        listed.check(step)
        positions.append(Log(tmp_path).position())
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "unreadable", "ima')
    Log(tmp_path).rewind(positions[1])
    goes_on = _list(tmp_path, 1.0, after=10)
    assert "2 images could not be read" in goes_on.summary()[0]
    assert _listed(tmp_path) == [("5.jpg", "torn", 5), ("10.jpg", "torn", 10)]


def test_a_run_that_begins_anew_does_not_count_what_an_earlier_one_met(tmp_path: Path) -> None:
    loader, first = Loader(9), _list(tmp_path, 1.0)
    loader.bad["a.jpg"] = "torn"
    first.open(loader, 0)
    assert _list(tmp_path, 1.0).summary() == ()
    Log(tmp_path).write(event="start", after=0)
    assert _list(tmp_path, 1.0, after=3).summary() == ()


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
    output = str(caught.value)
    assert "more than --max-bad 0.01 allows" in output
    assert "/data/0.jpg (the file is empty)" in output
    assert "and 6 more" in output
    assert str(tmp_path / FILE) in output
    assert "raise --max-bad" in output
    assert len(_listed(tmp_path)) == 11


def test_a_loader_may_know_nothing_of_it(tmp_path: Path) -> None:
    listed = _list(tmp_path, 0.0)
    listed.open(object(), 0)
    listed.check(1)
    assert _listed(tmp_path) == []


def test_a_run_lists_them_and_goes_on(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run", f"{QUICK} {BROKEN} --max-bad 0.2")
    assert toy.code() == 0, toy.output()
    listed = _listed(tmp_path / "run")
    assert sorted(name for name, _, _ in listed) == ["picture 20", "picture 3", "picture 7"]
    assert {reason for _, reason, _ in listed} == {"torn"}
    assert [step for _, _, step in listed] == sorted(step for _, _, step in listed)
    assert listed[-1][2] <= 6
    assert "3 images could not be read" in toy.output()


def test_after_mending_the_run_ends_as_if_nothing_had_been_broken(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    toy = Toy(out, f"{QUICK} {BROKEN} --max-bad 0 --save-every 1")
    assert toy.code() == 1
    assert "unreadable images, in a data set of 24" in toy.output()
    assert "Traceback" not in toy.output()
    assert 0 < state(out)["step"] < _listed(out)[0][2]
    mended = Toy(out, f"{QUICK} --max-bad 0")
    assert mended.code() == 0, mended.output()
    assert _listed(out) == []
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
    assert toy.output().count("3 unreadable images, in a data set of 24") == 1
    assert "Traceback" not in toy.output()
    assert len(_listed(out)) == 3
    assert not list(out.glob("checkpoints/step*"))
    more = Toy(out, f"{flags} {BROKEN} --max-bad 0.2", world=2)
    assert more.code() == 0, more.output()
    assert len(_listed(out)) == 2 * 3  # The log keeps what the first run met.
    assert "3 images could not be read" in more.output()
    assert state(out)["step"] == 18


def test_killed_and_continued_it_lists_what_a_run_never_killed_does(tmp_path: Path) -> None:
    flags = f"{QUICK} {BROKEN} --max-bad 0.2"
    finished(tmp_path / "whole", flags)
    finished(tmp_path / "parts", f"{flags} --max-steps 3")
    finished(tmp_path / "parts", flags)
    assert _listed(tmp_path / "parts") == _listed(tmp_path / "whole")
