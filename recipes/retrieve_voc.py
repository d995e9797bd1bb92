"""Retrieve segments of PASCAL VOC, before any fine-tuning (CAST, Table 3a, appendix F.5).

    accelerate launch recipes/retrieve_voc.py --data voc:aug:/path/to/VOCdevkit --weights RUN \
        --model cast_small_dense
    accelerate launch recipes/retrieve_voc.py --data voc:aug:/path/to/VOCdevkit --weights RUN \
        --model vit_small_seg --sizes 1024

Expect an mIoU of 38.4 and a boundary F of 27.0 with CAST-S that was pretrained on COCO: the paper's numbers;
this recipe has not been run at that scale. recipes/README.md has those of the other encoders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn

from castssl.checkpoints import read
from castssl.checkpoints.transfer import projector_of, transfer
from castssl.config import MEASURES, launch
from castssl.contracts import Encoder
from castssl.data.dense_views import WholeView
from castssl.data.evaluation_views import CenterView
from castssl.evaluation.held_out import Evaluation, Subject, indexed
from castssl.evaluation.label_maps import check_label_maps
from castssl.evaluation.report import table
from castssl.evaluation.retrieval import ColorModel, Retrieval, SegmentModel
from castssl.models.reset import reinitialize
from castssl.registry import build_superpixels
from castssl.training import fits, start
from castssl.training.configs import TransferConfig


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Let training segments vote for the classes of held-out ones; the defaults are the released code's."""

    image_size: int = 512
    """Side in pixels of the positions of --model, and an image's longer side; 0 = what the encoder was
    trained at."""
    longer: int = field(default=0, metadata=MEASURES)
    """Pixels of an image's longer side; 0 = --image-size."""
    features: Literal["projector", "tokens"] = "projector"
    """What is compared: each token behind the projector of the weights, as published, or the token itself."""
    neighbors: int = 20
    """Training segments that vote for the class of a segment."""
    groups: int = 40
    """Segments of an image for an encoder without pooling, by spherical K-means; CAST has its own."""

    def problems(self) -> list[str]:
        """What the types cannot say."""
        problems = super().problems()
        if not self.weights:
            problems.append("--weights is missing: type --weights RUN, a run of moco_in1k.py")
        if self.val == "none":
            problems.append("--val none: retrieval is measured on held-out images")
        return problems + self.below(neighbors=1, groups=1, longer=0)


def make_models(cfg: Config, encoder: Encoder) -> dict[str, SegmentModel | ColorModel]:
    """What is measured, by the columns of the table."""
    projectors: list[nn.Module] = [nn.Identity(), nn.Identity()]
    if cfg.features == "projector":
        projectors = [projector_of(cfg.weights, new=new) for new in (False, True)]
    options: dict[str, Any] = {"groups": cfg.groups, "seed": cfg.seed}
    return {
        "trained": SegmentModel(encoder, projectors[0], **options),
        "untrained": SegmentModel(reinitialize(encoder), projectors[1], **options),
        "mean color": ColorModel(encoder, **options),
    }


def main(cfg: Config) -> None:
    """Measure the encoder, one with new weights, and mean colors; a stopped run goes on with the next one."""
    run, accelerator = start(cfg)
    device = accelerator.device
    encoder = transfer(read(cfg.weights), cfg.model, **cfg.transfer())
    images, held_out = cfg.images(streams=False, channels=encoder.config.channels)
    indexable = indexed(images)
    size = cfg.image_size or encoder.config.image_size
    superpixels = build_superpixels(encoder.config)
    fits(superpixels, encoder, size)
    # All exist before the first one is measured, so that a run that goes on has the same new weights.
    models = make_models(cfg, encoder)
    run.once("label_maps", lambda: check_label_maps(indexable, device, cfg.workers))
    evaluators = [Retrieval(neighbors=cfg.neighbors, longer=cfg.longer or size, views=WholeView(None))]
    evaluation = Evaluation(
        images, held_out, superpixels, CenterView(size), evaluators, device, batch_size=1, workers=cfg.workers
    )

    def measure(module: SegmentModel | ColorModel) -> dict[str, float]:
        module.to(device)
        found = {"": evaluation(Subject(module.encoder, module=module))} | evaluation.baselines()
        return {f"{heading}/{name}": value for heading, part in found.items() for name, value in part.items()}

    results: dict[str, dict[str, float]] = {}
    for column, module in models.items():
        for key, value in run.once(column, partial(measure, module)).items():
            heading, _, name = key.rpartition("/")
            # The bound is that of the first column's segments.
            results.setdefault(heading or column, {}).setdefault(name, value)
    run.finish(table(**results), **results)


if __name__ == "__main__":
    launch(main, Config)
