"""Checks of an encoder's input: shapes and dtypes."""

from __future__ import annotations

import torch

from castssl.errors import ContractError
from castssl.superpixel_labels import is_tracing
from castssl.types import View

_NEXT = (
    "castssl.segment(image, encoder) takes an image; castssl.data.normalize.to_views(batch, superpixels)"
    " makes views, and castssl.data.normalize.normalize(image) the image of one"
)


def check_image(view: object, channels: int = 3) -> None:
    """Refuse anything but a :class:`castssl.types.View` with a normalized float image (B, C, H, W).

    Args:
        view: what the encoder was given.
        channels: C; an encoder of one channel also takes RGB.

    Raises:
        ContractError: naming what was given, and how a view is made.
    """
    if not isinstance(view, View):
        kind = f"a {type(view).__name__}"
        if isinstance(view, torch.Tensor):
            kind = f"a bare tensor of shape {tuple(view.shape)}"
        raise ContractError(f"an encoder takes castssl.View(image, segments), got {kind}; {_NEXT}")
    if is_tracing():  # it would warn of each comparison
        return
    image = view.image
    accepted = (3, 1) if channels == 1 else (channels,)
    if image.ndim != 4 or image.shape[1] not in accepted or not image.is_floating_point():
        raise ContractError(
            f"an encoder takes normalized images float (B, {accepted[0]}, H, W), got {image.dtype} of shape"
            f" {tuple(image.shape)}; {_NEXT}"
        )


def check_view(view: object, channels: int = 3, *, resized: bool = False) -> None:
    """As :func:`check_image`; also refuse segments that do not fit the image.

    Args:
        view: what the encoder was given.
        channels: as in :func:`check_image`.
        resized: the label map may have another size than the image.

    Raises:
        ContractError: naming both shapes.
    """
    check_image(view, channels)
    if is_tracing():
        return
    assert isinstance(view, View)
    image, segments = view
    integers = segments.dtype in (torch.int32, torch.int64, torch.int16, torch.uint8)
    # Not len(), which torch.export would take for a constant.
    fits = segments.ndim == 3 and segments.shape[0] == image.shape[0] and 0 not in segments.shape[1:]
    if not integers or not fits or not (resized or segments.shape[1:] == image.shape[2:]):
        expected = (image.shape[0], *(("H", "W") if resized else image.shape[2:]))
        raise ContractError(
            f"segments of dtype {segments.dtype} and shape {tuple(segments.shape)} do not fit images of shape"
            f" {tuple(image.shape)}, expected integers of shape {expected}: one label per pixel"
        )
    if segments.device != image.device:
        raise ContractError(
            f"segments are on {segments.device} but the image is on {image.device}; move both to one device"
        )
