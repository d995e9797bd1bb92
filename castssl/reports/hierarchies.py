"""The segments that runs found in a few images at the moments of training whose weights they kept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from castssl import step_files
from castssl.checkpoints.load import load_encoder
from castssl.contracts import Encoder
from castssl.data.splits import open_splits
from castssl.datasets.images import Images
from castssl.errors import CastError, DataError
from castssl.inference.look import of_model
from castssl.models.create import create
from castssl.modes import kept_random_state
from castssl.reports.gather import Run
from castssl.visualization.page import Parts, Shown
from castssl.visualization.page.report import Hierarchies, Moment
from castssl.visualization.photographs import photographs

WEIGHTS = "encoder.safetensors"
MODELS = 3
"""Runs side by side, at most."""
KEPT = 6
"""Checkpoints of a run, at most, evenly spread."""
HELD_OUT = 3
"""Held-out images of the first run."""
LARGEST = 448
"""Pixels of the longer side of an image in the page."""
REMOTE = re.compile(r"(hf\w*|tfds|wds)[:/]")
"""Data that may lie on another machine: a report downloads nothing."""
NEW = "new weights"

Progress = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


class Source(NamedTuple):
    """Weights of a run."""

    step: int
    name: str
    path: Path
    build: Callable[[], Encoder]


def sources(run: Run) -> tuple[list[Source], list[str]]:
    """The moments of a run whose weights are there, by step, and remarks on what is missing."""
    folder, remarks = run.summary.folder, []
    final = folder / WEIGHTS
    kept = _kept(folder)
    # A run that went on after its end has the file of its earlier end until it ends again.
    ended = final.is_file() and (run.summary.state == "finished" or not kept)
    if ended and kept and kept[-1][0] >= run.summary.step:
        kept = kept[:-1]  # The same weights.
    found = [Source(step, f"step {step:,}", path, partial(load_encoder, path)) for step, path in kept]
    if ended:
        found.append(Source(run.summary.step, "trained", final, partial(load_encoder, final)))
    if not found:
        remarks.append(f"{run.name}: no weights are kept yet")
    elif not (run.summary.settings.get("init") or run.summary.settings.get("weights")):
        last = found[-1]
        found.insert(0, Source(0, NEW, last.path, partial(_new, run, last.build)))
    return found, remarks


def _kept(folder: Path) -> list[tuple[int, Path]]:
    every = sorted(
        (int(path.name.partition("-")[2].partition(".")[0]), path)
        for path in step_files.every(folder / step_files.FOLDER)
    )
    count = min(len(every), KEPT)
    return [every[round(i * (len(every) - 1) / max(1, count - 1))] for i in range(count)]


def _new(run: Run, trained: Callable[[], Encoder]) -> Encoder:
    """The encoder with the weights that the run's seed gives it."""
    seed = run.summary.settings.get("seed")
    # A config may come from a stranger: that of an encoder was compared with its tensors.
    config = trained().config
    with kept_random_state():
        torch.manual_seed(seed if isinstance(seed, int) and 0 <= seed < 2**32 else 0)
        return create(config).eval()


def images(runs: Sequence[Run], *, held_out: bool = True) -> tuple[list[tuple[str, Image.Image]], list[str]]:
    """What is segmented, and remarks on it: where it was read, and what is missing.

    Args:
        runs: of which the first one's settings name the data of held-out images.
        held_out: False leaves these out, so that the packaged photographs are all.
    """
    if not held_out:
        return photographs(), []
    try:
        data, found = _held_out(runs[0])
        shown = [*found]
    except CastError as error:
        return photographs(), [f"{runs[0].name}: held-out images are not shown: {error}"]
    # The settings may come from a stranger, and the page may go to others.
    remark = (
        f"{runs[0].name}: the held-out images are {len(shown)} of {data}, which its settings name;"
        " --no-held-out leaves them out"
    )
    return [*shown, *photographs()], [remark]


