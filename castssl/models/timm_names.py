"""castssl's models under their names in timm: ``timm.create_model("cast_small")``.

Importing ``castssl.models`` registers them.  They take images alone, as all of timm's models do, and make
their superpixels themselves: on the CPU where the backend runs there, which waits for the device and stays
outside of a compiled graph.  Where that is too slow, compute the segments in the data loader and pass them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from castssl.errors import ConfigError
from castssl.models.cast import CAST
from castssl.models.create import PRESETS, create, preset
from castssl.registry import build
from castssl.types import Hierarchy, View


class TimmCAST(nn.Module):
    """A CAST with a classifier and its superpixels, with the methods that timm expects of a model.

    ``forward_features`` returns the tokens of the stage that serves the class token, which comes first.

    Args:
        model: a castssl model's name.
        num_classes: outputs of the classifier; 0 for features.
        img_size: side in pixels for which the position table is made; images may have other sizes.
        in_chans: 3, as superpixels need colours.
        global_pool: "token", the class token; "" leaves the tokens as they are, (B, 1 + N, D).
        superpixels: spec of the backend; by default the model's own.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block.
        options: further options of :func:`castssl.models.create.create`: pooling, sizes, membership, ...

    Raises:
        ConfigError: if an option cannot be served.
    """

    def __init__(
        self,
        model: str,
        *,
        num_classes: int = 1000,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        global_pool: str = "token",
        superpixels: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        side = img_size if isinstance(img_size, int) else max(img_size)
        _refuse(in_chans, global_pool)
        self.encoder = cast(CAST, create(model, image_size=side, drop_path=drop_path_rate, **options))
        self.spec = superpixels or preset(model).superpixels
        self.superpixels = build("superpixels", self.spec)
        self.num_features = self.head_hidden_size = self.embed_dim = self.encoder.dim
        self.num_prefix_tokens = 1
        self.num_classes, self.global_pool = num_classes, global_pool
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(self.num_features, num_classes)
        # The builder replaces it; until then, and where it has none, ImageNet's.
        self.pretrained_cfg: dict[str, Any] = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """Logits (B, C), or features (B, D) of a model without classifier.

        Args:
            x: float (B, 3, H, W), normalised with ``pretrained_cfg``'s mean and std.
            segments: int (B, H, W), to bring one's own superpixels.
        """
        return self.forward_head(self.forward_features(x, segments))

    def forward_features(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """The last stage's tokens, float (B, 1 + N, D), the normalised class token first."""
        last = self.encoder(self.view(x, segments)).stages[-1]
        return torch.cat([last.cls, last.x], 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The class token's logits (B, C); itself (B, D) with ``pre_logits``."""
        x = self.head_drop(x[:, 0] if self.global_pool else x)
        out: Tensor = x if pre_logits else self.head(x)
        return out

    def hierarchy(self, x: Tensor, segments: Tensor | None = None) -> Hierarchy:
        """All stages, also those that exist for the segmentation alone."""
        return self.encoder.segment(self.view(x, segments))

    def view(self, x: Tensor, segments: Tensor | None = None) -> View:
        """Normalised images with their superpixels.

        Raises:
            ConfigError: if the superpixels may be more than the encoder has room for.
        """
        if segments is not None:
            return View(x, segments)
        most, room = self.superpixels.capacity(x.shape[-2], x.shape[-1]), self.encoder.sizes[0]
        if most > room:
            raise ConfigError(
                f"{self.spec} may give {most} superpixels of {x.shape[-2]} x {x.shape[-1]} pixels, but the"
                f" model has room for {room}: pass sizes=({most}, ...), or fewer superpixels"
            )
        return View(x, self._partition(x))

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    @torch.no_grad()
    def _partition(self, x: Tensor) -> Tensor:
        pixels = to_pixels(x, self.pretrained_cfg["mean"], self.pretrained_cfg["std"])
        if self.superpixels.runs_on == "device":
            return self.superpixels(pixels)
        return self.superpixels(pixels.cpu()).to(x.device)

    def get_classifier(self) -> nn.Module:
        """The classifier; the identity if there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another classifier, freshly initialised; none with 0 classes.

        Raises:
            ConfigError: if ``global_pool`` is neither "token" nor "".
        """
        self.global_pool = self.global_pool if global_pool is None else global_pool
        _refuse(3, self.global_pool)
        self.num_classes = num_classes
        like = next(self.encoder.parameters())
        self.head = _classifier(self.num_features, num_classes).to(like.device, like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not there: a CAST needs a third less memory than a ViT to begin with.

        Raises:
            ConfigError: if asked for.
        """
        if enable:
            raise ConfigError("CAST has no gradient checkpointing; accumulate smaller batches instead")

    def no_weight_decay(self) -> set[str]:
        """What timm's optimizers must not decay."""
        return {"encoder.cls_token", "encoder.positions"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm's layer-wise learning rate decay groups parameters, stem first."""
        stages = r"^encoder\.(?:stages|poolings)\.(\d+)"
        fine = [(r"^encoder\.stages\.(\d+)\.blocks\.(\d+)", None), (r"^encoder\.poolings\.(\d+)", (999,))]
        ends = (r"^encoder\.(?:norm|fusion)", (99999,))
        blocks = [(stages, None), ends] if coarse else [*fine, ends]
        return {"stem": r"^encoder\.(?:stem|cls_token|positions)", "blocks": blocks}


def to_pixels(x: Tensor, mean: Iterable[float], std: Iterable[float]) -> Tensor:
    """Undo a normalisation: float (B, 3, H, W) -> uint8 (B, 3, H, W), exact for float32 and better."""
    scale, shift = (
        torch.tensor([*v], dtype=torch.float32, device=x.device)[:, None, None] for v in (std, mean)
    )
    return ((x.float() * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8)


def _refuse(in_chans: int, global_pool: str) -> None:
    if in_chans != 3:
        raise ConfigError(f"superpixels need RGB images: in_chans is 3, got {in_chans}")
    if global_pool not in {"token", ""}:
        raise ConfigError(f"CAST reads its class token: global_pool is 'token' or '', got {global_pool!r}")


def _classifier(dim: int, classes: int) -> nn.Module:
    head = nn.Linear(dim, classes) if classes else nn.Identity()
    if isinstance(head, nn.Linear):
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return head


def _with_prefix(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A castssl encoder's file has no ``encoder.``, and no classifier."""
    if any(key.startswith("encoder.") for key in state):
        return state
    head = {f"head.{key}": value for key, value in cast(TimmCAST, model).head.state_dict().items()}
    return {**head, **{f"encoder.{key}": value for key, value in state.items()}}


def _entry(name: str, model: str) -> Callable[..., nn.Module]:
    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        if options.pop("features_only", False):
            raise ConfigError(
                f"{name} has no feature maps for features_only: its tokens are segments; call"
                " .hierarchy(images), whose stages hold the tokens and labels(stage) the pixels"
            )
        built: nn.Module = build_model_with_cfg(
            TimmCAST, name, pretrained, model=model, pretrained_filter_fn=_with_prefix, **options
        )
        return built

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"castssl's {model} with a classifier; see :class:`TimmCAST`."
    return make


NAMES: dict[str, str] = {
    name if name.startswith("cast_") else f"cast_{name}": name
    for name, chosen in PRESETS.items()
    if name.startswith("cast_") or name == "nano"
}
"""timm's name -> castssl's; the ViT baselines of Table 3a have relatives in timm already."""
default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": None,
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "encoder.stem.layers.0",
            "classifier": "head",
            "license": "apache-2.0",
        }
        for name in NAMES
    }
)
__all__ = ["NAMES", "TimmCAST", "to_pixels"]
for _name, _model in NAMES.items():
    globals()[_name] = register_model(_entry(_name, _model))
