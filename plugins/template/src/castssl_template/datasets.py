"""A folder of images and a list of their classes, as a data set."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from castssl.datasets import DataError, DataSet, Files, LabelTree, Listing, NoSplit, read_text


class TemplateDataSet(DataSet):
    """A folder of images with ``train.txt`` and ``val.txt``, with lines ``name.jpg class``."""

    location = "/folder"
    splits = ("train", "val")

    def open(self, location: str, split: str) -> Listing:
        """The images that the list of a split names; the classes are those of ``train.txt``."""
        root = Path(location).expanduser()
        train, listed = _lines(root / "train.txt"), root / f"{split}.txt"
        if not listed.exists():
            raise NoSplit(f"{root} has no {split} split: there is no {listed.name}")
        rows = _lines(listed)
        tree = LabelTree.from_paths([(label,) for _, label in train])
        targets = tree.number([(label,) for _, label in rows])
        return Listing(Files(root, [name for name, _ in rows]), targets, tree)

    def example(self, folder: Path) -> str:
        """Two classes of two images, for ``castssl check``."""
        for split in ("train", "val"):
            lines = []
            for number in range(4):
                name = f"{split}-{number}.png"
                Image.new("RGB", (32, 32), (60 * number, 120, 0)).save(folder / name)
                lines.append(f"{name} {'dark' if number < 2 else 'light'}\n")
            (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
        return str(folder)


def _lines(path: Path) -> list[tuple[str, str]]:
    """Name and class of each image in a list.

    Raises:
        DataError: if there is no such file, it is empty, or a line is not as described.
    """
    rows = []
    for line in read_text(path).splitlines():
        name, _, label = line.rpartition(" ")
        if not name or not label:
            raise DataError(f"{path}: got the line {line!r}, expected an image and its class")
        rows.append((name, label))
    if not rows:
        raise DataError(f"{path} names no image")
    return rows
