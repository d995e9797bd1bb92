"""Superpixels computed once: a folder of the fine superpixels of each picture, from which views take theirs.

An entry's name is made of what it depends on: the picture's file, and the method, which is the backend with
its options, its code and the versions of the libraries that it uses.  So nothing is ever out of date, runs
with other settings share a folder, and whoever finds an entry could have computed the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import logging
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from castssl.contracts import Superpixels
from castssl.data import superpixel_tree
from castssl.data.superpixel_tree import SuperpixelTree
from castssl.data.views import Augment, CroppedView
from castssl.datasets import decode, depth
from castssl.datasets.depth import Range
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.errors import CastError, ConfigError
from castssl.files import PARTIAL, atomic_write, refusal

SHARDS = 4096
"""Sub-folders.  Each may hold an equal share of the bound, so that nobody has to know the whole."""
_STALE = 3600  # seconds after which a file written aside has lost its writer

_log = logging.getLogger(__name__)


class Cache:
    """A folder of entries by name, used by any number of processes at once.

    Files are written aside and renamed: a reader finds a whole entry or none.  When the folder is full, what
    is there stays, and the rest is computed anew each time: epochs read every entry equally often, so
    throwing out the oldest would only throw out what comes next.

    Args:
        folder: made if it is missing.
        gigabytes: how much it may hold, in 10^9 bytes.

    Raises:
        ConfigError: if it cannot be written to.
    """

    def __init__(self, folder: str | Path, gigabytes: float = 100.0) -> None:
        self.folder = Path(folder).expanduser()
        self.share = int(gigabytes * 1e9 / SHARDS)
        self._full = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"--superpixel-cache: cannot write to {self.folder} ({error.strerror}); give a folder that"
                " can be written to, or leave the cache out"
            ) from error

    def path(self, name: str) -> Path:
        """Where the entry ``name`` lies, whose first three letters are hexadecimal digits."""
        return self.folder / name[:3] / name

    def read(self, name: str) -> bytes | None:
        """The entry, or None if there is none or it cannot be read."""
        try:
            return self.path(name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, entry: bytes) -> bool:
        """Keep an entry: True if it is kept.

        If the disk is full or fails, a warning says so once in each process, which then writes no more.
        """
        path = self.path(name)
        if self._full or len(entry) > self.share:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _held(path.parent, besides=path.name) + len(entry) > self.share:
                return False
            _replace(path, entry)
        except (OSError, CastError) as error:
            self._full = True
            _log.warning(
                "cannot write to the superpixel cache %s (%s): superpixels that it lacks are computed each"
                " time from here on",
                self.folder,
                refusal(error),
            )
            return False
        return True

    def describe(self, method: str, described: dict[str, Any]) -> None:
        """Leave ``method.json`` for people who wonder what the entries of a method are."""
        with contextlib.suppress(CastError):
            _replace(self.folder / f"{method}.json", json.dumps(described, indent=2).encode())


def _held(shard: Path, besides: str) -> int:
    """Bytes in a sub-folder without one file; removes what killed processes have left there."""
    held = 0
    for file in os.scandir(shard):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
            found = file.stat()
            if file.name.endswith(PARTIAL) and time.time() - found.st_mtime > _STALE:
                os.unlink(file.path)
            elif file.name != besides:
                held += found.st_size
    return held


def _replace(path: Path, entry: bytes) -> None:
    # An entry that a power cut has torn is noticed by its checksum, and computed again.
    with atomic_write(path, "superpixels", shared=True, sync=False) as aside:
        aside.write_bytes(entry)


class Cached:
    """Views with superpixels that are cut out of those of the whole picture, which are computed once.

    They differ from those that the backend makes of a view: they do not see its jitter, blur and other
    changes of colour, and they are merged from finer ones, see :mod:`castssl.data.superpixel_tree`.

    Args:
        superpixels: what partitions the pictures, in workers.
        cache: where the partitions are kept.
    """

    def __init__(self, superpixels: Superpixels, cache: Cache) -> None:
        self.superpixels = superpixels
        self.cache = cache
        described = method(superpixels)
        self.method = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
        cache.describe(self.method, {"superpixels": repr(superpixels), **described})

    def name(self, file: bytes, declared: Range | None = None) -> str:
        """The name of a picture's entry, given its file and its declared range."""
        content = hashlib.sha256(file)
        if declared is not None:
            content.update(str(tuple(declared)).encode())
        return f"{content.hexdigest()[:40]}-{self.method}"

    def fine(self, file: bytes, declared: Range | None = None) -> SuperpixelTree:
        """The fine superpixels of a picture, given its file and range; from the cache if it has them.

        An entry that is damaged is computed and written again.
        """
        name = self.name(file, declared)
        entry = self.cache.read(name)
        if entry is not None:
            with contextlib.suppress(ValueError):
                return superpixel_tree.unpack(entry)
        made = superpixel_tree.partition(decode.decode(io.BytesIO(file), declared), self.superpixels)
        self.cache.write(name, superpixel_tree.pack(made))
        return made

    def __call__(self, images: Images, at: int, placed: Sequence[CroppedView]) -> list[tuple[Tensor, Tensor]]:
        """Each view, and its superpixels: int32 (size, size), labels below ``capacity(size, size)``.

        Args:
            images: the data set.
            at: which of its images the views show.
            placed: the views.
        """
        whole, found = self.fine(encoded(images, at), images.declared), []
        for view in placed:
            size = view.image.shape[-1]
            most = self.superpixels.capacity(size, size)
            found.append((view.image, superpixel_tree.crop(whole, view.box, view.flipped, size, most)))
        return found


