"""Superpixels in a data pipeline, and on their way to the backbone."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor

import castssl
from castssl.data.normalize import normalize
from castssl.errors import ConfigError, ContractError


@TRANSFORMS.register_module()
class ComputeSuperpixels(BaseTransform):  # type: ignore[misc]
    """Partition the image that the model will see.

    It stands last in a pipeline, behind ``PackSegInputs``: superpixels are computed after cropping, flipping
    and padding, so that they fit the pixels.  The label map, int32 (1, H, W), is added to the data sample as
    ``superpixels``.

    Args:
        superpixels: a spec of ``castssl list superpixels`` that runs in workers, such as
            ``"seeds:count=1024,mode=segmenter"``.
        bgr: whether the image's channels are blue, green, red, as ``LoadImageFromFile`` reads them.
    """

    def __init__(self, superpixels: str, bgr: bool = True) -> None:
        self.spec, self.bgr = superpixels, bgr
        self.superpixels = castssl.build("superpixels", superpixels)
        if self.superpixels.runs_on == "device":
            raise ConfigError(
                f"{superpixels} runs on the device; leave ComputeSuperpixels out of the pipeline, and the"
                " backbone computes them"
            )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label map to ``results["data_samples"]``."""
        if "inputs" not in results:
            raise ConfigError("ComputeSuperpixels stands behind PackSegInputs; it found no inputs")
        image: Tensor = results["inputs"]
        if image.dtype != torch.uint8:
            raise ConfigError(
                f"ComputeSuperpixels expects a uint8 image, got {image.dtype}; normalize in the preprocessor"
            )
        rgb = image.flip(0) if self.bgr else image
        data = self.superpixels(rgb[None].contiguous())
        results["data_samples"].set_data({"superpixels": PixelData(data=data)})
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(superpixels={self.spec!r}, bgr={self.bgr})"


@MODELS.register_module()
class SuperpixelDataPreProcessor(SegDataPreProcessor):  # type: ignore[misc]
    """A ``SegDataPreProcessor`` that hands superpixels on as a fourth channel of the input.

    Sliding windows cut the channels alike, so that a window keeps its part of the superpixels.  A batch
    without superpixels passes through: the backbone then computes superpixels of what it gets, which is one
    window at a time where windows slide.

    Args:
        bgr_to_rgb: whether the images' channels are blue, green, red, as ``LoadImageFromFile`` reads them.
        options: other arguments of ``SegDataPreProcessor``.  Without ``mean`` and ``std`` images are
            normalized as castssl's encoders are trained, to the last bit.
    """

    def __init__(self, *, bgr_to_rgb: bool = True, **options: Any) -> None:
        self.flip = bgr_to_rgb
        super().__init__(**options)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalize, pad and stack the images, and append the label maps, float32.

        Raises:
            ContractError: if an image was padded here: the strip would have no superpixels; or if some
                samples have superpixels, and others have none.
        """
        data = self.cast_data(data)
        images = [image.flip(0) if self.flip else image for image in data["inputs"]]
        if not self._enable_normalize:
            images = [normalize(image) for image in images]
        output: dict[str, Any] = super().forward({**data, "inputs": images}, training)
        samples = output["data_samples"]
        having = ["superpixels" in sample for sample in samples or ()]
        if not any(having):
            return output
        if not all(having):
            raise ContractError(
                f"{sum(having)} of the {len(having)} samples of a batch have superpixels, and sample"
                f" {having.index(False)}, counted from 0, has none; expected all or none: put"
                " dict(type='ComputeSuperpixels', superpixels=...) last in the pipeline of each data set of"
                " the batch, or of none"
            )
        inputs: Tensor = output["inputs"]
        labels = [sample.superpixels.data for sample in samples]
        sizes = {tuple(label.shape[-2:]) for label in labels}
        if sizes != {tuple(inputs.shape[-2:])}:
            raise ContractError(
                f"superpixels of sizes {sorted(sizes)} do not fit inputs of {tuple(inputs.shape[-2:])}; put"
                " dict(type='Pad', size=CROP) before PackSegInputs, so that the padded strip has superpixels"
            )
        # float32 holds every label below 2 ** 24.
        stacked = torch.stack(labels).to(inputs.device, torch.float32)
        output["inputs"] = torch.cat([inputs, stacked], 1)
        return output
