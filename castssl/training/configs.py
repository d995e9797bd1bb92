"""Settings that recipes share; each recipe's own dataclass adds what its objective needs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from castssl import distributed
from castssl.config import FREE, MEASURES, MOVES, TYPED, RunConfig
from castssl.data.splits import open_splits
from castssl.data.superpixel_cache import Cache
from castssl.datasets.images import Images
from castssl.datasets.multichannel import RGB
from castssl.datasets.stream import Stream
from castssl.encoder_config import CHANNELS, EncoderConfig, override
from castssl.errors import printable
from castssl.models.channels import channel_faults
from castssl.models.presets import find_config
from castssl.training import presets

if TYPE_CHECKING:
    from typing_extensions import Self

FEW = 10
"""An epoch of fewer steps than this is too short for the paper's settings."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig(RunConfig):
    """The images that a run trains on, and those that it is evaluated on."""

    by_preset: ClassVar[presets.Values] = {}
    preset: str = field(default="published", metadata=FREE)
    """Defaults of the other flags: the paper's; small or tiny, for fewer images; or auto, by the number of
    training images. recipes/README.md lists what each sets."""
    data: str = field(default="", metadata=MOVES)
    """What to train on: folder:/path, tar:/path.tar, wds/NAME:/path, hfds/NAME, breeds:living17:/path,
    tree:/labels.csv, demo (generated), or another name of `castssl list datasets` and its location.
    Results are measured on its val split."""
    val: str | None = field(default=None, metadata=MEASURES)
    """Held-out images in place of the val split of --data: the val split of other data, or all of that if it
    has none; "none" measures nothing."""
    val_share: float = 0.0
    """Hold out this share of the training images of each class, drawn by --seed, in place of a val split."""
    knn_images: int = field(default=50_000, metadata=MEASURES)
    """At most so many training images vote in kNN, the same ones in every run; 0 = all."""
    allow_commands: bool = field(default=False, metadata=TYPED)
    """Run pipe:COMMAND in --data and --val, and read what it prints; see recipes/README.md."""
    subset: str | None = None
    """Only these classes: imagenet100, or a text file of class names."""
    image_size: int = 224
    """Side of a training crop in pixels."""
    sizes: tuple[int, ...] | None = None
    """Tokens of each stage, fine to coarse, such as 196 128 64 32; a last stage without blocks, if left
    out, gets half of the last number. By default the model's own."""
    superpixels: str = "auto"
    """A superpixel backend with options, such as seeds:count=196,bins=5; auto is the model's own."""
    superpixel_cache: str | None = field(default=None, metadata=MOVES)
    """A folder: compute each image's superpixels once, store them there, and crop them for each view; many
    runs may share it."""
    superpixel_cache_gb: float = field(default=100.0, metadata=FREE)
    """How much that folder may hold, in GB; superpixels that do not fit are computed each time."""
    batch_size: int = 256
    """Images of one optimizer step, over all processes and accumulated batches."""
    workers: int = field(default=8, metadata=FREE)
    """Data-loading processes of each process."""
    compile: bool = field(default=False, metadata=FREE)
    """Compile the encoders with torch.compile."""

    @classmethod
    def starting(cls, argv: Sequence[str]) -> Self | None:
        """The defaults of the preset of a command line."""
        name = presets.resolve(argv, cls.preset)
        return cls(**cls.by_preset[name]) if name in cls.by_preset else None

    def fitted(self, typed: Collection[str]) -> Self:
        """The name of the preset that ``auto`` stands for."""
        config = super().fitted(typed)
        if config.preset != "auto":
            return config
        name = presets.by_size(config.data, config.val_share, config.subset, config.allow_commands)
        return replace(config, preset=name)

    def problems(self) -> list[str]:
        """Faults of these settings that their types allow."""
        problems = super().problems()
        if self.preset not in (named := dict.fromkeys(["published", *self.by_preset])):
            problems.append(f"--preset: got {self.preset}, expected {', '.join(named)} or auto")
        if not self.data:
            problems.append("--data is missing: type --data folder:/path/to/imagenet, or --data demo to try")
        if self.batch_size < 1 or self.batch_size % self.accumulate:
            problems.append(f"--batch-size: got {self.batch_size}, expected a multiple of {self.accumulate}")
        if not self.superpixel_cache_gb > 0:
            problems.append(f"--superpixel-cache-gb: got {self.superpixel_cache_gb}, expected more than 0")
        if not 0 <= self.val_share < 1:
            problems.append(f"--val-share: got {self.val_share}, expected 0 to below 1, such as 0.1")
        if self.val and self.val_share:
            problems.append("--val and --val-share both name held-out images: give one of them")
        return problems + self.below(knn_images=0)

    def images(
        self, *, measured: bool = True, streams: bool = True, channels: int = 3
    ) -> tuple[Images | Stream, Images | Stream | None]:
        """The training images and the held-out images; prints what is held out and left out.

        Args:
            measured: False if nothing will be measured.
            streams: False if what is measured needs images by index.
            channels: of the model.

        Raises:
            DataError: as :func:`castssl.data.splits.open_splits`.
        """
        train, held_out, remarks = open_splits(
            self.data,
            val=self.val,
            share=self.val_share,
            seed=self.seed,
            subset=self.subset,
            measured=measured,
            streams=streams,
            commands=self.allow_commands,
            channels=channels,
        )
        for remark in (*remarks, *self._remarks(train)) if distributed.is_main() else ():
            print(printable(remark), file=sys.stderr)
        return train, held_out

    def _remarks(self, train: Images | Stream) -> list[str]:
        """What the preset set; or that another one suits so few images."""
        count, values = len(train), self.by_preset.get(self.preset, {})
        if values:
            kept = [(name, value) for name, value in values.items() if value == getattr(self, name)]
            flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in kept)
            return [f"--preset {self.preset} sets {flags}"]
        suited = presets.of_count(count)
        if suited not in self.by_preset or count >= FEW * self.batch_size:
            return []
        return [
            f"{count:,} training images are fewer than {FEW} steps of --batch-size {self.batch_size} an"
            f" epoch; --preset {suited} has settings for so few"
        ]

    def loading(self) -> dict[str, Any]:
        """The options of :func:`castssl.data.loader.load`, for training, that are settings.

        Raises:
            ConfigError: if the superpixel cache cannot be written to.
        """
        size, folder = self.batch_size // self.accumulate, self.superpixel_cache
        cache = None if folder is None else Cache(folder, self.superpixel_cache_gb)
        return {"batch_size": size, "workers": self.workers, "seed": self.seed, "cache": cache}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ImageConfig):
    """What is trained."""

    model: str = "cast_small"
    """cast_small, cast_small_deep, cast_base, cast_base_deep, each also as ..._seg (COCO); cast_nano or nano;
    vit_small, vit_base, vit_small_superpixels, vit_small_pooling (Table 3a); tome_small; hier_vit_small;
    KIND:NAME of a plugin, such as timm:resnet50 (`castssl list encoders`)."""
    pooling: str = "graph"
    """A pooling with options, such as graph:centroids=random; `castssl list pooling` shows all."""
    membership: Literal["nearest", "area"] = "nearest"
    """How pixels belong to tokens: sampled at the stem's grid (the paper), or by area (none is lost)."""
    channels: int = 3
    """Input channels: 3 = RGB; 1 = gray, to which colors are converted. Any other number is that of --data,
    TIFF or .npy files, whose colors are augmented without hue, saturation and gray."""
    mean: tuple[float, ...] = ()
    """Mean of each channel, of values 0 to 1; by default ImageNet's."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel, likewise."""
    superpixel_channels: tuple[int, ...] = ()
    """Three channels, numbered from 0, of which superpixels are computed and pictures are drawn where
    --channels is neither 1 nor 3; by default 0 1 2."""
    warmup_epochs: float = 10
    """Epochs of linear warm-up; a tenth of --epochs where that is not above the default."""
    knn_every: int = field(default=10, metadata=FREE)
    """Epochs between evaluations on held-out images (kNN, matching, object IoU), besides one before and one
    after training, which is all if it is above --epochs; 0 = never."""

    def problems(self) -> list[str]:
        """Faults of these settings that their types allow."""
        problems = super().problems()
        if self.epochs and not 0 <= self.warmup_epochs < self.epochs:
            problems.append(
                f"--warmup-epochs: got {self.warmup_epochs}, expected 0 to below --epochs, {self.epochs}"
            )
        faults = channel_faults(self.channels, self.mean, self.std, self.superpixel_channels)
        return [*problems, *(f"--{fault}" for fault in faults)]

    def fitted(self, typed: Collection[str]) -> Self:
        """A default warm-up that would not end is a tenth of the epochs instead."""
        config = super().fitted(typed)
        if "warmup_epochs" in typed or not 0 < config.epochs <= config.warmup_epochs:
            return config
        return replace(config, warmup_epochs=config.epochs / 10)

    def images(
        self, *, measured: bool = True, streams: bool = True, channels: int | None = None
    ) -> tuple[Images | Stream, Images | Stream | None]:
        """As :meth:`ImageConfig.images`, of the channels that the model reads."""
        return super().images(measured=measured, streams=streams, channels=channels or self.channels)

    def _remarks(self, train: Images | Stream) -> list[str]:
        """Those of all images, and what is left out for other channels than RGB."""
        remarks = super()._remarks(train)
        if self.channels in RGB:
            return remarks
        left_out = "hue, saturation and grayscale are left out of their augmentation"
        return [*remarks, f"--channels {self.channels}: {left_out}"]

    def backend(self, seeds: str = "seeds") -> str:
        """The superpixels' spec: the user's, or the model's own, with ``seeds`` where that is SEEDS."""
        if self.superpixels != "auto":
            return self.superpixels
        default = find_config(self.model).superpixels
        return seeds if default == "seeds" else default

    def encoder(self, seeds: str = "seeds", **overrides: Any) -> EncoderConfig:
        """The config of the encoder to train, with ``overrides``; ``seeds`` as in :meth:`backend`."""
        names = ("pooling", "sizes", "image_size", "membership", *CHANNELS)
        settings = {name: getattr(self, name) for name in names}
        return override(find_config(self.model), superpixels=self.backend(seeds), **settings, **overrides)


