"""Taxon-SSL: labels at any level, and pseudo-labels that have to agree along the whole path.

Free-Grained Hierarchical Visual Recognition (CVPR 2026), https://arxiv.org/abs/2510.14737, which adapts
CHMatch (https://arxiv.org/abs/2302.12764); as in its released code, unless an option says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl import distributed
from castssl.contracts import Encoder
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import ClassifierModel, check_labeled, linear
from castssl.objectives.gathering import gather_with_gradient
from castssl.objectives.level_means import (
    LevelMean,
    accuracies,
    check_level_mean,
    level_means,
    soft_cross_entropies,
)
from castssl.objectives.text_attributes import ReadsTexts, TextHead, text_losses, text_pairs
from castssl.types import Batch, Outcome, View

STANDARD, SIMCLR, RANDAUG = range(3)
"""The order of the views."""


class TaxonModel(ClassifierModel):
    """An encoder, a multilayer perceptron on its last class token, and a classifier of each level on that."""

    body: nn.Module
    level_heads: nn.ModuleList
    text_head: TextHead

    def forward(self, view: View) -> Mapping[str, Tensor]:
        """Logits (B, C) of each level: ``level0``, the coarsest, ``level1``, ..."""
        return self.classify(self.feature(view))

    def classify(self, feature: Tensor) -> dict[str, Tensor]:
        """The same, of the class tokens (B, D)."""
        hidden = self.body(feature)
        return {f"level{level}": head(hidden) for level, head in enumerate(self.level_heads)}


class TaxonSSL(ReadsTexts):
    """An encoder that learns from labels at any level, and from all images by its own predictions.

    A batch has three views of each image, see :class:`castssl.data.taxon_views.TaxonViews`.  The loss is the
    sum of these terms:

    - the cross entropies of the first view with the known labels, summed over levels;
    - ``pseudo_weight`` times those of the second view with the classes that the first view's aligned
      predictions put first, of the images whose probability reaches the level's threshold (a mean over the
      batch).  Aligned: divided by the average of the last ``alignment`` batches' mean probabilities.  The
      threshold is the probability at the rank floor(k n) of the last n, at most ``memory``, probabilities;
      k rises from ``least`` to ``most`` over the first ``rise`` of training;
    - ``contrast_weight`` times a contrast of the second view's class tokens with the third's, of all
      processes, in which images are alike whose pseudo-labels agree at all levels;
    - ``text_weight`` times the loss of the first view with the texts, if there are any.

    Labeled images take part in all of them.  The tree itself has no part.  Averages and probabilities are
    those of all processes, and are in the checkpoint.

    Args:
        encoder: what is trained.
        labels: the data set's label tree.
        level_mean: see :func:`castssl.objectives.level_means.level_means`; for the known labels and texts.
        hidden: width of the two hidden layers of the perceptron; None is that of the class token, 0 has none.
        pseudo_weight: of the second term.
        contrast_weight: of the third.
        temperature: of the contrast.
        alignment: how many batches' mean probabilities are kept.
        memory: how many probabilities are kept.
        least: k at the start.
        most: k after the rise.
        rise: the share of training over which k rises.
        text_dim: width of the text embeddings of the batches; 0 reads none.  A recipe sets it.
        text_weight: of the loss between images and texts; 0 reads no text.
        text_temperature: what cosines of images and texts are divided by; the released code has none.
        mixup: 0, as nothing is mixed; so is cutmix.
        cutmix: see mixup.
        smoothing: of the known labels.
        ema: as :class:`castssl.objectives.deit.DeiT` has it.

    Raises:
        ConfigError: if the data set has no label levels, or an option is out of range.
    """

    views = 3
    model: TaxonModel
    scores: Tensor
    progress: Tensor
    batches: Tensor
    stored: Tensor

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelTree,
        *,
        level_mean: LevelMean = "labeled",
        hidden: int | None = None,
        pseudo_weight: float = 1.0,
        contrast_weight: float = 1.0,
        temperature: float = 0.1,
        alignment: int = 32,
        memory: int = 50_000,
        least: float = 0.05,
        most: float = 0.8,
        rise: float = 0.25,
        text_dim: int = 0,
        text_weight: float = 1.0,
        text_temperature: float = 1.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        smoothing: float = 0.0,
        ema: float = 0.0,
    ) -> None:
        super().__init__(labels, mixup=mixup, cutmix=cutmix, smoothing=smoothing)
        if mixup or cutmix:
            raise ConfigError(f"taxon-ssl mixes no images: got mixup {mixup} and cutmix {cutmix}, expected 0")
        check_level_mean(level_mean)
        self.level_mean, self.pseudo_weight, self.contrast_weight = level_mean, pseudo_weight, contrast_weight
        self.temperature, self.least, self.most, self.rise = temperature, least, most, rise
        self._check(alignment, memory, hidden)
        self._keep(alignment, memory)
        self.read_texts(text_dim, text_weight, text_temperature)
        width = encoder.dim if hidden is None else hidden
        heads: dict[str, nn.Module] = {"body": perceptron(encoder.dim, width) if width else nn.Identity()}
        heads["level_heads"] = nn.ModuleList(linear(width or encoder.dim, count) for count in self.classes)
        if self.text_dim:
            heads["text_head"] = TextHead(encoder, -1, "class", self.text_dim)
        self.model = TaxonModel(encoder, **heads)
        self.keep_average(ema)

    def _check(self, alignment: int, memory: int, hidden: int | None) -> None:
        """Refuse what is out of range."""
        if min(self.pseudo_weight, self.contrast_weight, hidden or 0) < 0 or self.temperature <= 0:
            raise ConfigError(
                "pseudo_weight, contrast_weight and hidden are 0 or above, and temperature is above 0, got"
                f" {self.pseudo_weight}, {self.contrast_weight}, {hidden} and {self.temperature}"
            )
        if min(alignment, memory) < 1 or not 0 < self.rise <= 1 or not 0 <= self.least <= self.most <= 1:
            raise ConfigError(
                "alignment and memory are 1 or above, rise is in (0, 1], and 0 <= least <= most <= 1, got"
                f" {alignment}, {memory}, {self.rise}, {self.least} and {self.most}"
            )

    def _keep(self, alignment: int, memory: int) -> None:
        """Buffers of mean probabilities and of scores, where -1 is not a score, and their counters."""
        for level, count in enumerate(self.classes):
            self.register_buffer(f"means{level}", torch.zeros(alignment, count))
        self.register_buffer("scores", torch.full((len(self.classes), memory), -1.0))
        self.register_buffer("progress", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Outcome:
        """The loss, the share of images with a pseudo-label, and the accuracies of the first view.

        Raises:
            ValueError: unless the batch has three views and an int64 target of as many levels as the labels.
        """
        path = check_labeled(batch, self.levels, self.views)
        mixing = self.mixing if self.training else self.hard
        # Not a list of numbers, whose copy to a GPU the host would wait for.
        chosen = torch.stack([path[:, column] for column in self.columns], 1)
        targets, text = mixing.targets(chosen, 1.0), self.text_of(batch)
        hierarchy = self.model.encoder(View(*(torch.cat(field) for field in zip(*batch.views, strict=True))))
        feature = hierarchy.stages[-1].cls[:, 0]
        count = len(path)
        named = self.model.classify(feature[: 2 * count])
        both = [logits.float() for logits in named.values()]
        standard, strong = [logits[:count] for logits in both], [logits[count:] for logits in both]
        classes, confident = self.pseudo_labels(standard)
        losses = [soft_cross_entropies(*pair) for pair in zip(standard, targets, strict=True)]
        known = [target.sum(1) for target in targets]
        if text is not None:
            head = self.model.text_head
            image = head.linear(feature[:count])
            pairs, shares = text_losses(image, text, text_pairs(text), self.text_temperature)
            losses, known = [*losses, *pairs], [*known, *shares]
        means = level_means(losses, known, self.level_mean)
        pseudo = [
            F.cross_entropy(logits, classes[:, level], reduction="none") * confident[:, level]
            for level, logits in enumerate(strong)
        ]
        followed = torch.stack([each.mean() for each in pseudo]).sum()
        contrast = path_contrast(feature[count : 2 * count], feature[2 * count :], classes, self.temperature)
        loss = means[: len(targets)].sum() + self.pseudo_weight * followed + self.contrast_weight * contrast
        logs = {"pseudo": followed.detach(), "confident": confident.mean(), "contrast": contrast.detach()}
        if text is not None:
            compared = means[-2:].mean()
            loss, logs["text"] = loss + self.text_weight * compared, compared.detach()
        return Outcome(loss, {"loss": loss.detach(), **logs, **accuracies(list(named), standard, targets)})

    @torch.no_grad()
    def pseudo_labels(self, logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The class of each image at each level, int64 (B, L), and whether it counts, float32 (B, L).

        In training mode the averages and probabilities that are kept take those of this batch first; in
        evaluation mode they stay as they are.

        Args:
            logits: float32 (B, C) of each level.
        """
        classes, scores = [], []
        slot = (self.batches % len(self.get_buffer("means0")))[None]
        for level, each in enumerate(logits):
            shares = each.softmax(1)
            kept, mean = self.get_buffer(f"means{level}"), distributed.mean(shares.mean(0))
            if self.training:
                kept.index_copy_(0, slot, mean[None])
            # Unused rows are 0.  Their number cancels in the ratio below.
            average = kept.sum(0) + (0 if self.training else mean)
            aligned = shares / average.clamp(min=1e-12)
            score, index = (aligned / aligned.sum(1, keepdim=True)).max(1)
            classes.append(index)
            scores.append(score)
        found = torch.stack(scores, 1)
        return torch.stack(classes, 1), (found >= self._thresholds(found)).float()

    def _thresholds(self, scores: Tensor) -> Tensor:
        """The least probability that counts at each level: float32 (L,); it keeps the scores (B, L)."""
        every = distributed.gather(scores).T[:, -self.scores.shape[1] :]
        if self.training:
            slots = (self.stored + torch.arange(every.shape[1], device=scores.device)) % self.scores.shape[1]
            self.scores.index_copy_(1, slots, every)
            self.batches += 1
            self.stored += every.shape[1]
            kept = self.scores
        else:
            kept = torch.cat([self.scores, every], 1)
        filled = (kept[0] >= 0).sum()
        k = self.least + (self.most - self.least) * (self.progress / self.rise).clamp(max=1)
        # The released code fails where k n is below 1.
        rank = (k * filled).floor().long().clamp(min=1) - 1
        return kept.sort(1, descending=True).values.index_select(1, rank[None])[:, 0]

    def after_step(self, progress: float) -> None:
        """Move the average, and k."""
        super().after_step(progress)
        self.progress.fill_(progress)


