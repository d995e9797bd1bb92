"""Superpixels computed once: a folder of the fine superpixels of each image, from which views take theirs.

An entry's name is a hash of its inputs: the image's file, and the method, which is the backend with its
options, its code and the versions of the libraries that it uses.  So no entry is ever out of date, and runs
with other settings share a folder.
"""

from __future__ import annotations

import contextlib
import functools
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
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from castssl.contracts import Superpixels
from castssl.data import superpixel_tree
from castssl.data.superpixel_tree import SuperpixelTree
from castssl.data.views import Augment, CroppedView
from castssl.datasets import decode, depth, jpeg, multichannel, orientation
from castssl.datasets.depth import Range
from castssl.datasets.images import Images
from castssl.datasets.stream import Stream
from castssl.errors import CastError, ConfigError
from castssl.files import PARTIAL, atomic_write, refusal

SHARDS = 4096
"""Sub-folders.  Each may hold an equal share of the limit, so that no process needs the total."""
MODULES = (superpixel_tree, decode, depth, jpeg, orientation, multichannel)
"""Those that decode and merge."""
_STALE = 3600  # Seconds after which a temporary file has lost its writer.

_log = logging.getLogger(__name__)


class Cache:
    """A folder of entries by name, used by any number of processes at once.

    Files are written under a temporary name and renamed: a reader sees a complete entry or none.  When the
    folder is full, its entries stay, and the rest is computed each time: epochs read every entry equally
    often, so removing the oldest would only remove the next ones to be read.

    Args:
        folder: created if it is missing.
        gigabytes: the limit of its size, in 10^9 bytes.

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
        """The file of the entry ``name``, whose first three letters are hexadecimal digits."""
        return self.folder / name[:3] / name

    def read(self, name: str) -> bytes | None:
        """The entry, or None if there is none or it cannot be read."""
        try:
            return self.path(name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, entry: bytes) -> bool:
        """Store an entry: True if it is stored.

        If the disk is full or fails, each process logs one warning and writes no more.
        """
        path = self.path(name)
        if self._full or len(entry) > self.share:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _size(path.parent, besides=path.name) + len(entry) > self.share:
                return False
            _replace(path, entry)
        except (OSError, CastError) as error:
            self._full = True
            text = "cannot write to the superpixel cache %s (%s): missing superpixels are computed each time"
            _log.warning(f"{text} from here on", self.folder, refusal(error))
            return False
        return True

    def describe(self, method: str, described: dict[str, Any]) -> None:
        """Write ``method.json``, which describes the entries of a method to people."""
        with contextlib.suppress(CastError):
            _replace(self.folder / f"{method}.json", json.dumps(described, indent=2).encode())


def _size(shard: Path, besides: str) -> int:
    """Bytes in a sub-folder without one file; removes the temporary files of killed processes."""
    size = 0
    for file in os.scandir(shard):
        with contextlib.suppress(FileNotFoundError):  # Another process has renamed or removed it.
            stat = file.stat()
            if file.name.endswith(PARTIAL) and time.time() - stat.st_mtime > _STALE:
                os.unlink(file.path)
            elif file.name != besides:
                size += stat.st_size
    return size


def _replace(path: Path, entry: bytes) -> None:
    # No flush to the disk: the checksum detects an entry that a power cut has damaged.
    with atomic_write(path, "superpixels", shared=True, sync=False) as temporary:
        temporary.write_bytes(entry)


class CachedSuperpixels:
    """The superpixels of views, cropped from those of the whole image, which are computed once.

    They differ from those that the backend makes of a view: they do not see its changes of color, and they
    are merged from finer ones, see :mod:`castssl.data.superpixel_tree`.

    Args:
        superpixels: the backend, which runs in workers.
        cache: stores the trees.
    """

    def __init__(self, superpixels: Superpixels, cache: Cache) -> None:
        self.superpixels = superpixels
        self.cache = cache
        described = method(superpixels)
        self.method = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
        cache.describe(self.method, {"superpixels": repr(superpixels), **described})

    def name(self, file: bytes, declared: Range | None = None, channels: int = 3) -> str:
        """The name of an image's entry, given its file, its declared range and its channels."""
        content = hashlib.sha256(file)
        if declared is not None:
            content.update(str(tuple(declared)).encode())
        if channels not in multichannel.RGB:
            content.update(f"{channels} channels".encode())
        return f"{content.hexdigest()[:40]}-{self.method}"

    def tree(self, file: bytes, declared: Range | None = None, channels: int = 3) -> SuperpixelTree:
        """The fine superpixels of an image, by its file, range and channels; from the cache if there.

        A damaged entry is computed and written again.
        """
        name = self.name(file, declared, channels)
        entry = self.cache.read(name)
        if entry is not None:
            with contextlib.suppress(ValueError):
                return superpixel_tree.unpack(entry)
        image = decode.decode(io.BytesIO(file), declared, channels)
        image = multichannel.to_rgb_image(image, self.superpixels.channels)
        tree = superpixel_tree.partition(image, self.superpixels)
        self.cache.write(name, superpixel_tree.pack(tree))
        return tree

    def __call__(
        self, images: Images, index: int, crops: Sequence[CroppedView]
    ) -> list[tuple[Tensor, Tensor]]:
        """Each view, and its superpixels: int32 (size, size), labels below ``capacity(size, size)``.

        Args:
            images: the data set.
            index: of the image in it.
            crops: the views of the image.
        """
        tree, pairs = self.tree(read_file(images, index), images.declared, images.channels), []
        for view in crops:
            size = view.image.shape[-1]
            most = self.superpixels.capacity(size, size)
            pairs.append((view.image, superpixel_tree.crop(tree, view.box, view.flipped, size, most)))
        return pairs


