"""HRN: a branch for each label level, whose feature finer levels inherit, and a loss over the tree's paths.

Label Relation Graphs Enhanced Hierarchical Residual Network for Hierarchical Multi-Granularity Classification
(Chen et al., CVPR 2022), https://arxiv.org/abs/2201.03194.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel, Supervised, cross_entropy
from castssl.objectives.tree_kl import over_children
from castssl.types import View

Scores = Literal["sigmoid", "raw"]


class Branched(ClassifierModel):
    """An encoder with a branch and a classifier of each level, and one more of the finest.

    Args:
        encoder: what is trained.
        labels: the data set's label tree.
        classes: how many classes each level has, coarse to fine.
        scores: as :class:`HRN` has it.
    """

    branches: nn.ModuleList
    level_heads: nn.ModuleList
    leaf_head: nn.Linear

    def __init__(self, encoder: Encoder, labels: LabelTree, classes: Sequence[int], scores: Scores) -> None:
        # Their own cells, such as a convolutional network's: else the tokens' places are unknown.
        has_map = not encoder.uses_superpixels
        dim = encoder.stage_dims[encoder.stages_with_cls - 1] if has_map else encoder.dim
        width = _narrow(dim, 4)
        super().__init__(
            encoder,
            branches=nn.ModuleList(_branch(dim, has_map) for _ in classes),
            # torch's own start: from DeiT's smaller one the bounded scores would hardly move at first.
            level_heads=nn.ModuleList(nn.Linear(width, count) for count in classes),
            leaf_head=nn.Linear(width, classes[-1]),
        )
        self.has_map, self.scores = has_map, scores
        for level, table in enumerate(labels.parents, start=1):
            self.register_buffer(f"parents{level}", torch.tensor(table), persistent=False)

    @property
    def parents(self) -> list[Tensor]:
        """For each level but the coarsest, the parent of each class: int64 (C,)."""
        return [self.get_buffer(f"parents{level}") for level in range(1, len(self.level_heads))]

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Log marginals float32 (B, C) of each level, ``level0`` the coarsest."""
        return self.marginals(self.features(view))

    def features(self, view: View) -> list[Tensor]:
        """Each level's feature (B, W), coarse to fine.

        Raises:
            ConfigError: as :func:`rows_and_columns`.
        """
        tokens = self.encoder(view).stages[-1]
        grid = tokens.x if self.has_map else tokens.cls
        shape = rows_and_columns(grid.shape[1], *view.image.shape[-2:]) if self.has_map else (1, 1)
        if self.has_map and torch.is_grad_enabled():
            # DDP waits for a gradient of all that is trained, such as a norm behind the model's own pooling.
            grid = grid + 0 * tokens.cls[..., :1].to(grid.dtype)
        cells = grid.transpose(1, 2).unflatten(2, shape)
        return [total.relu() for total in accumulate(branch(cells) for branch in self.branches)]

    def marginals(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Log marginals float32 (B, C) of features (B, W), by level."""
        raw = [head(feature).float() for head, feature in zip(self.level_heads, features, strict=True)]
        scores = [
            level_scores.sigmoid() if self.scores == "sigmoid" else level_scores for level_scores in raw
        ]
        return {
            f"level{level}": level_scores
            for level, level_scores in enumerate(log_marginals(scores, self.parents))
        }


class HRN(Supervised):
    """A branch for each label level on the encoder's last map; all finer levels add its feature to theirs.

    Each level's head scores its classes.  A legal answer is a path from the root of the tree to any class,
    coarse or fine, or no class at all; its probability is proportional to the exponential of the sum of its
    classes' scores.  What is predicted of a class is the logarithm of its marginal, the probability of all
    paths through it (:func:`log_marginals`); a softmax over a level gives the marginals as shares of that
    level.

    The loss is the negative logarithm of the marginal of the finest class that is known of an image
    (:func:`finest`), so that coarse labels teach, too, plus the cross entropy of a further softmax head over
    the finest level, for images whose label there is known.  A mixture's loss is the mean over its images by
    their shares.

    Choices where the paper's text leaves one: a branch is two convolutions (1 x 1 to half the channels, and
    3 x 3 back), their mean over the map, and two linear layers (to half, and a quarter), each of the four
    with a batch norm and all but the last with a ReLU; a level's feature is the ReLU of the sum of its own
    branch's output and those of all coarser levels.  With these widths ResNet-50 and Living-17's classifiers
    have 70.8 million parameters, which is the figure on H-CAST's poster.  All levels are predicted by their
    marginals, the finest too.  If an encoder's tokens form no grid (superpixels), its class token is read
    as a map of one cell.  Mixing and smoothing are off; label smoothing would reach the marginals of a
    coarse class as far as it gives it more than its children together.

    Args:
        encoder: what is trained.
        labels: the data set's label tree.
        scores: ``"sigmoid"``: between 0 and 1, as in the paper; ``"raw"``: any number, which lets the
            probability of a path come as near to 1 as it likes.
        leaf: weight of the softmax over the finest level; the paper has 1.
        mixup: see :class:`castssl.objectives.mixing.Mixing`; so are the next two.
        cutmix: likewise.
        smoothing: likewise.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the data set is unlabeled or its labels do not exclude each other; if an option is
            out of range.
    """

    model: Branched

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        scores: Scores = "sigmoid",
        leaf: float = 1.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        smoothing: float = 0.0,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        if scores not in ("sigmoid", "raw"):
            raise ConfigError(f"scores: got {scores!r}, expected sigmoid or raw")
        if leaf < 0:
            raise ConfigError(f"leaf: the weight of the softmax is 0 or above, got {leaf}")
        self.leaf = leaf
        self.model = Branched(encoder, labels, self.classes, scores)
        self.keep_average(ema)

    def answers(self, view: View) -> Mapping[str, Tensor]:
        """The predictions, and ``leaf``: the logits (B, C) of the softmax over the finest level."""
        features = self.model.features(view)
        return {**self.model.marginals(features), "leaf": self.model.leaf_head(features[-1])}

    def criterion(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The tree's loss and the softmax's.

        Args:
            logits: log marginals (B, C) of each level, coarse to fine, and the logits of the softmax.
            targets: soft targets (B, C) of each level.
        """
        *marginals, leaf = logits
        wanted = finest(targets, self.model.parents)
        losses = [
            -(target * marginal).sum(1).mean() for target, marginal in zip(wanted, marginals, strict=True)
        ]
        tree = torch.stack(losses).sum()
        softmax = cross_entropy(leaf, targets[-1])
        return tree + self.leaf * softmax, {"tree": tree.detach(), "softmax": softmax.detach()}