@dataclass(frozen=True, kw_only=True)
class TransferConfig(ImageConfig):
    """What is transferred to images with label maps."""

    weights: str = ""
    """A run's folder, its encoder.safetensors or a checkpoint of it, or a published checkpoint; without it
    --model starts from new weights."""
    model: str = ""
    """A model that takes over --weights, or starts from new weights, such as cast_small_dense; by default the
    model of --weights. A fusion that the weights lack is new."""
    pooling: str = "auto"
    """A pooling with options, such as graph:centroids=random; `castssl list pooling` shows all; auto is the
    model's own."""
    image_size: int = 0
    """Side of a training crop in pixels; 0 = what the encoder was trained at."""

    def problems(self) -> list[str]:
        """Faults of these settings that their types allow."""
        problems = super().problems()
        if not (self.weights or self.model):
            problems.append("type --weights RUN to transfer an encoder, or --model NAME for a new one")
        if self.superpixel_cache:
            problems.append("--superpixel-cache: superpixels follow scaled images here; leave it out")
        return problems

    def transfer(self) -> dict[str, Any]:
        """The options of :func:`castssl.checkpoints.transfer.transfer` that are settings."""
        names = ("pooling", "superpixels", "sizes")
        return {"image_size": self.image_size or None} | {name: getattr(self, name) for name in names}
