"""``maps``: label maps of any other method, from files."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from castssl.contracts import LabelMaps
from castssl.datasets.folder import Files
from castssl.datasets.label_maps import open_labels, to_classes
from castssl.errors import ConfigError, DataError
from castssl.segmenter import Segmenter, check_image, consecutive
from castssl.system_errors import explain

ENDINGS = (".npy", ".png")
VALUES = {value: value for value in range(2**16)}
"""Every value of a PNG file of 8 or 16 bits is a segment."""
Levels = NDArray[np.integer]


class Maps(Segmenter):
    """Label maps of any other method, from files: ``maps:FOLDER``.

    Of an image with the name ``cat/1.jpg`` those files are read that come first in this list; the same names
    without ``cat/`` come after it::

        FOLDER/cat/1.npy                     integers (L, H, W), fine to coarse, or (H, W)
        FOLDER/cat/1.png                     one level, of 8 or 16 bits
        FOLDER/cat/1-stage0.png, ...         a level each, as castssl segment writes them
        FOLDER/level1/cat/1.npy (.png), ...  a level each, fine to coarse, as the released code of CAST writes
                                             them; or stage0, ...

    A label map has the size of its image, and each of its values is a segment.  All images have as many
    levels as the first one that is read, and no two images have the same file.

    Args:
        source: FOLDER.

    Raises:
        ConfigError: if there is no such folder.
    """

    def __init__(self, source: str) -> None:
        self.folder = Path(source).expanduser()
        if not source or not self.folder.is_dir():
            raise ConfigError(f"expected maps:FOLDER, a folder of label maps, got {source or 'no folder'!r}")
        numbered = [
            (int(match[1]), path)
            for path in self.folder.iterdir()
            if path.is_dir() and (match := re.fullmatch(r"(?:level|stage)[-_]?(\d+)", path.name))
        ]
        self.levels = [path for _, path in sorted(numbered)]
        self._first: tuple[Path, int] | None = None
        """A file of the first image, and the number of its levels."""
        self._images: dict[Path, str] = {}
        """The image of each file that was read."""

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (L, H, W); DataError if the files of ``name`` do not fit it."""
        check_image(image)
        paths = self.find(name)
        levels = np.concatenate([_read(path, image.shape[:2]) for path in paths])
        first, count = self._first = self._first or (paths[0], len(levels))
        if len(levels) != count:
            raise DataError(
                f"the label maps from {paths[0]} on have {len(levels)} levels and those from {first} on"
                f" {count}, expected as many for all images; add the missing levels, or use two folders"
            )
        owner = self._images.setdefault(paths[0], name)
        if owner != name:
            raise DataError(
                f"the label maps from {paths[0]} on would be those of two images, {owner!r} and {name!r};"
                " expected a file for each, such as cat/1.npy for cat/1.jpg and dog/1.npy for dog/1.jpg"
            )
        return consecutive(levels)

    def find(self, name: str) -> list[Path]:
        """The files of an image, fine to coarse.

        Raises:
            DataError: naming what was expected, if there are none.
        """
        path = PurePosixPath(name).with_suffix("") if PurePosixPath(name).name else PurePosixPath("NAME")
        inside = not path.is_absolute() and ".." not in path.parts
        for stem in [str(path), path.name] if inside else [path.name]:
            if single := _existing(self.folder, stem):
                return [single]
            stages: list[Path] = []
            while (stage := self.folder / f"{stem}-stage{len(stages)}.png").is_file():
                stages.append(stage)
            if stages:
                return stages
            files = [_existing(level, stem) for level in self.levels]
            if any(files):
                missing = [
                    f"{at.name}/{stem}" for at, file in zip(self.levels, files, strict=True) if not file
                ]
                if missing:
                    raise DataError(f"{self.folder} has no label map {', '.join(missing)} (.npy or .png)")
                return [file for file in files if file]
        raise DataError(
            f"{self.folder} has no label maps of the image {name!r}; expected {path}.npy, {path}.png,"
            f" {path}-stage0.png, ..., or level1/{path}.npy or .png, ..."
        )


def _existing(folder: Path, stem: str) -> Path | None:
    """The file of one of :data:`ENDINGS`."""
    return next((path for end in ENDINGS if (path := folder / f"{stem}{end}").is_file()), None)


def _read(path: Path, size: tuple[int, int]) -> Levels:
    """The label maps (L, H, W) of a file."""
    if path.suffix == ".png":
        maps = LabelMaps(Files(path.parent, [path.name]), VALUES)
        return to_classes(open_labels(maps, 0), maps, 0, (size[1], size[0]), 1)[None]
    try:
        # Mapped, so that a header alone cannot ask for memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, dtype = array.shape, array.dtype
    except Exception as error:  # a file of objects, an archive, a broken header
        if explain(error):
            raise  # The fault is not the file's.
        raise DataError(
            f"the label maps {path} cannot be read ({type(error).__name__}: {error}); expected an array of"
            " integers by numpy.save; castssl never unpickles objects"
        ) from error
    if dtype.kind not in "iub":
        raise DataError(f"the label maps {path} hold {dtype}, expected integers, the segment of each pixel")
    if len(shape) not in (2, 3) or shape[-2:] != size or 0 in shape:
        raise DataError(
            f"the label maps {path} have the shape {shape}, expected (L, {size[0]}, {size[1]}) or"
            f" ({size[0]}, {size[1]}) as their image; pair the right files, or resize by nearest neighbor"
        )
    levels: Levels = array.reshape(-1, *size)
    return levels
