"""Settings that pretraining recipes share; each recipe's own dataclass adds what its objective needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from castssl.config import FREE, RunConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """What is trained, on what, and how it is watched."""

    data: str = ""
    """What to train on: folder:/path, tar:/path.tar, wds/NAME:/path, hfds/NAME, hfids/NAME, tfds/NAME, or
    demo (generated). A folder with train/ and val/ is examined on val/."""
    subset: str | None = None
    """Only these classes: imagenet100, or a text file of class names."""
    model: str = "cast_small"
    """cast_small, cast_small_deep, cast_base, cast_base_deep, each also as ..._seg (COCO); nano; vit_small,
    vit_base, vit_small_superpixels, vit_small_pooling (Table 3a); timm:NAME."""
    image_size: int = 224
    """Side of a training crop in pixels."""
    sizes: tuple[int, ...] | None = None
    """Tokens of each stage, fine to coarse, such as 196 128 64 32; by default the model's own."""
    superpixels: str = "auto"
    """A superpixel backend with options, such as seeds:count=196,bins=5; auto is the model's own."""
    pooling: str = "graph"
    """A pooling with options, such as graph:centroids=random; `castssl list pooling` shows all."""
    membership: Literal["nearest", "area"] = "nearest"
    """How pixels belong to tokens: sampled at the stem's grid (the paper), or by area (none is lost)."""
    batch_size: int = 256
    """Images of one optimizer step, over all processes and accumulated batches."""
    warmup_epochs: float = 10
    """Epochs of linear warm-up."""
    workers: int = field(default=8, metadata=FREE)
    """Data-loading processes of each process."""
    compile: bool = field(default=False, metadata=FREE)
    """Compile the encoders with torch.compile."""
    knn_every: int = field(default=10, metadata=FREE)
    """Epochs between examinations on held-out images (kNN, matching, object IoU); 0 = never."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        found = []
        if not self.data:
            found.append("--data is missing: type --data folder:/path/to/imagenet, or --data demo to try it")
        if not 0 <= self.warmup_epochs < self.epochs:
            found.append(f"--warmup-epochs: got {self.warmup_epochs}, expected 0 to below {self.epochs}")
        if self.batch_size < 1 or self.batch_size % self.accumulate:
            found.append(f"--batch-size: got {self.batch_size}, expected a multiple of {self.accumulate}")
        return found

    def shape(self) -> dict[str, Any]:
        """The options of :func:`castssl.models.create.create`, beside the model's name."""
        return {key: getattr(self, key) for key in ("pooling", "sizes", "image_size", "membership")}