def cached_superpixels(
    cache: Cache | None, images: Images | Stream, views: Augment, superpixels: Superpixels | None
) -> CachedSuperpixels | None:
    """The superpixels in ``cache``, if there is one.

    Raises:
        ConfigError: if the images are a stream, the superpixels do not run in workers, or the views do more
            than crop and flip, so a map of the image cannot be cropped likewise.
    """
    if cache is None:
        return None
    if superpixels is None or superpixels.runs_on != "worker":
        fault = f"{superpixels!r} does not run in workers, and needs no cache"
    elif isinstance(images, Stream):
        fault = "the data are a stream, whose files are not accessible"
    elif views.bends:
        fault = f"{type(views).__name__} shears, rotates or shifts images, which superpixels cannot follow"
    else:
        return CachedSuperpixels(superpixels, cache)
    raise ConfigError(f"--superpixel-cache does not fit: {fault}; leave the cache out")


def read_file(images: Images, index: int) -> bytes:
    """The encoded file of an image."""
    with images.source.open(int(images.rows[index])) as file:
        return file.read()


def method(superpixels: Superpixels) -> dict[str, Any]:
    """All that an image's fine superpixels depend on, besides the image: readable, and plain JSON.

    The backend's state is its pickle, as it is sent to a worker: a ``repr`` may leave options out, or hold an
    address.  The code is that of its module, of the modules beside it that this one uses, and of those that
    decode and merge; the libraries are those that its module uses, and those that decode and merge.
    """
    module = sys.modules[type(superpixels).__module__]
    versions = {"castssl": version("castssl"), **_versions(module), **_versions(superpixel_tree)}
    return {
        "backend": f"{type(superpixels).__module__}.{type(superpixels).__qualname__}",
        "state": hashlib.sha256(pickle.dumps(superpixels)).hexdigest(),
        "code": [_code(used) for used in (module, *_beside(module), *MODULES)],
        "versions": dict(sorted(versions.items())),
    }


def _beside(module: ModuleType) -> list[ModuleType]:
    """The modules of the same package that a module's functions and classes come from."""
    package = module.__name__.rpartition(".")[0]
    homes = {inspect.getmodule(value) for _, value in inspect.getmembers(module)} - {module, None}
    named = {home.__name__: home for home in homes if home is not None}
    return [home for name, home in sorted(named.items()) if package and name.rpartition(".")[0] == package]


def _versions(module: ModuleType) -> dict[str, str]:
    """The versions of the packages that a module's names come from."""
    homes = [inspect.getmodule(value) for _, value in inspect.getmembers(module)]
    packages = {home.__name__.partition(".")[0] for home in homes if home is not None}
    owners = _owners()
    found: dict[str, str] = {}
    for name in packages - sys.stdlib_module_names:
        # Python 3.10 has no owner for many packages; most are named as their distribution.
        with contextlib.suppress(PackageNotFoundError):
            found[name] = ", ".join(map(version, sorted({*owners.get(name, [name])})))
    return found


@functools.cache
def _owners() -> Mapping[str, Sequence[str]]:
    """The distributions that install each package; reading all metadata takes most of a second."""
    return packages_distributions()


def _code(module: ModuleType) -> str:
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError):
        return ""  # Compiled, or typed into a session.