def path_contrast(queries: Tensor, keys: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """The cross entropy of each query's similarities to all keys with the keys of images of its path.

    All keys of an image's path, and its own, have the same share.  The gradient reaches queries and keys.

    Args:
        queries: float (B, D).
        keys: float (B, D), of the same images.
        classes: int64 (B, L), the classes of each image.
        temperature: what cosines are divided by.

    Returns:
        A float32 scalar, the mean over the queries of this process; the keys are those of all processes.
    """
    with torch.autocast(queries.device.type, enabled=False):
        every = gather_with_gradient(F.normalize(keys.float(), dim=1))
        logits = F.normalize(queries.float(), dim=1) @ every.T / temperature
    own = torch.arange(len(queries), device=queries.device) + distributed.first_row(queries)
    alike = (classes[:, None] == distributed.gather(classes)[None]).all(2)
    alike = alike | (own[:, None] == torch.arange(len(every), device=queries.device))
    shares = alike.float() / alike.sum(1, keepdim=True)
    return -(shares * logits.log_softmax(1)).sum(1).mean()


def perceptron(dim: int, hidden: int) -> nn.Module:
    """Two hidden layers with batch norm and a leaky ReLU of slope 0.1 after each."""
    layers: list[nn.Module] = []
    for width in (dim, hidden):
        layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
