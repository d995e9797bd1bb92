"""The features of all images of a data set in one file, computed in parts that outlive the process.

Beside the file OUT, the folder OUT.parts holds what is computed so far: ``settings.json`` and one file for
consecutive images.  The file OUT is written at the end, from the parts, and the folder is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from castssl.contracts import Encoder, Superpixels
from castssl.data.evaluation_views import CenterView
from castssl.data.inventory import inventory
from castssl.data.normalize import to_views
from castssl.data.rng import seeded
from castssl.data.workers import start_worker
from castssl.datasets.images import Images
from castssl.datasets.unreadable import why
from castssl.errors import ConfigError, DataError
from castssl.feed import Unreadable
from castssl.files import atomic_write, remove, translate_os_error, write_text
from castssl.inference.features import read_features
from castssl.installer import install
from castssl.registry import build_superpixels
from castssl.run_lock import LOCK, hold, of_castssl
from castssl.superpixel_labels import partition
from castssl.types import Batch, RawView

MARK = "castssl features"
"""The key of the settings by which a file of this module is known."""
SECONDS, ROWS = 30.0, 4096
"""A part is written after so long, or with so many images."""
Settings = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


class Counts(NamedTuple):
    """What a run of :func:`extract` did."""

    images: int
    """In the data set."""
    unreadable: dict[str, str]
    """The reason by path."""
    finished: bool
    """False if it was interrupted; the same call continues."""


class Job(NamedTuple):
    """What is computed: of which images, by which encoder.

    Attributes:
        images: with or without labels.
        encoder: where it runs.
        superpixels: the spec of the backend.
        center: the view of each image.
        stages: the numbers of the stages whose segments are kept, from 0, the finest.
        batch_size: images at a time.
        workers: processes that decode images and compute superpixels; 0: this one.
    """

    images: Images
    encoder: Encoder
    superpixels: str
    center: CenterView
    stages: tuple[int, ...]
    batch_size: int = 64
    workers: int = 0

    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON has it."""
        digest = hashlib.sha256()
        for name, value in sorted(self.encoder.state_dict().items()):
            values = value.detach().cpu().contiguous().flatten()
            digest.update(name.encode() + values.view(torch.uint8).numpy().tobytes())
        found = inventory(self.images)
        shown = {"image_size": self.center.size, "superpixels": self.superpixels, "stages": list(self.stages)}
        model = {"model": self.encoder.config.name, "weights": digest.hexdigest()[:16]}
        data = {"images": found["images"], "order": found["order"], "classes": self.images.tree.names}
        labels = hashlib.sha256(self.images.targets.long().contiguous().numpy().tobytes())
        data |= {"range": self.images.declared, "labels": labels.hexdigest()[:16]}
        return json.loads(json.dumps({MARK: 1, **model, **shown, **data}))  # type: ignore[no-any-return]


def extract(
    job: Job, out: Path, *, overwrite: bool = False, report: Callable[[int], None] = lambda done: None
) -> Counts:
    """Write the features of all images to a file; images that were computed before an interruption are kept.

    Ctrl-C and SIGTERM write what is computed, and end the call.  After another end, at most the images of the
    last half minute are computed again.

    Args:
        job: what to compute.
        out: ends in ``.npz`` or ``.parquet``, which needs pyarrow.
        overwrite: replace any file, and start anew.
        report: called with the number of images that are done.

    Raises:
        ConfigError: if there are no images, ``out`` has another ending or is a folder, or pyarrow is
            missing; without ``overwrite`` if
            ``out`` is a file that this function did not write, or has other settings.
        CastError: if the system refuses to write.
    """
    if not len(job.images):
        raise ConfigError("got no images, expected one or more")
    parts, settings = out.with_name(f"{out.name}.parts"), job.settings()
    if check_output(out, settings, overwrite=overwrite):
        if MARK in _stored_parts(parts):  # Left by a process that was killed after its last file.
            remove(parts)
        return Counts(len(job.images), dict(stored_settings(out).get("unreadable", {})), True)
    _check_parts(parts, settings, overwrite=overwrite)
    with _alone(parts):
        if check_output(out, settings, overwrite=overwrite):  # Another process wrote it since.
            remove(parts)
            return Counts(len(job.images), dict(stored_settings(out).get("unreadable", {})), True)
        _check_parts(parts, settings, overwrite=overwrite)  # Also this may be another's since.
        for path in _parts(parts) if overwrite else []:
            path.unlink()
        write_text(parts / "settings.json", json.dumps(settings, indent=1), "features")
        finished = _compute(job, parts, report)
        written = _parts(parts)
        unreadable = {name: reason for path in written for name, reason in _read(path, "unreadable").tolist()}
        if finished:
            _combine(job, written, out, {**settings, "unreadable": unreadable})
            remove(parts)
        return Counts(len(job.images), unreadable, finished)


