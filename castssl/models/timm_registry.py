"""castssl's models under their names in timm: ``timm.create_model("cast_small")``.

Importing ``castssl.models`` registers them.  They take images alone, as all of timm's models do, and make
their superpixels themselves: on the CPU where the backend runs there, which waits for the device and stays
outside of a compiled graph.  Where that is too slow, compute the segments in the data loader and pass them,
or choose a backend for the device, such as ``superpixels="device-slic:count=196"`` (of castssl-slic).
With ``features_only=True`` they are :class:`TimmFeatures`, such as segmentation_models_pytorch takes by the
name ``tu-cast_small``.

``checkpoint_path=RUN`` of ``timm.create_model`` takes the folder or the file of a run, see
:mod:`castssl.models.timm_checkpoints`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    FeatureInfo,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from castssl.encoder_config import imagenet
from castssl.errors import ConfigError, DataError
from castssl.models.blocks import Stage
from castssl.models.cast import CAST
from castssl.models.create import create
from castssl.models.fuse import FusedCAST
from castssl.models.initialization import linear
from castssl.models.presets import PRESETS
from castssl.registry import build_superpixels
from castssl.superpixel_labels import is_tracing, partition
from castssl.tensor_files import not_safetensors
from castssl.tokens.positions import resize
from castssl.tokens.segments import sample_labels
from castssl.types import Hierarchy, View

_HEADS, _BESIDE = "heads.", ("heads.", "extra.")
"""What castssl's files have before the names of tensors that are not part of the encoder."""


