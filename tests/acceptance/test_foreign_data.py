"""A data set of another distribution: read, described, checked and trained on without a change in castssl."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.datasets.open import open_images
from castssl.errors import NoSplit
from tests.acceptance.conftest import Command
from tests.plugins.packages import Package
from tests.small_runs import NANO

SOURCE = '''
"""Data sets of a stranger."""

from pathlib import Path

from castssl.datasets import DataError, DataSet, Files, LabelTree, Listing, read_text


class Listed(DataSet):
    """A folder with ``labels.txt``: lines ``name.jpg class``."""

    location = "/folder"
    splits = ("train",)

    def open(self, location: str, split: str) -> Listing:
        if split not in self.splits:
            raise DataError(f"listed:{location} has the split train only, not {split}")
        root = Path(location)
        lines = [line.split() for line in read_text(root / "labels.txt").splitlines()]
        tree = LabelTree.from_paths([(label,) for _, label in lines])
        targets = tree.number([(label,) for _, label in lines])
        return Listing(Files(root, [name for name, _ in lines]), targets, tree)
'''
STRANGER = Package(
    "strangers-data", {"datasets": {"listed": "strangers_data:Listed"}}, {"strangers_data.py": SOURCE}
)
FLAGS = [*NANO, *["--batch-size", "4", "--workers", "0", "--repeats", "1", "--max-steps", "2", "--ema", "0"]]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A folder with ``labels.txt``."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(12):
        pixels = random.integers(0, 255, (40, 36, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.jpg")
        lines.append(f"{number}.jpg {'abc'[number % 3]}")
    (tmp_path / "pictures" / "labels.txt").write_text("\n".join(lines))
    return tmp_path / "pictures"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stranger's distribution is installed."""
    folder = STRANGER.write(tmp_path / "site")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_it_is_listed_described_and_checked(site: Path, listed: Path, command: Command) -> None:
    assert "listed strangers-data" in " ".join(command("list", "datasets").out.split())
    described = command("describe", "datasets", "listed").out
    assert "written as listed:/folder\nsplits: train\nread by index\n" in described
    checked = command("check", "datasets", f"listed:{listed}")
    assert checked.code == 0, checked.out
    assert "15 of 15 checks passed" in checked.out
    assert "name your data, as listed:/folder" in command("check", "datasets", "listed").err


def test_it_says_what_is_missing(site: Path, listed: Path) -> None:
    images = open_images(f"listed:{listed}")
    assert (len(images), images.tree.names) == (12, (("a", "b", "c"),))
    with pytest.raises(NoSplit, match="has no val split"):
        open_images(f"listed:{listed}", split="val")


@pytest.mark.recipe
def test_a_recipe_trains_on_it(site: Path, listed: Path, tmp_path: Path, process: Command) -> None:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    flags = (*FLAGS, "--val-share", "0.25", "--out", tmp_path / "run")
    done = process("recipes/deit_in1k.py", "--data", f"listed:{listed}", *flags, PYTHONPATH=path)
    assert done.code == 0, done.out + done.err
    assert "held out 3 of 12 training images" in done.out + done.err
    assert (tmp_path / "run" / "log.jsonl").is_file()
