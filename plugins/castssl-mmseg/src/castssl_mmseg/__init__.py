"""castssl in mmsegmentation: encoders as backbones, heads on segment tokens, superpixels in pipelines.

Importing this package registers :class:`CastEncoder`, :class:`CastHead`, :class:`ComputeSuperpixels` and
:class:`SuperpixelDataPreProcessor` with mmsegmentation; a config does so by ``custom_imports = dict(
imports=["castssl_mmseg"])``.
"""

from castssl_mmseg.compat import prepare

prepare()

from castssl_mmseg.encoder import CastEncoder  # noqa: E402  mmseg is importable only now
from castssl_mmseg.head import CastHead  # noqa: E402
from castssl_mmseg.transforms import ComputeSuperpixels, SuperpixelDataPreProcessor  # noqa: E402

__all__ = ["CastEncoder", "CastHead", "ComputeSuperpixels", "SuperpixelDataPreProcessor"]
