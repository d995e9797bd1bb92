"""A published CAST or H-CAST model as a module that returns what the published code returns.

The keys determine the variant:

==================  ==================================  ====================================================
variant             detected by                         ``Official.forward`` returns
==================  ==================================  ====================================================
``cast``            ``pe_token``                        logits (B, C), or MoCo's projection
``cast_deit``       neither of the others' keys         logits (B, C)
``cast_deit_hier``  ``family_head`` (2 levels), and     a tuple of logits, finest level first: 3 levels from
                    ``manufacturer_head`` (3 levels)    stages 1, 2, 3 (from 0), 2 levels from stages 2, 3
``cast_seg``        ``block_fusion`` and ``pe_token``   "pretrain": head of the mean fused token (B, C);
                                                        "segmentation": of each fused token (B, N, C)
``cast_seg_deit``   ``block_fusion`` and no             fused class and segment tokens (B, 1 + N, D), no head
                    ``pe_token``
==================  ==================================  ====================================================

CAST-S, -S-deep, -B and -B-deep differ in width and in the number of blocks, which the keys determine, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.checkpoints.checkpoint import MOMENTUM, Checkpoint, State
from castssl.checkpoints.official import (
    KEPT,
    STRIDE,
    Stage,
    clusters,
    config_of,
    encode,
    named,
    published_heads,
    seeds_of,
)
from castssl.checkpoints.official_layout import FUSED, LEVELS
from castssl.checkpoints.report import Report
from castssl.errors import DataError
from castssl.models.cast import CAST
from castssl.models.fuse import FusedCAST
from castssl.modes import kept_random_state
from castssl.objectives.moco import mlp_head
from castssl.tokens.segments import sample_labels
from castssl.types import View


class Official(nn.Module):
    """An encoder in the published models' way, and what came with it.

    Attributes:
        variant: see the module's docstring.
        stage: ``segmentation`` where tokens are taken at the label map's resolution.
        encoder: the encoder, with ``padding="reference"``.
        head: classifier, MoCo projector, or the identity; H-CAST's finest level.
        coarser: H-CAST's other heads, from fine to coarse; empty elsewhere.
        report: what became of the file's tensors; print it.
    """

    def __init__(
        self, variant: str, encoder: CAST, head: nn.Module, coarser: Sequence[nn.Module], report: Report
    ) -> None:
        super().__init__()
        self.variant, self.encoder, self.head = variant, encoder, head
        self.coarser = nn.ModuleList(coarser)
        self.stage: Stage = "segmentation" if encoder.config.dense else "pretrain"
        self.report = report

    def forward(self, image: Tensor, segments: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the released code returns for this variant, see the module's docstring.

        As in the released code, the batch's largest label sets the number of tokens, so a result depends
        on the batch; use ``encoder`` with ``padding="mask"`` for results that do not.

        Args:
            image: normalized float (B, 3, H, W).
            segments: int (B, H, W); for ``stage="segmentation"`` of any size.
        """
        view = View(image, segments)
        sizes = self.sizes(view)
        # Labels above the largest sampled one belong to no cell; the released code never looks at them.
        view = View(image, segments.clamp(max=sizes[0] - 1))
        if self.stage == "segmentation" and isinstance(self.encoder, FusedCAST):
            _, fused = self.encoder.fuse(view, sizes)
            logits: Tensor = (
                fused if self.variant == "cast_seg_deit" else _apply_to_rows(self.head, fused[:, 1:])
            )
            return logits
        stages = self.encoder(view, sizes).stages
        heads = [self.head, *self.coarser]
        levels = tuple(h(s.cls[:, 0]) for h, s in zip(heads, stages[-len(heads) :], strict=True))
        return levels if self.coarser else levels[0]

    def sizes(self, view: View) -> tuple[int, ...]:
        """The token counts that the released code would use: largest sampled label + 1, then the clusters."""
        labels = view.segments
        if self.stage == "pretrain":
            stride = self.encoder.stem.stride
            height, width = (-(-side // stride) for side in view.image.shape[-2:])
            labels = sample_labels(labels, height, width)
        return (int(labels.max()) + 1, *self.encoder.sizes[1:])


def _apply_to_rows(head: nn.Module, x: Tensor) -> Tensor:
    """The head on every row: (B, N, D) -> (B, N, C); its batch norm wants rows of one dimension."""
    out: Tensor = head(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return out


def as_published(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself if it was published; one of castssl's own as the released code would run it.

    Raises:
        DataError: if the released code could not run such a model.
    """
    if checkpoint.variant:
        return checkpoint
    published = encode(checkpoint)
    config = config_of(published.layout, "segmentation" if checkpoint.config.dense else "pretrain")
    return replace(checkpoint, config=config, variant=published.layout.variant, report=published.report)


@kept_random_state()
def make(checkpoint: Checkpoint) -> Official:
    """The module of a published checkpoint."""
    report, dtype = checkpoint.report, checkpoint.encoder["cls_token"].dtype
    encoder = checkpoint.build()
    if not isinstance(encoder, CAST):
        raise DataError(f"{checkpoint.source} holds a {type(encoder).__name__}, expected a CAST")
    heads = classifiers(checkpoint)
    head: nn.Module = heads[0] if heads else nn.Identity()
    if layers := checkpoint.under("projector."):
        head = projection(layers).to(dtype)
        head.load_state_dict(layers)
    if checkpoint.variant == "cast_seg_deit":  # The released code builds them, and never calls them.
        report.ignored |= {"norm.*": "unused in this variant", "head.*": "unused in this variant"}
    note = 'padding="reference": empty tokens take part, as in the released code'
    report.notes += [] if note in report.notes else [note]
    model = Official(checkpoint.variant, encoder, head, heads[1:], report)
    # A checkpoint's dtype is kept: float64 parity stays float64.
    return model.to(dtype).eval()


def classifiers(checkpoint: Checkpoint) -> list[nn.Linear]:
    """One linear layer a label level, fine to coarse; none where they do not read the stages of H-CAST's."""
    if checkpoint.objective == "probe":  # Its classifier is that of DeiT.
        checkpoint = replace(checkpoint, objective="deit")
    try:
        tensors = published_heads(checkpoint)
    except DataError:
        return []
    pairs = [(tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")) for name in LEVELS]
    return [
        _linear(weight, bias)
        for weight, bias in pairs
        if weight is not None and bias is not None and weight.ndim == 2 and weight.shape[:1] == bias.shape
    ]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.to(weight.dtype).load_state_dict({"weight": weight, "bias": bias})
    return head


def projection(layers: State) -> nn.Module:
    """MoCo's projector with new weights, of the widths that its tensors have."""
    weights = {int(name.split(".")[1]): value for name, value in layers.items() if value.ndim == 2}
    first, *later = [weights[place] for place in sorted(weights)]
    return mlp_head((first.shape[1], len(first), *map(len, later)))


def adapt(
    checkpoint: Checkpoint, stage: Stage | None, image_size: int | None, sizes: Sequence[int] | None = None
) -> Checkpoint:
    """A published checkpoint as a Segmenter's encoder, for another image size, or with other token budgets.

    Raises:
        DataError: if the variant has no such stage, or the side is not a multiple of the stem's stride.
    """
    variant, config = checkpoint.variant, checkpoint.config
    if stage == "segmentation" and variant == "cast_deit":
        checkpoint = _with_fusion(checkpoint)
    elif stage == "segmentation" and variant not in FUSED:
        raise DataError(f"{variant} has no segmentation stage; only cast_seg, cast_seg_deit and cast_deit do")
    elif stage == "pretrain" and variant == "cast_seg_deit":
        raise DataError("cast_seg_deit has the segmentation stage only; leave stage out")
    chosen: Stage = stage or ("segmentation" if config.dense else "pretrain")
    dense = chosen == "segmentation"
    if dense != config.dense or sizes is not None:
        spec = seeds_of(checkpoint.variant, dense=dense)
        config = replace(checkpoint.config, dense=dense, sizes=clusters(chosen, sizes), superpixels=spec)
        checkpoint = replace(checkpoint, config=named(config))
    return checkpoint if image_size is None else _resize(checkpoint, image_size)


def _resize(checkpoint: Checkpoint, image_size: int) -> Checkpoint:
    config, side = checkpoint.config, image_size // STRIDE
    if image_size == config.image_size:
        return checkpoint
    if image_size % STRIDE or image_size < STRIDE:
        raise DataError(f"image_size must be a multiple of {STRIDE} pixels, got {image_size}")

    def interpolate(tensors: State, name: str) -> State:
        if name not in tensors:
            return tensors
        table = F.interpolate(tensors[name], (side, side), mode="bicubic", align_corners=False)
        return tensors | {name: table}

    before = config.image_size // STRIDE
    checkpoint.report.changed["pos_embed"] = f"grid {before} x {before} -> {side} x {side}, bicubic"
    return replace(
        checkpoint,
        config=replace(config, image_size=image_size),
        encoder=interpolate(checkpoint.encoder, "positions"),
        extra=interpolate(checkpoint.extra, f"{MOMENTUM}encoder.positions"),
    )


def _with_fusion(checkpoint: Checkpoint) -> Checkpoint:
    """DeiT's model becomes the Segmenter's encoder; the fusion starts as PyTorch initializes it."""
    config, encoder = checkpoint.config, dict(checkpoint.encoder)
    wide, dtype = config.dim * (len(config.depths) - 1), encoder["cls_token"].dtype
    with torch.random.fork_rng(devices=[]):
        fresh = {"norm": nn.BatchNorm1d(wide), "linear": nn.Linear(wide, config.dim)}
    for name, module in fresh.items():
        encoder |= {f"fusion.{name}.{key}": value for key, value in module.to(dtype).state_dict().items()}
    # The released Segmenter has the last norm and the classifier, too, and calls neither.
    unused = {f"{KEPT}norm.{part}": encoder.pop(f"norm.{part}") for part in ("weight", "bias")}
    unused |= {KEPT + name: value for name, value in checkpoint.heads.items()}
    checkpoint.report.variant = "cast_seg_deit"
    checkpoint.report.changed["block_fusion.*"] = "not in a cast_deit: initialized, to be trained"
    return replace(
        checkpoint,
        variant="cast_seg_deit",
        config=replace(config, fused=True),
        encoder=encoder,
        heads={},
        objective="",
        extra=checkpoint.extra | unused,
    )