@contextmanager
def _alone(parts: Path) -> Iterator[None]:
    """Hold the folder of parts, which is made.

    Raises:
        ConfigError: if another process writes in it.
    """
    with translate_os_error(parts, "features"):
        parts.mkdir(parents=True, exist_ok=True)
        lock = hold(parts)
    with lock:
        if not (parts / LOCK).exists():
            raise ConfigError(f"another process has just finished in {parts}; run the same command again")
        yield


def check_output(out: Path, settings: Settings, *, overwrite: bool) -> bool:
    """True if ``out`` is complete with these settings; False if it is to be written.

    Raises:
        ConfigError: as :func:`extract`.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise ConfigError(f"features go to a file that ends in .npz or .parquet, got {out}")
    if out.suffix == ".parquet":
        _pyarrow()
    if not os.path.lexists(out):  # A link to nothing is there, too.
        return False
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give --out a file in it")
    stored = stored_settings(out)
    if not stored and not overwrite:
        raise ConfigError(
            f"{out} exists, and castssl features did not write it; choose another --out, or give --overwrite"
        )
    differing = _differing(stored, settings)
    if differing and not overwrite:
        raise ConfigError(f"{out} has other {differing}; choose another --out, or give --overwrite")
    return not differing and not overwrite


def stored_settings(path: Path) -> dict[str, Any]:
    """The settings in a file of :func:`extract`, with ``unreadable``; empty if it is another file."""
    try:
        if path.suffix == ".parquet":
            metadata = _pyarrow().parquet.read_schema(path).metadata or {}
            found = json.loads(metadata.get(MARK.encode(), b"{}"))
        else:
            with np.load(path) as arrays:
                found = json.loads(str(arrays["about"]))
    except ConfigError:
        raise
    except Exception:  # any file may lie there
        return {}
    return found if isinstance(found, dict) and MARK in found else {}


def _check_parts(parts: Path, settings: Settings, *, overwrite: bool) -> None:
    """Refuse a folder of other parts; with ``overwrite`` only one that this module did not make."""
    stored = _stored_parts(parts)
    if os.path.lexists(parts) and MARK not in stored and not _only_locked(parts):
        raise ConfigError(f"castssl features did not make {parts} and leaves it; choose another --out")
    if not overwrite and stored and (differing := _differing(stored, settings)):
        raise ConfigError(
            f"{parts} holds features of an interrupted call with other {differing}; choose another --out, or"
            " start anew with --overwrite"
        )


def _only_locked(parts: Path) -> bool:
    """True for a folder with nothing but castssl's lock, as a process leaves it that is killed at once."""
    return parts.is_dir() and set(os.listdir(parts)) <= ({LOCK} if of_castssl(parts) else set())


