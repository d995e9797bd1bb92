"""Does an exported file compute what its model does?"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.checkpoints.export import Exportable, Run, example, load
from castssl.errors import ContractError
from castssl.modes import evaluating, kept_random_state

TOLERANCE = 1e-4
"""The largest difference of numbers that are to agree, absolute or relative to the largest of them."""
IMAGES = 7
BATCHES = (1, 2, IMAGES)
"""The images are compared in batches of each of these sizes."""
STRAYS = 2
"""How many of the images may differ at one batch size.

Two runtimes round differently.  Where two segments are about equal, rounding decides which one a token
joins, and all that follows in this image is another.  Of the shipped poolings with new weights, no image
differs (tests/slow/test_export.py).  Weights of a training may have more such segments, so two of seven may
differ: at one in a hundred images, three of seven are one export in 30,000.  Ties that another runtime
breaks in another order, and operators that compute something else, change nearly all images.
"""


class Difference(NamedTuple):
    """How far two runs are apart."""

    values: float
    """The largest difference of any number, absolute, or relative to the largest of its output if that is
    above 1."""
    labels: float
    """The largest share, of any stage, of pixels in another segment or of tokens that pass to another."""

    @property
    def agrees(self) -> bool:
        """Whether it is rounding alone."""
        return self.values <= TOLERANCE and self.labels == 0


class Agreement(NamedTuple):
    """What :func:`compare` found."""

    most: Difference
    """Of all images."""
    strays: int
    """How many of :data:`IMAGES` differ, at the batch size where most do."""
    random: bool
    """The model draws random numbers, and its file draws others: nothing can be compared."""

    @property
    def holds(self) -> bool:
        """Whether the file can be taken for the model."""
        return self.random or self.strays <= STRAYS

    def __str__(self) -> str:
        if self.random:
            return "not compared: the model draws random numbers, and the file draws others"
        text = f"numbers within {self.most.values:.1e}, {self.most.labels:.2%} other labels"
        if self.strays:
            text += f" (in {self.strays} of {IMAGES} images, where segments are about equal)"
        return text


def differences(flat: Exportable, run: Run, image: Tensor, segments: Tensor) -> list[Difference]:
    """What a file computes against the module itself, of each image."""
    with evaluating(flat), torch.no_grad(), kept_random_state():
        torch.manual_seed(0)
        expected = flat(image, segments)
        torch.manual_seed(0)
        found = run(image, segments)
    return _apart(found, expected)


def difference(flat: Exportable, path: str | Path, image: Tensor, segments: Tensor) -> Difference:
    """The largest of :func:`differences`.

    Raises:
        DataError, PluginError: as :func:`castssl.checkpoints.export.load` does.
    """
    return _most(differences(flat, load(path), image, segments))


def compare(flat: Exportable, path: str | Path, image_size: int) -> Agreement:
    """An exported file against the module itself, on noise, in batches of several sizes.

    Raises:
        DataError, PluginError: as :func:`castssl.checkpoints.export.load` does.
    """
    with kept_random_state():
        torch.manual_seed(0)
        image, segments = example(flat, image_size, IMAGES)
    run, every, strays = load(path), list[Difference](), 0
    for size in BATCHES:
        parts = zip(image.split(size), segments.split(size), strict=True)
        found = [one for part in parts for one in differences(flat, run, *part)]
        strays = max(strays, sum(not one.agrees for one in found))
        every += found
    return Agreement(_most(every), strays, strays > STRAYS and is_random(flat, image[:1], segments[:1]))


def claim_agrees(found: Agreement, path: Path, *, exact: bool) -> None:
    """Refuse a file that computes something else.

    Args:
        found: from :func:`compare`.
        path: of the file, which stays where it is.
        exact: it is an archive of torch.export, which has torch's own operators.

    Raises:
        ContractError: with what differs.
    """
    if found.holds:
        return
    advice = "" if exact else " --to torch-export writes a file with torch's own operators."
    raise ContractError(
        f"the exported file does not compute what the model does: in {found.strays} of {IMAGES} images of"
        f" noise, numbers differ by up to {found.most.values:.1e}, and {found.most.labels:.2%} of the labels;"
        f" expected numbers within {TOLERANCE:.0e} and equal labels in all images but {STRAYS}. The file is"
        f" kept as {path}, to look at; do not use it.{advice} The usual cause is a pooling that takes any of"
        " equal values, as torch.topk does: castssl check pooling NAME finds it, and"
        " castssl.pooling.arithmetic.highest takes the first of them in each runtime"
    )


def is_random(flat: Exportable, image: Tensor, segments: Tensor) -> bool:
    """Whether a model draws random numbers in evaluation mode, as the pooling ``random`` does."""
    runs = []
    with evaluating(flat), torch.no_grad(), kept_random_state():
        for seed in (1, 2):
            torch.manual_seed(seed)
            runs.append(flat(image, segments))
    return not all(one.agrees for one in _apart(*runs))


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[Difference]:
    count = len(next(iter(expected.values())))
    values, labels = torch.zeros(count), torch.zeros(count)
    for name, value in expected.items():
        rows, others = value.flatten(1), found[name].flatten(1)
        if not value.is_floating_point():
            labels = torch.maximum(labels, (rows != others).float().mean(1))
            continue
        # Scores of what is masked out are infinite in both; what is infinite in one alone stays so.
        far = (rows - others).abs().masked_fill(rows == others, 0).amax(1)
        scale = rows.masked_fill(rows.isinf(), 0).abs().amax(1).clamp(min=1)
        values = torch.maximum(values, far / scale)
    return [Difference(*pair) for pair in zip(values.tolist(), labels.tolist(), strict=True)]


def _most(found: list[Difference]) -> Difference:
    values, labels = zip(*found, strict=True)
    return Difference(max(values), max(labels))
