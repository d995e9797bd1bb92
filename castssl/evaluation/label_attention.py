"""Label attention: how much of what a label attends to is its own object, by masks that no label showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from castssl.contracts import Objective
from castssl.datasets.images import Images
from castssl.errors import ConfigError, DataError
from castssl.evaluation.held_out import Evaluation, Evaluator, Forward, ImageBatch, Subject, indexed, spread
from castssl.metrics.attention_mass import attention_mass
from castssl.types import LabelAttention, View

MASKED = 1024
"""The largest number of images with masks."""


@dataclass(eq=False)
class AttentionOnObject(Evaluator):
    """The share of a label's attention on its own object, beside the share of the view that the object has.

    For each image, each label of the finest level that is present and whose object has pixels in the view
    counts once.  :func:`castssl.metrics.attention_mass.attention_mass` gives its share; S is a stage, 0 the
    finest:

    - ``attention_on_object_S``: the mean share of the label's attention on the label's object.
    - ``attention_of_others_S``: the mean share of the attention of the image's other present labels on the
      same object.  Labels that all attend to whatever stands out have the same value here.
    - ``area_of_object``: the mean share of the view's pixels that are the object's, as of uniform attention.
    - ``attention_gain_S_times``: the first divided by the area.

    The subject's module is an :class:`castssl.contracts.Objective` with ``label_attention``.  The part mask
    of an image is 1 + c on the object of class c of the finest level, as in ``demo-many``.  Nothing is
    measured if labels attend to nothing, an image carries one label only, or there are no part masks.

    Attributes:
        count: how many labels of images were measured.

    Args:
        attend: what gives the attention; by default ``label_attention`` of the subject's module: that of its
            weights, not of an average of them.
    """

    title: ClassVar[str] = "label attention"
    attend: Callable[[View], LabelAttention | None] | None = field(default=None, repr=False)
    count: int = field(default=0, init=False)
    _classes: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    _chance: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def prepare(self, data: Evaluation) -> None:
        """Read the masks.

        Raises:
            DataError: if a mask has a class that the data have not.
        """
        super().prepare(data)
        images = indexed(data.held_out)
        if images.tree.exclusive or images.masks is None:
            return
        self._classes = dict(object_classes(images, data))

    def images(self) -> list[int]:
        """The images with masks of their objects."""
        return list(self._classes)

    def add(self, batch: ImageBatch, forward: Forward) -> None:
        """Measure the images of a batch that have masks.

        Raises:
            ConfigError: if attention is of another number of labels than the images have.
        """
        source, numbers = indexed(self._data.held_out), batch.positions.tolist()
        rows = batch.readable(source, self._classes)
        module, attend = forward.subject.module, self.attend
        if attend is None and isinstance(module, Objective):
            attend = module.label_attention
        if not rows or attend is None:
            return
        attention = attend(batch.views[0])
        if attention is None:
            return
        sizes = source.tree.sizes
        if (learned := attention.weights[0].shape[1]) != sum(sizes):
            raise ConfigError(
                f"attention is of {learned} labels, but the held-out images have {sum(sizes)} in levels of"
                f" {sizes}; take held-out images of the same data set"
            )
        device = batch.target.device
        classes = torch.stack([self._classes[numbers[row]] for row in rows]).to(device).long() - 1
        present = batch.target[rows, -sizes[-1] :] == 1
        shares = [
            attention_mass(
                weights[rows, -sizes[-1] :], attention.hierarchy.labels(stage)[rows], classes, sizes[-1]
            )
            for stage, weights in enumerate(attention.weights)
        ]
        values = sums(shares, classes, present)
        self._rows.add(values, torch.empty(len(rows), 0).long(), batch.positions[rows])

    def result(self, subject: Subject) -> dict[str, float]:
        """The results of the class docstring; none without masks or attention."""
        values = self._rows.gather()[0].double().sum(0).tolist()
        self.count = round(values[0]) if values else 0
        self._chance = {}
        if not self.count:
            return {}
        labels, accompanied, area = values[:3]
        found = {"area_of_object": area / labels}
        for stage in range(len(values[3:]) // 2):
            own, others = values[3 + 2 * stage : 5 + 2 * stage]
            self._chance[f"attention_on_object_{stage}"] = area / labels
            found[f"attention_on_object_{stage}"] = own / labels
            if accompanied:
                found[f"attention_of_others_{stage}"] = others / accompanied
            found[f"attention_gain_{stage}_times"] = own / area
        return found

    def chance(self) -> dict[str, float]:
        """The share of uniform attention: the object's area."""
        return self._chance


def object_classes(images: Images, data: Evaluation) -> list[tuple[int, Tensor]]:
    """The part masks of at most :data:`MASKED` images by position, as the view cuts them: int16 (S, S).

    Raises:
        DataError: if a value is above the number of classes of the finest level.
    """
    found = []
    for index in spread(len(images), MASKED):
        parts = images.parts(index)
        if parts is None:
            continue
        classes = data.view.crop_mask(parts).to(torch.int16)
        if (largest := int(classes.max())) > images.tree.sizes[-1]:
            raise DataError(
                f"the part mask of {images.name(index)} has the value {largest}, but there are"
                f" {images.tree.sizes[-1]} classes; expected 1 + the class of the object, and 0 elsewhere"
            )
        found.append((index, classes))
    return found


def sums(shares: list[Tensor], classes: Tensor, present: Tensor) -> Tensor:
    """What each image adds to the means: float32 (B, 3 + 2 S).

    Args:
        shares: of each of S stages, float (B, C, C): of the attention of each label on each label's object.
        classes: int64 (B, H, W), the label of each pixel; -1 for none.
        present: bool (B, C), the labels of each image.

    Returns:
        The number of labels that count; of those with another present label beside them; the sum of their
        areas; and for each stage the sum of the shares on their objects, and of the mean share of the other
        present labels on these.
    """
    count = present.shape[1]
    pixels = torch.zeros(len(classes), count + 1, device=classes.device)
    flat = classes.flatten(1) + 1
    area = pixels.scatter_add(1, flat, torch.ones_like(flat, dtype=torch.float32))[:, 1:] / flat.shape[1]
    counted = present & (area > 0)
    others = present.sum(1, keepdim=True) - present.long()
    accompanied = counted & (others > 0)
    columns = [counted.sum(1), accompanied.sum(1), (area * counted).sum(1)]
    for on in shares:
        own = on.diagonal(dim1=1, dim2=2)
        by_others = ((on * present[:, :, None]).sum(1) - own * present) / others.clamp(min=1)
        columns += [(own * counted).sum(1), (by_others * accompanied).sum(1)]
    return torch.stack([column.float() for column in columns], 1)