def _stored_parts(parts: Path) -> dict[str, Any]:
    """The settings of a folder of parts; empty if it is another folder, or none."""
    try:
        found = json.loads((parts / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _differing(stored: Settings, settings: Settings) -> str:
    # Files of earlier versions have no digest of the labels.
    known = [name for name in settings if name in stored or name != "labels"]
    return ", ".join(name for name in known if stored.get(name) != settings[name])


class _Sample(NamedTuple):
    image: Tensor
    segments: Tensor


class _Readable(Dataset[_Sample | Unreadable]):
    """The center view and superpixels of each image, or why it cannot be read; no other image replaces it."""

    def __init__(self, job: Job, first: int) -> None:
        self._images, self._center, self._first = job.images, job.center, first
        backend = build_superpixels(job.encoder.config, job.superpixels)
        self._superpixels = backend if backend.runs_on == "worker" else None

    def __len__(self) -> int:
        return len(self._images) - self._first

    def __getitem__(self, index: int) -> _Sample | Unreadable:
        position = index + self._first
        try:
            image = self._images.take([position]).fetch(0).image
        except DataError as error:
            if not isinstance(error.__cause__, Exception):
                raise
            return Unreadable(self._images.name(position), why(error.__cause__))
        with seeded(0, 0, position):
            shown = self._center(image)[0]
            if self._superpixels is None:
                return _Sample(shown, torch.empty((0, 0), dtype=torch.int32))
            return _Sample(shown, partition(self._superpixels, shown[None])[0])


def _compute(job: Job, parts: Path, report: Callable[[int], None]) -> bool:
    """Write the parts that are missing; False if it was interrupted."""
    device = next(job.encoder.parameters()).device
    backend = build_superpixels(job.encoder.config, job.superpixels)
    done = _done(parts, len(job.images))
    report(done)
    if done == len(job.images):
        return True
    options: dict[str, Any] = {"num_workers": job.workers, "worker_init_fn": start_worker, "collate_fn": list}
    loader = DataLoader(_Readable(job, done), job.batch_size, **options)
    part = _Part(parts, done)
    try:
        with _interrupts():
            for samples in loader:
                faults = [sample for sample in samples if isinstance(sample, Unreadable)]
                part.add(_rows(job, samples, backend, device), faults, len(samples))
                report(part.stop)
                if part.due:
                    part.write()
    except KeyboardInterrupt:
        part.write()
        return part.stop == len(job.images)
    part.write()
    return True


def _rows(
    job: Job, samples: Sequence[_Sample | Unreadable], backend: Superpixels, device: torch.device
) -> dict[str, NDArray[Any]]:
    """The features of the readable images of a batch, with ``readable``, bool for each image."""
    readable = [sample for sample in samples if isinstance(sample, _Sample)]
    rows: dict[str, NDArray[Any]] = {"readable": np.array([isinstance(s, _Sample) for s in samples])}
    if not readable:
        return rows
    images, segments = (torch.stack(list(column)) for column in zip(*readable, strict=True))
    raw = Batch([RawView(images, segments)], torch.empty(len(images), 0, dtype=torch.int64))
    found = read_features(job.encoder, to_views(raw, backend, device).views[0])
    rows["image"] = found.image.numpy()
    for stage in job.stages:
        rows[f"segments{stage}"] = found.segments[stage].numpy()
        rows[f"mass{stage}"] = found.mass[stage].numpy()
    return rows


class _Part:
    """The images since the last part was written."""

    def __init__(self, folder: Path, start: int) -> None:
        self._folder, self._start, self.stop = folder, start, start
        self._batches: list[tuple[Arrays, list[Unreadable], int]] = []
        self._since = time.monotonic()

    def add(self, rows: Arrays, faults: list[Unreadable], count: int) -> None:
        """Keep a batch of ``count`` images."""
        self._batches.append((rows, faults, count))  # One step, so that Ctrl-C leaves all of it or nothing.
        self.stop = self._start + sum(count for *_, count in self._batches)

    @property
    def due(self) -> bool:
        """True if the part has to be written now."""
        return time.monotonic() - self._since >= SECONDS or self.stop - self._start >= ROWS

    def write(self) -> None:
        """Write the part if it has images, and begin the next one."""
        self.stop = self._start + sum(count for *_, count in self._batches)
        if self.stop > self._start:
            arrays: dict[str, NDArray[Any]] = {}
            for name in dict.fromkeys(name for rows, *_ in self._batches for name in rows):
                arrays[name] = np.concatenate([rows[name] for rows, *_ in self._batches if name in rows])
            faults = [fault for _, faults, _ in self._batches for fault in faults]
            arrays["unreadable"] = np.array([tuple(fault) for fault in faults], dtype=np.str_).reshape(-1, 2)
            path = self._folder / f"{self._start:09}-{self.stop:09}.npz"
            with atomic_write(path, "features") as aside, open(aside, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        self._start, self._batches, self._since = self.stop, [], time.monotonic()


def _parts(folder: Path) -> list[Path]:
    """The parts in the order of their images."""
    return sorted(folder.glob("[0-9]*-[0-9]*.npz"))


def _done(folder: Path, images: int) -> int:
    """How many images the parts have.

    Raises:
        DataError: if the parts do not follow each other.
    """
    done = 0
    for part in _parts(folder):
        start, stop = map(int, part.stem.split("-"))
        if start != done or not start < stop <= images:
            raise DataError(
                f"{part} does not follow the {done} images before it, of {images}: two calls wrote into one"
                " folder; start anew with --overwrite"
            )
        done = stop
    return done


def _read(part: Path, name: str) -> NDArray[Any]:
    with np.load(part) as arrays:
        found: NDArray[Any] = arrays[name]
        return found


def _combine(job: Job, parts: Sequence[Path], out: Path, settings: Settings) -> None:
    """Write the file from the parts, one part in memory at a time."""
    readable = np.concatenate([_read(part, "readable") for part in parts])
    rows = np.flatnonzero(readable)
    names = [job.images.name(int(row)) for row in rows]
    labels = job.images.targets[torch.from_numpy(rows)].long().numpy()
    holding = [part for part in parts if _read(part, "readable").any()]
    if not holding:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in [*settings["unreadable"].items()][:5])
        raise DataError(f"none of {len(readable)} images can be read: {reasons}; check the files")
    write = _write_parquet if out.suffix == ".parquet" else _write_npz
    with atomic_write(out, "features") as aside:
        write(aside, holding, np.array(names), labels, json.dumps(settings))


def _keys(part: Path) -> list[str]:
    with np.load(part) as arrays:
        return [name for name in arrays.files if name not in ("readable", "unreadable")]


def _write_npz(
    path: Path, parts: Sequence[Path], names: NDArray[Any], labels: NDArray[Any], about: str
) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as file:
        for name, array in (("paths", names), ("labels", labels), ("about", np.array(about))):
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        for name in _keys(parts[0]):
            shape = (len(names), *_read(parts[0], name).shape[1:])
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    member.write(_read(part, name).astype("<f4").tobytes())


def _write_parquet(
    path: Path, parts: Sequence[Path], names: NDArray[Any], labels: NDArray[Any], about: str
) -> None:
    pa, start = _pyarrow(), 0
    keys = _keys(parts[0])
    shapes = {key: _read(parts[0], key).shape[1:] for key in keys}
    fields = [("path", pa.string()), *((f"label{level}", pa.int64()) for level in range(labels.shape[1]))]
    fields += [(key, pa.list_(pa.float32(), int(np.prod(shape)))) for key, shape in shapes.items()]
    content = json.dumps({**json.loads(about), "shapes": {key: list(shape) for key, shape in shapes.items()}})
    schema = pa.schema(fields, metadata={MARK.encode(): content.encode()})
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            arrays = [_read(part, key) for key in keys]
            rows = slice(start, start := start + len(arrays[0]))
            paths = [name.encode("utf-8", "surrogateescape") for name in names[rows].tolist()]
            columns = [
                pa.array([name.decode("utf-8", "backslashreplace") for name in paths]),
                *(pa.array(column) for column in labels[rows].T),
            ]
            for array in arrays:
                flat = pa.array(array.astype(np.float32).ravel())
                columns.append(pa.FixedSizeListArray.from_arrays(flat, array[0].size))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            f"parquet files need pyarrow: {install('pyarrow')}; or choose a file that ends in .npz"
        ) from error
    return pyarrow


@contextmanager
def _interrupts() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
