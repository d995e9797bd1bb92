"""Mixup and cutmix of a view and of all its label levels; timm's draws and targets.

mixup: https://arxiv.org/abs/1710.09412; CutMix: https://arxiv.org/abs/1905.04899.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.data.mixup import Mixup, one_hot
from torch import Tensor

from castssl.errors import ConfigError
from castssl.types import View


class Mixing(Mixup):
    """Each image is mixed with its mirror in the batch, the first with the last; one draw serves them all.

    Segments stay those of the image itself, as in the released CAST.  Draws come from numpy's global
    generator, on the host, so nothing waits for the device.  The middle of an odd batch stays as it is.

    Args:
        classes: how many classes each label level has.
        mixup: both parameters of the beta distribution of the share; 0 switches mixup off.
        cutmix: the same for cutmix.
        prob: share of batches that are mixed at all.
        switch: share of those that are cut rather than blended, where both are on.
        smoothing: how much of each target is spread over all classes, mixed or not.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(
        self,
        classes: Sequence[int],
        *,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch: float = 0.5,
        smoothing: float = 0.1,
    ) -> None:
        if min(mixup, cutmix) < 0:
            raise ConfigError(f"mixup and cutmix are 0 (off) or above, got {mixup} and {cutmix}")
        for name, share in {"prob": prob, "switch": switch, "smoothing": smoothing}.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} of mixing is a share: expected 0 to 1, got {share}")
        options = {"prob": prob, "switch_prob": switch, "label_smoothing": smoothing}
        super().__init__(mixup, cutmix, **options)  # type: ignore[no-untyped-call]
        self.classes = tuple(classes)
        self.mixup_enabled = mixup > 0 or cutmix > 0

    def __call__(self, view: View, path: Tensor) -> tuple[View, list[Tensor]]:
        """A mixed copy of the view, and a soft target float32 (B, C) for each label level.

        Args:
            view: float images (B, 3, H, W); left as they are.
            path: int64 (B, L), a label of each level; -1 where it is missing: that image's share of the
                target is 0.
        """
        mixed, share = self.mix(view)
        return mixed, self.targets(path, share)

    def mix(self, view: View) -> tuple[View, float]:
        """A mixed copy of the view, and the share of the image itself; the rest is that of its mirror."""
        image = view.image.clone()
        # Not super().__call__: it refuses odd batches and handles one level only.
        share = self._mix_batch(image)  # type: ignore[no-untyped-call]
        return view._replace(image=image), float(share)

    def targets(self, path: Tensor, share: float) -> list[Tensor]:
        """The soft targets of images that were mixed with this share."""
        return [self._target(path[:, level], count, share) for level, count in enumerate(self.classes)]

    def _target(self, label: Tensor, count: int, share: float) -> Tensor:
        """What timm's ``mixup_target`` gives, where every label is known."""
        off = self.label_smoothing / count
        on = 1.0 - self.label_smoothing + off
        target: Tensor = one_hot(label.clamp(min=0), count, on_value=on, off_value=off)  # type: ignore[no-untyped-call]
        target = target * (label >= 0)[:, None]
        return target * share + target.flip(0) * (1 - share)
