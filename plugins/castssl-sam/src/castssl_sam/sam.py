"""``sam``: Segment Anything by transformers, which finds masks at a grid of points.

Kirillov et al. 2023, https://arxiv.org/abs/2304.02643.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from castssl.errors import ConfigError, DataError, PluginError
from castssl.installer import install
from castssl.segmenter import Segmenter, check_image
from castssl_sam.levels import parts_and_objects


class Sam(Segmenter):
    """Segment Anything, its masks as two levels, parts and objects: ``sam:facebook/sam-vit-base``.

    The other options are those of SAM's automatic mask generator with its defaults, as in CAST's comparison.
    An image without masks has one segment at each level.

    Args:
        source: a model of the Hugging Face hub, which is downloaded once, or its folder.
        points: points per side of the grid.
        min_iou: the least IoU that the model predicts of a mask that is kept.
        min_stability: the least IoU of a mask at two thresholds that is kept.
        device: where to run; by default cuda if there is one, else cpu.

    Raises:
        ConfigError: if there is no source.
        DataError: if the model cannot be read.
        PluginError: if transformers is not installed.
    """

    def __init__(
        self,
        source: str,
        *,
        points: int = 32,
        min_iou: float = 0.88,
        min_stability: float = 0.95,
        device: str = "",
    ) -> None:
        if not source:
            raise ConfigError(
                "expected sam:MODEL, such as sam:facebook/sam-vit-base or a folder, got no model"
            )
        self.options = {
            "points_per_crop": points,
            "pred_iou_thresh": min_iou,
            "stability_score_thresh": min_stability,
        }
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        transformers = _library()
        try:
            model = transformers.SamModel.from_pretrained(source, use_safetensors=True).eval()
            processor = transformers.SamImageProcessor.from_pretrained(source)
        except Exception as error:  # the hub's, the library's and the system's
            raise DataError(
                f"the SAM model {source} cannot be read ({type(error).__name__}: {error}); check the name and"
                " the network, or give the folder of a downloaded model"
            ) from error
        self.generate: Any = transformers.pipeline(
            "mask-generation", model=model, image_processor=processor, device=place
        )

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> NDArray[np.int32]:
        """uint8 (H, W, 3) -> int32 (2, H, W), parts and objects."""
        check_image(image)
        with torch.random.fork_rng([]):  # The pipeline's data loader draws a seed, which nothing uses.
            found = self.generate(Image.fromarray(image), **self.options)["masks"]
        masks = np.zeros((len(found), *image.shape[:2]), np.bool_)
        for mask, values in zip(masks, found, strict=True):
            mask[:] = torch.as_tensor(values).cpu().numpy() > 0
        return parts_and_objects(masks)


def _library() -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise PluginError(f"sam needs transformers: {install('transformers')}") from error