def _held_out(run: Run) -> tuple[str, Iterator[tuple[str, Image.Image]]]:
    """The name of the data, and some of its images."""
    settings = run.summary.settings
    data, val = settings.get("data"), settings.get("val")
    names = [name for name in (data, val) if isinstance(name, str)]
    if not isinstance(data, str) or not data:
        raise DataError("its settings name no data")
    if any(REMOTE.match(name) for name in names):
        raise DataError("its data may lie on another machine; give images with --images")
    share, seed, subset = settings.get("val_share"), settings.get("seed"), settings.get("subset")
    _, held_out, _ = open_splits(
        data,
        val=val if isinstance(val, str) else None,
        share=share if isinstance(share, float) else 0.0,
        seed=seed if isinstance(seed, int) else 0,
        subset=subset if isinstance(subset, str) else None,
        streams=False,
    )
    if not isinstance(held_out, Images):
        raise DataError("its data has no held-out images by index")
    count = min(HELD_OUT, len(held_out))
    chosen = [i * len(held_out) // count for i in range(count)]
    named = val if isinstance(val, str) and val else data
    return named, ((f"held-out image {i}", held_out.fetch(i).image) for i in chosen)


def hierarchies(
    runs: Sequence[Run],
    photos: Sequence[tuple[str, Image.Image]],
    progress: Progress,
) -> tuple[Hierarchies | None, list[str]]:
    """The content of the viewer, and remarks on what is missing in it.

    Args:
        runs: of which the first :data:`MODELS` with weights are shown.
        photos: name and image.
        progress: shows how many segmentations are done, as :func:`castssl.commands.arguments.progress`.
    """
    remarks: list[str] = []
    chosen: list[tuple[Run, list[Source]]] = []
    for run in runs:
        if len(chosen) == MODELS:
            remarks.append(f"of {len(runs)} runs the first {MODELS} with weights are shown")
            break
        found, missing = sources(run)
        remarks += missing
        if found:
            chosen.append((run, found))
    small = [(name, _small(photo)) for name, photo in photos]
    shown, parts = _computed(chosen, [photo for _, photo in small], progress, remarks)
    if not shown or not small:
        return None, remarks
    content = [Shown(name, photo, own) for (name, photo), own in zip(small, parts, strict=True)]
    return Hierarchies([run.short for run, _ in shown], _moments(shown), content), remarks


def _computed(
    chosen: Sequence[tuple[Run, Sequence[Source]]],
    photos: Sequence[Image.Image],
    progress: Progress,
    remarks: list[str],
) -> tuple[list[tuple[Run, list[Source]]], list[list[Parts]]]:
    """The weights that could be read, and of each image the segments of all of these."""
    parts: list[list[Parts]] = [[] for _ in photos]
    shown: list[tuple[Run, list[Source]]] = []
    done, total = 0, len(photos) * sum(len(found) for _, found in chosen)
    with progress(total, "segmentations") as report:
        report(0)
        for run, found in chosen:
            kept = []
            for source, own in _of_run(run, found, photos, remarks):
                if own is not None:
                    kept.append(source)
                    for one, segments in zip(parts, own, strict=True):
                        one.append(segments)
                done += len(photos)
                report(min(done, total))
            shown += [(run, kept)] if kept else []
    return shown, parts


def _of_run(
    run: Run, found: Sequence[Source], photos: Sequence[Image.Image], remarks: list[str]
) -> Iterator[tuple[Source, list[Parts] | None]]:
    """The weights of a run by step, each with the segments of all images; None where these are not shown.

    A run that goes on replaces its checkpoints: in place of those that are gone, its later ones are taken.
    """
    left = list(found)
    while left:
        source = left.pop(0)
        try:
            yield source, _segments(source, photos)
        except CastError as error:
            if os.path.lexists(source.path):
                remarks.append(f"{run.name}, {source.name}: no segments are shown: {error}")
                yield source, None
            else:
                left = [other for other in sources(run)[0] if (other.step, other.name) >= source[:2]]


def _segments(source: Source, photos: Sequence[Image.Image]) -> list[Parts]:
    encoder = source.build()
    for name, tensor in encoder.state_dict().items():
        if not tensor.isfinite().all():
            raise DataError(f"the weights {name} are not finite")
    find = of_model(encoder, image_size=encoder.config.image_size)
    return [find(photo, "") for photo in photos]


def _small(photo: Image.Image) -> Image.Image:
    if not isinstance(photo, Image.Image):
        raise DataError("an image of other channels than RGB cannot be shown")
    small = photo.convert("RGB")
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return small


def _moments(shown: Sequence[tuple[Run, Sequence[Source]]]) -> list[Moment]:
    """The moments of all runs by step, at each of which a run is at its own latest one."""
    firsts = [sum(len(found) for _, found in shown[:place]) for place in range(len(shown))]
    ends = [(source.step, source.name) for _, found in shown for source in found]
    moments: list[Moment] = []
    for step, name in sorted(set(ends), key=lambda end: (end[0], end[1] != NEW)):
        places = []
        for _, found in shown:
            before = [i for i, source in enumerate(found) if source.step <= step]
            places.append(before[-1] if before and name != NEW else 0)
        labels = [found[at].name for (_, found), at in zip(shown, places, strict=True)]
        models = [first + at for first, at in zip(firsts, places, strict=True)]
        one = labels[0] if len(set(labels)) == 1 else f"step {step:,}"
        title = NEW if name == NEW else one
        if not moments or moments[-1].models != models:
            moments.append(Moment(title, models, labels))
    return moments
