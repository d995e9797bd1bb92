"""How good scores of many labels per image are: average precision, precision and recall, and the label tree.

Shape letters: N images, C classes.  ``scores`` are float (N, C), higher for what is likelier.  ``targets``
are float (N, C): 1 if the label is present, 0 if it is absent, and -1 if that is unknown; then the image is
left out of that class.  A class that is present in no image is left out of all means over classes;
:func:`without_positives` lists these.  All results are in [0, 1], and computed in float64 on the CPU.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import Tensor

from castssl.labels import LabelTree

Interpolation = Literal["none", "11-point"]
TOP = 3
"""The number of labels per image that the ``_top3`` measures take as predicted."""


def average_precisions(scores: Tensor, targets: Tensor, interpolation: Interpolation = "none") -> Tensor:
    """The average precision of each class: float64 (C,); not a number for a class without positives.

    Images of equal scores are at one place in the ranking, as in scikit-learn and torchmetrics: neither their
    order nor a sorting algorithm decides.

    Args:
        scores: float (N, C).
        targets: float (N, C) in {1, 0, -1}.
        interpolation: "none": the mean precision at the rank of each positive (scikit-learn's
            ``average_precision_score``).  "11-point": the mean over the recalls 0, 0.1, ..., 1 of the highest
            precision at that recall or a higher one (Everingham et al.: The Pascal Visual Object Classes
            challenge, 2010, section 4.2; used up to VOC2009).

    Raises:
        ValueError: if the shapes differ, a score is not finite, or a target has another value.
    """
    _check(scores, targets)
    measure = {"none": average_precision_score, "11-point": _eleven_points}[interpolation]
    found = []
    for score, target in zip(scores.T.cpu().double().numpy(), targets.T.cpu().numpy(), strict=True):
        known = target >= 0
        positive = (target == 1).any()
        found.append(float(measure(target[known], score[known])) if positive else float("nan"))
    return torch.tensor(found, dtype=torch.float64)


def _eleven_points(target: NDArray[np.float32], score: NDArray[np.float64]) -> float:
    precision, recall, _ = precision_recall_curve(target, score)
    # The last point is of no image.  As whole numbers, because 3 / 10 < 3 * 0.1.
    positives = int(target.sum())
    found = np.rint(recall[:-1] * positives)
    return float(np.mean([precision[:-1][10 * found >= tenth * positives].max() for tenth in range(11)]))


def precision_recall(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    """Overall and per-class precision, recall and F1, by the field's names; {} without any positive.

    ``OP``, ``OR``: of all decisions of all classes together ("micro").  ``CP``, ``CR``: the means over the
    classes ("macro"); a class that is never predicted has a precision of 0.  ``OF1`` and ``CF1`` are the
    harmonic means of the two; CF1 is not the mean of the classes' F1, which scikit-learn calls macro F1.

    Args:
        predicted: bool (N, C).
        targets: float (N, C) in {1, 0, -1}.

    Raises:
        ValueError: as in :func:`average_precisions`.
    """
    _check(predicted, targets)
    predicted, targets = predicted.cpu(), targets.cpu()
    right = (predicted & (targets == 1)).sum(0).double()
    answered = (predicted & (targets >= 0)).sum(0)
    present = (targets == 1).sum(0)
    if not (counted := present > 0).any():
        return {}
    overall = right.sum() / answered.sum().clamp(min=1), right.sum() / present.sum()
    of_classes = [(right / total.clamp(min=1))[counted].mean() for total in (answered, present)]
    return {
        name: value
        for letter, (precision, recall) in (("O", overall), ("C", of_classes))
        for name, value in (
            (f"{letter}P", float(precision)),
            (f"{letter}R", float(recall)),
            (f"{letter}F1", float(2 * precision * recall / (precision + recall).clamp(min=1e-12))),
        )
    }


def top_labels(scores: Tensor, count: int = TOP) -> Tensor:
    """The ``count`` classes of the highest scores of each image, or all if there are fewer: bool (N, C).

    Of equal scores the higher class number wins, as in scikit-learn's ``top_k_accuracy_score``.

    Args:
        scores: float (N, C).
        count: at least 1.
    """
    order = scores.flip(1).argsort(dim=1, descending=True, stable=True)[:, :count]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
    return chosen.flip(1)


def without_parent(predicted: Tensor, tree: LabelTree) -> float:
    """The share of images with a class predicted whose parent is not; not a number without images.

    Args:
        predicted: bool (N, C), the levels of ``tree`` side by side, coarse to fine.
        tree: with parents.
    """
    levels = predicted.split(tree.sizes, dim=1)
    pairs = zip(levels, levels[1:], tree.parents, strict=False)
    orphans = [(fine & ~coarse[:, list(parents)]).any(1) for coarse, fine, parents in pairs]
    return float(torch.stack(orphans).any(0).double().mean())


def without_positives(targets: Tensor) -> list[int]:
    """The numbers of the classes that no image has, so means over classes leave them out.

    Args:
        targets: float (N, C) in {1, 0, -1}.
    """
    return (~(targets == 1).any(0)).nonzero().flatten().tolist()


def measures(
    scores: Tensor, targets: Tensor, tree: LabelTree | None = None, *, threshold: float = 0.5
) -> dict[str, float]:
    """All measures by name; {} without any positive.

    ``mAP`` and ``mAP_11point``: the means of :func:`average_precisions`.  ``OP``, ``OR``, ``OF1``, ``CP``,
    ``CR``, ``CF1``: of the labels with a score above the threshold; ``OP_top3``, ...: of the three
    likeliest labels of each image, whatever their scores.  ``unscored_classes``: the number of classes that
    the means over classes leave out.  With several levels, ``mAP_level0``, ... are those of each level, and,
    with parents, ``without_parent`` is the share of images with a child above the threshold and its parent
    not.

    Args:
        scores: float (N, C).
        targets: float (N, C) in {1, 0, -1}.
        tree: the levels that stand side by side; None: one level.
        threshold: of probabilities 0.5, of logits 0.

    Raises:
        ValueError: as in :func:`average_precisions`.
    """
    tree, by_class = tree or LabelTree.none(), average_precisions(scores, targets)
    if by_class.isnan().all():
        return {}
    means = {"mAP": by_class, "mAP_11point": average_precisions(scores, targets, "11-point")}
    if tree.levels > 1:
        means |= {f"mAP_level{level}": part for level, part in enumerate(by_class.split(tree.sizes))}
    results = {name: float(values.nanmean()) for name, values in means.items() if not values.isnan().all()}
    above, top = scores > threshold, precision_recall(top_labels(scores), targets)
    results |= precision_recall(above, targets) | {f"{name}_top{TOP}": value for name, value in top.items()}
    if tree.parents:
        results["without_parent"] = without_parent(above, tree)
    return results | {"unscored_classes": float(len(without_positives(targets)))}


def _check(scores: Tensor, targets: Tensor) -> None:
    if scores.dim() != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"many labels: expected scores and targets (N, C) of one shape, got {tuple(scores.shape)} and"
            f" {tuple(targets.shape)}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("many labels: scores are not finite; has the run diverged?")
    if not bool(torch.isin(targets, targets.new_tensor([1, 0, -1])).all()):
        values = [value for value in targets.unique().tolist() if value not in (1, 0, -1)]
        raise ValueError(f"many labels: expected targets 1, 0 or -1 (unknown), got {values[:5]}")
