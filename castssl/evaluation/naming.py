"""Names of segments by a model of images and texts: CAST, https://arxiv.org/abs/2210.00314, appendix E.3.

As OVSeg (https://arxiv.org/abs/2210.04150) does, each segment is shown to CLIP alone, and gets the class
whose text is nearest.  Objects are named first, then parts among those of their object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from castssl.contracts import Encoder
from castssl.data.normalize import normalize
from castssl.encoder_config import MEAN, STD
from castssl.errors import ConfigError
from castssl.modes import evaluating
from castssl.segmenter import check_image
from castssl.text_encoders import ReadsNames
from castssl.types import View

PROMPT, BACKGROUND = "a photo of a {}", "Background"
"""The sentence that a name stands in, and the name of what is not an object."""


class Masking(NamedTuple):
    """How the image around a segment is hidden."""

    rest: tuple[float, ...]
    """RGB, 0 to 1, of what is not in the segment."""
    blur: int
    """Side in pixels of the Gaussian that smooths the segment's border; 0 leaves it as it is."""


Style = Literal["paper", "released"]
STYLES: Mapping[Style, Masking] = {
    "paper": Masking((0.5,) * 3, 7),
    # 0.5 after the normalization of OpenAI's models: a light, warm gray.
    "released": Masking(tuple(np.add(OPENAI_CLIP_MEAN, 0.5 * np.array(OPENAI_CLIP_STD)).tolist()), 0),
}
"""``paper`` is appendix E.3, which specifies neither the gray nor the blur's sigma: here mid-gray, and 1.4 as
OpenCV and torchvision derive it from 7 pixels."""


class Naming:
    """Name the segments of two levels, objects and their parts.

    A segment is shown in its place in the image, whose rest has one color; see :data:`STYLES`.  All segments
    of an image pass the model together.  Images and segments are resized to the model's square input without
    cropping, so a segment of a few pixels may be seen in part of a pixel.

    Args:
        model: an encoder that reads names, see :class:`castssl.text_encoders.ReadsNames`, such as
            ``castssl.create("clip:ViT-B-16/openai")``; the paper's.
        objects: names of the objects.
        parts: names of each object's parts, as they stand in a sentence, such as "Quadruped Head"; none if
            the parts are unknown.
        style: how the rest of the image is hidden.  The released notebook prints the paper's results, so its
            style is the default.

    Raises:
        ConfigError: if the model reads no names, or the parts are not those of each object.
    """

    def __init__(
        self,
        model: Encoder,
        objects: Sequence[str],
        parts: Sequence[Sequence[str]],
        *,
        style: Style = "released",
    ) -> None:
        if not isinstance(model, ReadsNames):
            raise ConfigError(
                f"a {type(model).__name__} cannot read class names; take a model with a text tower, such as"
                " clip:ViT-B-16/openai"
            )
        if style not in STYLES:
            raise ConfigError(f"style: expected one of {', '.join(STYLES)}, got {style!r}")
        if len(objects) != len(parts):
            raise ConfigError(
                f"parts: expected a list of names for each of the {len(objects)} objects, got {len(parts)}"
                " lists; give () for an object without parts"
            )
        self.model: Encoder = model
        self.masking = STYLES[style]
        self.objects = model.zero_shot([BACKGROUND, *objects], [PROMPT])
        names = [name for part_names in parts for name in part_names]
        self.parts = model.zero_shot(names, [PROMPT]) if names else self.objects[:0]
        owners = [number for number, part_names in enumerate(parts, 1) for _ in part_names]
        self.owners = torch.tensor(owners, dtype=torch.int64, device=self.parts.device)

    @torch.no_grad()
    def __call__(
        self, image: NDArray[np.uint8], objects: NDArray[np.integer[Any]], parts: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Name the segments of an image.

        A part is one of the object that most of its pixels belong to, and background if that has no parts.

        Args:
            image: uint8 (H, W, 3), RGB.
            objects: integer (H, W), segments that are named as objects or background; any ids.
            parts: integer (H, W), segments that are named as parts; any ids.

        Returns:
            The object and the part of each pixel, int64 (H, W) both.  0 is background, k is the k-th object,
            or the k-th part of all, object by object.

        Raises:
            ValueError: if the image is not uint8 (H, W, 3), or the segments have another size.
        """
        check_image(image)
        if not image.shape[:2] == objects.shape == parts.shape:
            raise ValueError(
                f"expected segments of the image's height and width {image.shape[:2]}, got {objects.shape} of"
                f" objects and {parts.shape} of parts; resize them by nearest neighbor"
            )
        object_segments, part_segments = (_number(ids).to(self.parts.device) for ids in (objects, parts))
        masks = [F.one_hot(segments).permute(2, 0, 1) for segments in (object_segments, part_segments)]
        vectors = self._encode(image, torch.cat(masks).float()).split([len(mask) for mask in masks])
        object_map = (vectors[0] @ self.objects.T).argmax(1)[object_segments]
        pairs = part_segments * len(self.objects) + object_map
        shared = pairs.flatten().bincount(minlength=len(masks[1]) * len(self.objects))
        allowed = self.owners == shared.view(len(masks[1]), -1).argmax(1)[:, None]
        cosines = (vectors[1] @ self.parts.T).masked_fill(~allowed, -torch.inf)
        # Background comes first, so that it is the answer where no part is allowed.
        part_map = F.pad(cosines, (1, 0), value=-torch.inf).argmax(1)[part_segments]
        return object_map.cpu().numpy(), part_map.cpu().numpy()

    def _encode(self, image: NDArray[np.uint8], masks: Tensor) -> Tensor:
        """Unit vectors (S, D) of segments whose masks are float32 (S, H, W)."""
        side = self.model.config.image_size
        pixels = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        shown = normalize(torch.from_numpy(np.array(pixels)).permute(2, 0, 1).to(masks.device))
        inside = F.interpolate(masks[None], (side, side), mode="area")[0]
        if self.masking.blur:
            inside = gaussian_blur(inside, [self.masking.blur] * 2)
        color = (np.array(self.masking.rest) - MEAN) / STD
        rest = torch.from_numpy(color).to(shown).view(3, 1, 1)
        shown = torch.lerp(rest, shown, inside[:, None])
        view = View(shown, torch.zeros(len(shown), 0, 0, dtype=torch.int32, device=shown.device))
        with evaluating(self.model):
            return F.normalize(self.model(view).stages[-1].cls[:, 0].float(), dim=1)


def _number(ids: NDArray[np.integer[Any]]) -> Tensor:
    """Segments with any ids to int64 (H, W) from 0 without gaps."""
    return torch.from_numpy(np.unique(ids, return_inverse=True)[1].reshape(ids.shape))
