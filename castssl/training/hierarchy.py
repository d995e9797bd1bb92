"""Settings for recognition at all levels of a taxonomy: H-CAST's and its baselines', by name.

The numbers are those of the released H-CAST's and Free-Grained's READMEs, one set for each data set;
``demo`` is castssl's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from castssl.config import FREE, MEASURES, flag_value
from castssl.errors import ConfigError, PluginError
from castssl.registry import did_you_mean, parse, require
from castssl.training import presets
from castssl.training.supervised import SupervisedConfig

if TYPE_CHECKING:
    from typing_extensions import Self


class Method(NamedTuple):
    """The objective and the encoders of a method."""

    objective: str
    """The spec of an objective; the user's options come on top."""
    model: str
    nano: str
    """Of the size that the demo trains."""
    hie: bool = False
    """Whether its results are shown with HiE, too."""


METHODS: Mapping[str, Method] = {
    "hcast": Method("tree-kl", "cast_small", "cast_nano"),
    "hier-vit": Method("tree-kl:weight=0,norm=shared", "hier_vit_small", "nano_vit"),
    "taxon-ssl": Method("taxon-ssl", "hier_vit_small", "nano_vit"),
    "flat-cast": Method("flat", "cast_small", "cast_nano", hie=True),
    "flat-vit": Method("flat", "hier_vit_small", "nano_vit", hie=True),
    "transhp": Method("transhp", "hier_vit_small", "nano_vit"),
    "fgn": Method("fgn", "timm:resnet50", "timm:resnet18"),
    "hrn": Method("hrn", "timm:resnet50", "timm:resnet18"),
    "clip": Method("clip", "clip:ViT-B-32/openai", "clip:ViT-B-32/openai"),
}
"""The poster's rows, Taxon-SSL of Free-Grained, and zero-shot CLIP."""
TAXON_SSL: Mapping[str, Any] = {
    **{"optimizer": "sgd-nesterov", "lr": 4e-3, "weight_decay": 5e-4, "cls_token_twice": False},
    **{"batch_size": 128, "epochs": 200, "warmup_epochs": 0, "min_lr": 0.0, "repeats": 1, "ema": 0.0},
    "drop_path": 0.0,
}
"""The released settings of ``taxon-ssl``: a rate of 1e-3 for 128 images, on one process."""
_PLAIN = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}
_FROM_NEW = {**_PLAIN, "epochs": 200, "batch_size": 1024}
_ONE_PROCESS = {**_PLAIN, "batch_size": 256, "repeats": 1}
FREE_GRAINED: Mapping[str, Mapping[str, Any]] = {
    "imagenet-f": _FROM_NEW,
    "imagenet-3l": _FROM_NEW,
    "inat21-f": {**_PLAIN, "batch_size": 512},
    "cub-f": _ONE_PROCESS,
    "cub-real": _ONE_PROCESS,
    "aircraft-f": _ONE_PROCESS,
}
"""Settings of Free-Grained's data sets.  Nothing is mixed or smoothed; the first two train from new weights
on four processes, iNat21-F on two, CUB and Aircraft on one, each from trained weights."""
LEVEL_MEAN = {"level_mean": "labeled"}
"""The option of ``tree-kl`` for these data sets."""
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    **FREE_GRAINED,
    "cub": {"batch_size": 256, "repeats": 1},
    "aircraft": {"batch_size": 256, "repeats": 1, "lr": 1e-3, "warmup_lr": 1e-4},
    "breeds": {"batch_size": 1024},
    "inat21-mini": {"batch_size": 1024},
    "demo": {
        **{"image_size": 64, "batch_size": 32, "workers": 1, "schedule": "paper", "lr": 0.03},
        **{"warmup_lr": 1e-5, "epochs": 8, "warmup_epochs": 1, "repeats": 1, "augment": "none", "erase": 0.0},
        **{"crop_min": 0.35, "mixup": 0.0, "cutmix": 0.0, "drop_path": 0.0, "ema": 0.0, "knn_every": 8},
    },
}
"""Settings by data set; CUB and Aircraft ran on one process without repeated views, the others on four."""
AS_TRAINED: Mapping[str, Any] = {"batch_size": 256, "repeats": 1}
"""On BREEDS: the command line of the README is for four GPUs, the authors say that they trained on one."""
RELEASED_COSINE = 300
"""Epochs of the cosine in the code released for ``hcast``, whatever its ``--epochs`` says."""
SEEDS_OF_BREEDS = "seeds:count=256,bins=5,iterations=15"
"""The released code asks for 256 superpixels on BREEDS, whatever its command line says."""