def log_marginals(scores: Sequence[Tensor], parents: Sequence[Tensor]) -> list[Tensor]:
    """The log probability that a path goes through each class of a tree.

    Paths lead from the root to any class of any level, and one of them to none; a path's probability is
    proportional to the exponential of the sum of its classes' scores.  The sums over paths go up the tree,
    level by level, so that time and memory grow with the classes and not with their square.

    Args:
        scores: float (B, C) of each level, coarse to fine.
        parents: for each level but the coarsest, the parent of each class: int64 (C,).

    Returns:
        Float (B, C) of each level, 0 or below.
    """
    through = [scores[0]]
    for score, parent in zip(scores[1:], parents, strict=True):
        through.append(score + through[-1][:, parent])
    for level in reversed(range(len(parents))):
        below = over_children(through[level + 1], parents[level], through[level].shape[1])
        through[level] = torch.logaddexp(through[level], below)
    nothing = torch.zeros_like(scores[0][:, :1])
    total = torch.cat([nothing, through[0]], 1).logsumexp(1, keepdim=True)
    return [sums - total for sums in through]


def finest(targets: Sequence[Tensor], parents: Sequence[Tensor]) -> list[Tensor]:
    """What of each level's target is not known more finely at a level below.

    Args:
        targets: soft targets (B, C) of each level, coarse to fine; a row sums to less than 1 where labels are
            missing.
        parents: for each level but the coarsest, the parent of each class: int64 (C,).

    Returns:
        Float (B, C) of each level.  For plain labels it is 1 at the finest class that is known, else 0.
    """
    kept = [targets[-1]]
    covered = targets[-1]
    for target, parent in zip(reversed(targets[:-1]), reversed(parents), strict=True):
        above = torch.zeros_like(target).index_add(1, parent, covered)
        kept.append((target - above).clamp(min=0))
        covered = torch.maximum(target, above)
    return kept[::-1]


def rows_and_columns(count: int, height: int, width: int) -> tuple[int, int]:
    """The rows and columns of the map of an image.

    A grid is possible if square cells of one size fit into the image's sides as often as it has rows and
    columns, rounded up or down, and if the longer side has at least as many cells.  If the sides of the image
    are multiples of the side of a cell, exactly one grid is possible.

    Args:
        count: cells of the map.
        height: of the image in pixels.
        width: likewise.

    Raises:
        ConfigError: if no grid or more than one is possible.
    """
    found = []
    for rows in range(1, count + 1):
        columns = count // rows
        ordered = rows == columns if height == width else (rows - columns) * (height - width) >= 0
        # Some side of the cells is in both ranges: height / (rows + 1) to height / (rows - 1), and likewise.
        overlap = width * (rows - 1) < height * (columns + 1) and height * (columns - 1) < width * (rows + 1)
        if rows * columns == count and ordered and overlap:
            found.append((rows, columns))
    if len(found) != 1:
        grids = " or ".join(f"{rows} x {columns}" for rows, columns in found) or "no grid of square cells"
        raise ConfigError(
            f"hrn reads the last feature map by rows and columns: got {count} cells of an image of {height} x"
            f" {width} pixels ({grids}), expected one possible grid; take images whose sides are multiples of"
            " the encoder's stride, such as squares"
        )
    return found[0]


def _narrow(dim: int, by: int) -> int:
    return max(dim // by, 1)


def _branch(dim: int, has_map: bool) -> nn.Module:
    """From a map (B, D, h, w) to a feature (B, D / 4)."""
    half, quarter = _narrow(dim, 2), _narrow(dim, 4)
    kernel = 3 if has_map else 1
    return nn.Sequential(
        *(nn.Conv2d(dim, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
        *(nn.Conv2d(half, dim, kernel, padding="same", bias=False), nn.BatchNorm2d(dim), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(dim, half), nn.BatchNorm1d(half), nn.ReLU()),
        *(nn.Linear(half, quarter), nn.BatchNorm1d(quarter)),
    )