class TimmCAST(nn.Module):
    """A CAST with a classifier and its superpixels, with the methods that timm expects of a model.

    ``forward_features`` returns the tokens of the stage that serves the class token, which comes first.

    Args:
        model: a castssl model's name.
        num_classes: outputs of the classifier; 0 for features.
        img_size: side in pixels for which the position table is made; images may have other sizes.
        in_chans: channels of the images.  Weights of RGB are adapted by timm; superpixels of other than RGB
            come from ``superpixel_channels``, by default the first three.
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
        _refuse(global_pool)
        options |= {"superpixels": superpixels, "drop_path": drop_path_rate, "channels": in_chans}
        encoder = create(model, image_size=side, advance=True, **options)
        if not isinstance(encoder, CAST):
            raise ConfigError(f"timm's {model} is a CAST, but the options ask for a {type(encoder).__name__}")
        self.encoder = encoder
        self.set_superpixels(encoder.config.superpixels)
        self.chosen: frozenset[str] = frozenset()
        """The options that ``timm.create_model`` was called with."""
        self.num_features = self.head_hidden_size = self.embed_dim = self.encoder.dim
        self.num_prefix_tokens = 1
        self.num_classes, self.global_pool = num_classes, global_pool
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(self.num_features, num_classes)
        # The builder replaces it; until then, and where it has none, ImageNet's.
        self.pretrained_cfg: dict[str, Any] = _constants(in_chans)

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """Logits (B, C), or features (B, D) of a model without classifier.

        Args:
            x: float (B, C, H, W), normalized with ``pretrained_cfg``'s mean and std.
            segments: int (B, H, W), to bring one's own superpixels.
        """
        return self.forward_head(self.forward_features(x, segments))

    def forward_features(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """The last stage's tokens, float (B, 1 + N, D), the normalized class token first."""
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
        """Normalized images with their superpixels.

        Raises:
            ConfigError: if the superpixels may be more than the encoder has room for, or ``torch.jit.trace``
                would keep those of its example for every other image.
        """
        if segments is not None:
            return View(x, segments)
        if is_tracing():
            raise ConfigError(
                "torch.jit.trace would keep the superpixels of its example image for all images: trace with"
                " (images, segments) as example inputs, or use `castssl export RUN --to onnx`"
            )
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
            return partition(self.superpixels, pixels)
        return partition(self.superpixels, pixels.cpu()).to(x.device)

    def get_classifier(self) -> nn.Module:
        """The classifier; the identity if there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another classifier, freshly initialized; none with 0 classes.

        Raises:
            ConfigError: if ``global_pool`` is neither "token" nor ""; the model stays as it was.
        """
        pool = self.global_pool if global_pool is None else global_pool
        _refuse(pool)
        self.global_pool, self.num_classes = pool, num_classes
        like = next(self.encoder.parameters())
        self.head = _classifier(self.num_features, num_classes).to(like.device, like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute attention blocks again in the backward pass, which needs less memory and more time."""
        for stage in self.encoder.stages:
            if isinstance(stage, Stage):
                stage.checkpointing = enable

    def set_superpixels(self, superpixels: str) -> None:
        """Another backend of superpixels, given as a spec."""
        self.encoder.config = replace(self.encoder.config, superpixels=superpixels)
        self.superpixels, self.spec = build_superpixels(self.encoder.config), superpixels

    def set_input_size(
        self, img_size: int | Sequence[int] | None = None, patch_size: int | Sequence[int] | None = None
    ) -> None:
        """Resize the position table (bicubic) for another image side.

        Images of that size get the same features as before: the table was resized in each forward pass.

        Args:
            img_size: side in pixels; None leaves the table.  Of two sides the longer one counts.
            patch_size: None, as tokens are superpixels.

        Raises:
            ConfigError: if ``patch_size`` is given, or ``img_size`` is below 1; the model stays as it was.
        """
        if patch_size is not None:
            raise ConfigError(
                "CAST has no patches, its tokens are superpixels: leave patch_size out, and choose sizes and"
                " superpixels in create_model"
            )
        if img_size is None:
            return
        side = img_size if isinstance(img_size, int) else max(img_size)
        if side < 1:
            raise ConfigError(f"img_size is a side in pixels, at least 1, got {img_size}")
        encoder = self.encoder
        grid, table = -(-side // encoder.stem.stride), encoder.positions
        encoder.positions = nn.Parameter(
            resize(table.detach(), grid, grid), requires_grad=table.requires_grad
        )
        encoder.config = replace(encoder.config, image_size=side)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        segments: Tensor | None = None,
    ) -> Any:
        """The tokens after each stage, as timm's models return those of their blocks.

        Args:
            x: as in :meth:`forward`.
            indices: which stages: None all, an int the last so many, or their numbers.
            return_prefix_tokens: return pairs of intermediates and class tokens float (B, 1, D).
            norm: apply the final norm to the intermediates; the last class token is normed in any case.
            stop_early: has no effect, the stages after the last index are computed.
            output_fmt: "NLC", tokens float (B, N, D), where a token without pixels is padding; or "NCHW",
                float (B, D, h, w), the token of each stem cell's segment, zeros where it has none.
            intermediates_only: leave out the result of :meth:`forward_features`.
            output_dict: return a dict of ``image_intermediates``, ``image_intermediates_prefix`` and
                ``image_features``.
            segments: as in :meth:`forward`.

        Returns:
            The result of :meth:`forward_features` and a list of intermediates.

        Raises:
            ConfigError: if ``output_fmt`` is another one, or there is no such stage.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt is NCHW or NLC, got {output_fmt!r}")
        hierarchy = self.encoder(self.view(x, segments))
        count = len(hierarchy.stages)
        intermediates, prefix = [], []
        for stage in _stages(indices, count):
            tokens, last = hierarchy.stages[stage], stage == count - 1
            rows = self.encoder.norm(tokens.x) if norm else tokens.x
            prefix.append(self.encoder.norm(tokens.cls) if norm and not last else tokens.cls)
            stride, labels = self.encoder.stem.stride, hierarchy.labels(stage)
            cells = [-(-side // stride) for side in labels.shape[-2:]]
            intermediates.append(rows if output_fmt == "NLC" else _paint(rows, labels, *cells))
        features = torch.cat([hierarchy.stages[-1].cls, hierarchy.stages[-1].x], 1)
        if output_dict:
            named = {"image_intermediates": intermediates}
            named |= {"image_intermediates_prefix": prefix} if return_prefix_tokens else {}
            return named if intermediates_only else {**named, "image_features": features}
        out = list(zip(intermediates, prefix, strict=True)) if return_prefix_tokens else intermediates
        return out if intermediates_only else (features, out)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As torch's, and also of a run's ``encoder.safetensors``, and for images of another size.

        A file without a classifier, or with one of other classes, leaves the model's own; a position table of
        another grid is resized.

        Raises:
            DataError: if it holds no encoder at all.
        """
        return super().load_state_dict(_fitted(dict(state_dict), self, strict), strict, assign)

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


class TimmFeatures(nn.Module):
    """The stages of a model as maps, as timm's models return them with ``features_only=True``.

    The map of stage i has a cell for every 4 * 2^i pixels a side: the mean of the tokens of its pixels, which
    are sampled every 4 pixels; 0 where they have none.  The tokens of the last stage are normed.  What the
    last of the maps does not need is neither computed nor trained.

    Args:
        model: built without a classifier.
        out_indices: which stages, as for :meth:`TimmCAST.forward_intermediates`.

    Raises:
        ConfigError: if there is no such stage.
    """

    def __init__(self, model: TimmCAST, out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.model, encoder = model, model.encoder
        count = encoder.stages_with_cls
        self.out_indices = tuple(_stages(out_indices, count))
        self.feature_info = FeatureInfo(
            [
                {"num_chs": encoder.dim, "reduction": 4 * 2**stage, "module": f"model.encoder.stages.{stage}"}
                for stage in range(count)
            ],
            self.out_indices,
        )
        last = max(self.out_indices)
        idle = [*encoder.stages[last + 1 :], *encoder.poolings[last:]]
        idle += [encoder.norm] if last < count - 1 else []
        idle += [encoder.fusion] if isinstance(encoder, FusedCAST) else []
        for module in idle:
            module.requires_grad_(False)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The model's own."""
        return self.model.pretrained_cfg

    def forward(self, x: Tensor, segments: Tensor | None = None) -> list[Tensor]:
        """Maps, float (B, D, h, w) each, with sides that are rounded up.

        Args:
            x: as for :class:`TimmCAST`.
            segments: as for :class:`TimmCAST`.
        """
        encoder, last = self.model.encoder, max(self.out_indices)
        hierarchy, _ = encoder.trace(self.model.view(x, segments), stages=last + 1)
        maps = []
        for stage in self.out_indices:
            rows = hierarchy.stages[stage].x
            rows = encoder.norm(rows) if stage == encoder.stages_with_cls - 1 else rows
            height, width = (-(-side // 4) for side in x.shape[-2:])
            painted = _paint(rows, hierarchy.labels(stage), height, width)
            size = tuple(-(-side // (4 * 2**stage)) for side in x.shape[-2:])
            maps.append(nn.functional.adaptive_avg_pool2d(painted, size))
        return maps


def _paint(rows: Tensor, labels: Tensor, height: int, width: int) -> Tensor:
    """The row of each cell's sampled label: (B, N, D), (B, H, W) -> (B, D, height, width); 0 without one."""
    index = sample_labels(labels, height, width).flatten(1)[..., None]
    painted = rows.gather(1, index.clamp(min=0).expand(-1, -1, rows.shape[-1])).masked_fill(index < 0, 0)
    return painted.transpose(1, 2).reshape(len(rows), -1, height, width)


def to_pixels(x: Tensor, mean: Iterable[float], std: Iterable[float]) -> Tensor:
    """Undo a normalization: float (B, C, H, W) -> uint8 (B, C, H, W), exact for float32 and better."""
    scale, shift = (
        torch.tensor([*v], dtype=torch.float32, device=x.device)[:, None, None] for v in (std, mean)
    )
    return ((x.float() * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8)


def _stages(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """The numbers of the stages that timm's ``indices`` name."""
    if isinstance(indices, int) and 0 < indices <= count:
        return list(range(count - indices, count))
    wanted = range(count) if indices is None else [indices] if isinstance(indices, int) else indices
    if isinstance(indices, int) or not all(-count <= stage < count for stage in wanted):
        raise ConfigError(
            f"indices are the last 1 to {count} stages, or a list of numbers 0 to {count - 1}, got {indices}"
        )
    return [stage % count for stage in wanted]


def _constants(channels: int) -> dict[str, Any]:
    """The mean and standard deviation of images of so many channels, as timm's settings have them."""
    return dict(zip(("mean", "std"), imagenet(channels), strict=True))


def _refuse(global_pool: str) -> None:
    if global_pool not in {"token", ""}:
        raise ConfigError(f"CAST reads its class token: global_pool is 'token' or '', got {global_pool!r}")


def _classifier(dim: int, classes: int) -> nn.Module:
    return linear(dim, classes) if classes else nn.Identity()


def _fitted(state: dict[str, Any], model: TimmCAST, strict: bool = True) -> dict[str, Any]:
    """What a file holds, by the names and in the shapes of the model.

    A castssl encoder's file has no ``encoder.``; beside the encoder it may hold a classifier.
    """
    first_key = "stem.layers.0.weight"
    if first_key in state:
        classifier = model.head.state_dict()
        beside = {key: state.get(f"{_HEADS}head.{key}") for key in classifier}
        fits = all(
            value is not None and value.shape == classifier[key].shape for key, value in beside.items()
        )
        encoder = {f"encoder.{key}": v for key, v in state.items() if not key.startswith(_BESIDE)}
        state = {**encoder, **{f"head.{key}": v for key, v in (beside if fits else classifier).items()}}
    elif strict and f"encoder.{first_key}" not in state:
        raise DataError(
            f"the weights hold no castssl encoder, but {sorted(state)[:3]} ...; published weights become one"
            " by `castssl convert CHECKPOINT encoder.safetensors`"
        )
    table, wanted = state.get("encoder.positions"), model.encoder.positions
    if table is not None and table.shape[:2] == wanted.shape[:2]:
        state["encoder.positions"] = resize(table, *wanted.shape[2:])
    return state


def _entry(name: str) -> Callable[..., nn.Module]:
    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        features, out_indices = options.pop("features_only", False), options.pop("out_indices", None)
        if features:
            options["num_classes"] = 0
        try:
            built: TimmCAST = build_model_with_cfg(
                TimmCAST, name, pretrained, model=name, pretrained_filter_fn=_fitted, **options
            )
        except Exception as error:  # the library of each format has its own
            _name_pointers(name, options, error)
            raise
        built.chosen = frozenset(options)
        if (channels := built.encoder.config.channels) != 3:
            size = (channels, *built.pretrained_cfg["input_size"][1:])
            built.pretrained_cfg = {**built.pretrained_cfg, **_constants(channels), "input_size": size}
        return TimmFeatures(built, out_indices) if features else built

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"castssl's {name} with a classifier; see :class:`TimmCAST`."
    return make


def _name_pointers(name: str, options: Mapping[str, Any], error: Exception) -> None:
    """Raise DataError if the weights that timm was to read are a pointer of Git LFS."""
    chosen = resolve_pretrained_cfg(
        name, options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay")
    ).file
    place = Path(chosen or "none")
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if (why := not_safetensors(path, error)) != str(error):
            raise DataError(f"{path}: {why}") from error


NAMES = [name for name in PRESETS if name.startswith("cast_")]
"""The ViT baselines of Table 3a have relatives in timm already."""
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
__all__ = ["NAMES", "TimmCAST", "TimmFeatures", "to_pixels"]
for _name in NAMES:
    globals()[_name] = register_model(_entry(_name))
