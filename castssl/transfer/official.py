"""A published CAST or H-CAST model as a module that returns what the published code returns.

The keys tell the variant:

==================  ==================================  ====================================================
variant             told by                             ``Official.forward`` returns
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

CAST-S, -S-deep, -B and -B-deep differ in width and in the number of blocks, which the keys tell, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from castssl.models.cast import CAST
from castssl.models.create import PRESETS, Preset, assemble
from castssl.models.fuse import FusedCAST
from castssl.models.hub import remember
from castssl.modes import kept_random_state
from castssl.tokens.segments import sample_labels
from castssl.transfer.adapt import Stage, adapt
from castssl.transfer.heads import classifier, head_of
from castssl.transfer.layout import COARSER, FUSED, Layout, State
from castssl.transfer.ours import HEADS, STRIDE, encoder_state, open_published
from castssl.transfer.report import Report
from castssl.transfer.weights import Branch, Published
from castssl.types import View

SEEDS = {
    "cast": "seeds",
    "cast_seg": "seeds",
    "cast_deit": "seeds:bins=5,iterations=15,mode=deit",
    "cast_deit_hier": "seeds:bins=5,iterations=15,mode=deit",
    "cast_seg_deit": "seeds:count=1024,bins=5,iterations=15,mode=segmenter",
}
"""The superpixels that each variant was trained with; H-CAST on BREEDS had ``count=256``."""
SEEDS_OF_VOC = "seeds:count=1024,bins=5,iterations=15"
CLUSTERS = {"pretrain": (196, 64, 32, 16, 8), "segmentation": (1024, 320, 160, 80, 40)}
"""Token budgets per stage, which no checkpoint holds."""


class Official(nn.Module):
    """An encoder in the published models' way, and what came with it.

    Attributes:
        variant: see the module's docstring.
        stage: ``segmentation`` where tokens are taken at the label map's resolution.
        encoder: the encoder, with ``padding="reference"``.
        head: classifier, MoCo projector, or the identity; H-CAST's finest level.
        coarser: H-CAST's other heads, from fine to coarse; empty elsewhere.
        settings: what :func:`castssl.transfer.encoders.load_encoder` builds such an encoder from.
        report: what became of the file's tensors; print it.
    """

    def __init__(
        self, variant: str, encoder: CAST, head: nn.Module, *, coarser: Sequence[nn.Module] = (), **about: Any
    ) -> None:
        super().__init__()
        self.variant, self.encoder, self.head = variant, encoder, head
        self.coarser = nn.ModuleList(coarser)
        self.stage: Stage = about.get("stage", "pretrain")
        self.settings: dict[str, Any] = about.get("settings", {})
        self.report: Report = about.get("report", Report(variant))

    def forward(self, image: Tensor, segments: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the released code returns for this variant, see the module's docstring.

        As in the released code, the batch's largest label sets the number of tokens, so a result depends
        on the batch; use ``encoder`` with ``padding="mask"`` for results that do not.

        Args:
            image: normalised float (B, 3, H, W).
            segments: int (B, H, W); for ``stage="segmentation"`` of any size.
        """
        view = View(image, segments)
        sizes = self.sizes(view)
        # Labels above the largest sampled one belong to no cell; the released code never looks at them.
        view = View(image, segments.clamp(max=sizes[0] - 1))
        if self.stage == "segmentation":
            _, fused = cast(FusedCAST, self.encoder).fuse(view, sizes)
            logits: Tensor = fused if self.variant == "cast_seg_deit" else _each(self.head, fused[:, 1:])
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