@dataclass(frozen=True, kw_only=True)
class HierarchyConfig(SupervisedConfig):
    """Recognition at all levels of a taxonomy; defaults depend on --data and --method."""

    by_preset: ClassVar[presets.Values] = {**presets.SUPERVISED, "as-trained": AS_TRAINED}
    preset: str = field(default="published", metadata=FREE)
    """Defaults of the other flags: published, those of H-CAST's README for the data set; as-trained, on
    BREEDS, those that its authors say they trained with; small or tiny, for fewer images; or auto, by the
    number of training images. recipes/README.md lists what each sets."""
    method: str = "hcast"
    """hcast, hier-vit, taxon-ssl (semi-supervised), and of castssl-baselines flat-cast, flat-vit (one model
    a level, also with HiE), transhp, fgn, hrn or clip (zero-shot), with options of its objective, such as
    hcast:weight=0,norm=each; `castssl describe objectives tree-kl` lists them."""
    epochs: int = 100
    weights: str | None = None
    """Begin with a trained encoder: a run's folder, an encoder.safetensors, or a published checkpoint."""
    masks: str | None = field(default=None, metadata=MEASURES)
    """Object and part masks to compare the segments with, as COCO JSON (such as PartImageNet's); by default
    the masks beside the data set's own images, if there are any."""
    free_grain: float | str = 0.0
    """SHARE[:seed]: the share of the training images of each class whose fine label is hidden, such as 0.8;
    or the shares whose labels end at each level, coarse to fine, such as 0.5/0.4/0.1.  Without a seed,
    --seed is used."""
    optimizer: Literal["adamw", "sgd-nesterov"] = "adamw"
    """adamw, or sgd-nesterov as taxon-ssl was released with."""
    texts: str | None = None
    """Texts of the training images as a second target, for hcast, hier-vit and taxon-ssl: a CSV file with the
    columns path and text, or lines PATH.JPEG, TEXT. With --data demo also demo or demo:NOISE, generated
    ones."""
    text_encoder: str = "clip:ViT-B-32/openai"
    """The encoder that embeds the texts, once: clip:ARCHITECTURE/WEIGHTS, sentence:NAME or another source of
    castssl.text; words:DIM needs no weights."""

    @classmethod
    def starting(cls, argv: Sequence[str]) -> Self:
        """The defaults for the data set and the method of a command line."""
        data = (flag_value(argv, "--data") or "").partition(":")[0]
        name = (flag_value(argv, "--method") or cls.method).partition(":")[0]
        chosen = METHODS.get(name, METHODS["hcast"])
        named = presets.resolve(argv)
        preset, small = cls.by_preset.get(named, {}), named in presets.SUPERVISED
        defaults: dict[str, Any] = {"model": chosen.nano if small or data == "demo" else chosen.model}
        if data == "breeds" and chosen.model.startswith("cast") and flag_value(argv, "--model") is None:
            defaults |= {"superpixels": SEEDS_OF_BREEDS, "sizes": (256, 64, 32, 16, 8)}
        if name in ("fgn", "hrn", "taxon-ssl"):  # Their papers mix nothing.
            defaults |= {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}
        if name == "taxon-ssl" and data != "demo" and not small:
            defaults |= TAXON_SSL
        if flag_value(argv, "--texts") and data == "demo":
            defaults |= {"text_encoder": "words:64"}
        if name == "clip":
            defaults |= {"epochs": 0, "warmup_epochs": 0, "drop_path": 0.0}
        released = data in PUBLISHED and data != "demo" and flag_value(argv, "--schedule") != "paper"
        released &= data not in FREE_GRAINED  # Their released code has a cosine of all epochs.
        if name == "hcast" and released and not small:
            defaults |= {"cosine_epochs": RELEASED_COSINE}
        return cls(**{**PUBLISHED.get(data, {}), **preset, **defaults})

    def problems(self) -> list[str]:
        """Faults of these settings that their types allow."""
        problems = super().problems()
        if self.preset == "as-trained" and self.data.partition(":")[0] != "breeds":
            problems.append(f"--preset as-trained is for --data breeds:..., got {self.data}; take published")
        try:
            self.hidden()
        except ConfigError as error:
            problems.append(str(error))
        if self.texts and parse(self.method).name not in ("hcast", "hier-vit", "taxon-ssl"):
            problems.append(f"--texts is for hcast, hier-vit and taxon-ssl, got --method {self.method}")
        if "text_dim" in parse(self.method).options:
            problems.append(f"text_dim is that of --texts and --text-encoder, got --method {self.method}")
        try:
            require("objectives", parse(self.chosen().objective).name)
        except (ConfigError, PluginError) as error:
            problems.append(f"--method: {error}")
        return problems

    def hidden(self) -> tuple[float | tuple[float, ...], int]:
        """The share of :attr:`free_grain`, or one for each level, and the seed of its draw.

        Raises:
            ConfigError: if that is not a text of this form.
        """
        text, colon, seed = str(self.free_grain).partition(":")
        try:
            shares, number = tuple(map(float, text.split("/"))), int(seed) if colon else self.seed
        except ValueError:
            shares, number = (), -1
        if not shares or not all(0 <= each <= 1 for each in shares) or number < 0:
            raise ConfigError(
                "--free-grain is a share, or one for each level, and may have a seed: got"
                f" {self.free_grain!r}, expected 0.8, 0.8:1 or 0.5/0.4/0.1:1"
            )
        return shares if len(shares) > 1 else shares[0], number

    def optimizing(self) -> dict[str, Any]:
        """As for other recipes, and the optimizer's name."""
        return super().optimizing() | {"name": self.optimizer}

    def chosen(self) -> Method:
        """The method, with the options that the data set has, and those that the user gave its objective.

        Raises:
            ConfigError: if there is no such method.
        """
        name, options = parse(self.method)
        if name not in METHODS:
            near = did_you_mean(name, METHODS) or "."
            raise ConfigError(f"no method {name!r}{near}  There are {', '.join(METHODS)}")
        method = METHODS[name]
        base = parse(method.objective)
        listed = self.data.partition(":")[0] in FREE_GRAINED and base.name == "tree-kl"
        merged = {**base.options, **(LEVEL_MEAN if listed else {}), **options}
        text = ",".join(f"{key}={value}" for key, value in merged.items())
        return method._replace(objective=f"{base.name}:{text}" if text else base.name)