def cached(
    cache: Cache | None, images: Images | Stream, views: Augment, superpixels: Superpixels | None
) -> Cached | None:
    """The superpixels kept in ``cache``, if there is one.

    Raises:
        ConfigError: if the images are a stream, the superpixels do not run in workers, or the views do more
            than cut and flip, so that a map of the picture cannot be cut likewise.
    """
    if cache is None:
        return None
    if superpixels is None or superpixels.runs_on != "worker":
        fault = f"{superpixels!r} does not run in workers, and needs no cache"
    elif isinstance(images, Stream):
        fault = "the data are a stream, whose files are not seen"
    elif getattr(views, "bends", False):
        fault = f"{type(views).__name__} shears, turns or shifts pictures, which superpixels cannot follow"
    else:
        return Cached(superpixels, cache)
    raise ConfigError(f"--superpixel-cache does not fit: {fault}; leave the cache out")


def encoded(images: Images, at: int) -> bytes:
    """The file of an image, as it is."""
    with images.source.open(int(images.rows[at])) as file:
        return file.read()


def method(superpixels: Superpixels) -> dict[str, Any]:
    """All that a picture's fine superpixels depend on, besides the picture: readable, and plain JSON.

    The backend's state is what travels to a worker, its pickle: a ``repr`` may leave options out, or hold an
    address.  The libraries are those that its module uses, and those that decode and merge.
    """
    module = sys.modules[type(superpixels).__module__]
    versions = {"castssl": version("castssl")}
    for used in (module, superpixel_tree):
        versions |= {name: found.__version__ for name, found in _libraries(used)}
    return {
        "backend": f"{type(superpixels).__module__}.{type(superpixels).__qualname__}",
        "state": hashlib.sha256(pickle.dumps(superpixels)).hexdigest(),
        "code": [_code(each) for each in (module, superpixel_tree, decode, depth)],
        "versions": dict(sorted(versions.items())),
    }


def _libraries(module: ModuleType) -> list[tuple[str, Any]]:
    """The packages, with a version, that a module's names come from."""
    homes = {
        getattr(value, "__module__", None) or getattr(value, "__name__", "")
        for value in vars(module).values()
    }
    tops = {str(home).partition(".")[0] for home in homes}
    return [
        (top, sys.modules[top])
        for top in tops
        if isinstance(getattr(sys.modules.get(top), "__version__", 0), str)
    ]


def _code(module: ModuleType) -> str:
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError):
        return ""  # compiled, or typed into a session