def _each(head: nn.Module, x: Tensor) -> Tensor:
    """The head on every row: (B, N, D) -> (B, N, C); its batch norm wants rows of one dimension."""
    out: Tensor = head(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return out


def load_official(
    source: str | Path | Mapping[str, Any],
    *,
    sizes: Sequence[int] | None = None,
    branch: Branch = "base",
    ema: bool = False,
    stage: Stage | None = None,
    image_size: int | None = None,
) -> Official:
    """Load a published CAST or H-CAST checkpoint, in evaluation mode and with the published padding.

    Args:
        source: a file (torch's or safetensors, also one of ours that ``castssl convert`` wrote), or a state
            dict in the published layout: with or without ``module.`` and ``base_encoder.`` prefixes; any of
            the three spellings of the block keys.
        sizes: token budget per stage, which a checkpoint does not hold; by default the published 64, 32,
            16, 8, for segmentation 320, 160, 80, 40.  The first may be left out: the labels decide on it.
        branch: which encoder of a MoCo checkpoint.
        ema: take ``model_ema`` of a DeiT or H-CAST checkpoint.
        stage: how a COCO model (``cast_seg``) works; by default ``"pretrain"``, except for files of the VOC
            fine-tuning.  ``"segmentation"`` of a ``cast_deit`` makes the Segmenter's encoder of it, as the
            released code does: with a fusion that is yet to be trained.
        image_size: resize the position table, bicubic, to the grid of images with this side, as the VOC code
            (512) and DeiT's fine-tuning do.  By default the table is kept, and resized at each use.

    Returns:
        The model; ``report`` says what became of each tensor, also in the log of ``castssl.transfer``.

    Raises:
        DataError: if the file is not a CAST checkpoint, has keys that belong nowhere, lacks some, has wrong
            shapes, or holds objects other than tensors and plain values; the message names them.
    """
    published = adapt(open_published(source, branch, ema=ema), stage, image_size)
    model = make(published, sizes=sizes, stage=stage)
    logging.getLogger("castssl.transfer").info("%s", published.report)
    return model


@kept_random_state()
def make(published: Published, *, sizes: Sequence[int] | None = None, stage: Stage | None = None) -> Official:
    """The module of a checkpoint that was taken apart; options as in :func:`load_official`."""
    layout, state, report = published.layout, published.state, published.report
    if stage is None:
        stage = "segmentation" if published.dense or layout.variant == "cast_seg_deit" else "pretrain"
    dense = stage == "segmentation"
    settings = settings_of(layout, stage, sizes)
    options = {key: settings[key] for key in ("pooling", "sizes", "image_size", "padding", "positions")}
    encoder = assemble(_shape(layout, dense), **options)
    # Before the values go in: they would be rounded to float32 on the way.
    cast(nn.Module, encoder).to(state["cls_token"].dtype)
    encoder.load_state_dict(encoder_state(layout, state))
    remember(encoder, **settings)
    if layout.variant == "cast_seg_deit":  # the released code builds them, and never calls them
        head: nn.Module = nn.Identity()
        report.ignored |= {n: "unused in this variant" for n in ("norm.*", "head.*") if _has(state, n[:-1])}
    else:
        head = head_of({n.removeprefix("head."): v for n, v in state.items() if n.startswith("head.")})
    coarser = [classifier(state[f"{n}.weight"], state[f"{n}.bias"]) for n in COARSER if _has(state, f"{n}.")]
    if published.predictor:
        report.ignored["predictor.*"] = "not of the encoder; castssl.transfer.moco.load_moco goes on with it"
    if published.twin:
        count = sum(len(layout.spelt(name)) for name in published.twin)
        report.ignored["the other branch"] = f"{count} tensors; load_moco takes both"
    if not layout.learned:
        report.changed["cls_token"] = "pe_token (of zeros in the released code) is added to it"
    else:
        report.changed["cls_token"] = "the position table's first row is added to it"
    report.notes.append('padding="reference": empty tokens take part, as in the released code')
    model = Official(
        layout.variant,
        cast(CAST, encoder),
        head,
        coarser=coarser,
        stage=stage,
        settings=settings,
        report=report,
    )
    # A checkpoint's dtype is kept: float64 parity stays float64.
    return model.to(state["cls_token"].dtype).eval()


def _has(state: State, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in state)


def _shape(layout: Layout, dense: bool) -> Preset:
    return Preset(
        depths=(*layout.depths, 0),
        dim=layout.dim,
        heads=HEADS,
        stride=STRIDE,
        fused=layout.variant in FUSED,
        dense=dense,
    )


def settings_of(
    layout: Layout, stage: Stage = "pretrain", sizes: Sequence[int] | None = None
) -> dict[str, Any]:
    """What ``load_encoder`` needs; ``name`` is a preset's, or there is a ``shape`` beside it."""
    first, *rest = CLUSTERS[stage]
    sizes = tuple(sizes) if sizes is not None else (first, *rest)
    if len(sizes) == len(layout.depths):
        sizes = (max(first, sizes[0]), *sizes)
    dense = stage == "segmentation"
    shape = _shape(layout, dense)
    name = next(_named(shape), layout.variant)
    voc = dense and layout.variant == "cast_seg"
    settings: dict[str, Any] = {
        "name": name,
        "pooling": f"graph:heads={HEADS},padding=reference,exact=true",
        "sizes": sizes,
        "image_size": layout.side * STRIDE,
        "padding": "reference",
        "positions": "learned" if layout.learned else "sincos",
        "superpixels": SEEDS_OF_VOC if voc else SEEDS[layout.variant],
        "published": {"variant": layout.variant, "dense": dense},
    }
    return settings if name in PRESETS else settings | {"shape": asdict(shape)}


def _named(shape: Preset) -> Iterator[str]:
    """The presets of this shape, whatever their sizes and superpixels."""
    for name, preset in PRESETS.items():
        if replace(preset, sizes=shape.sizes, superpixels=shape.superpixels) == shape:
            yield name
