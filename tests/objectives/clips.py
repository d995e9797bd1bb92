"""A CLIP of open_clip's, of two small towers, with weights drawn at random and its own tokenizer."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from castssl.models.clip_encoder import ClipEncoder

SIDE = 32
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@cache
def tokenizer() -> Any:
    """Made once: it reads a long table."""
    return pytest.importorskip("open_clip").SimpleTokenizer(context_length=24)


def tiny(**options: Any) -> ClipEncoder:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    network = open_clip.CLIP(**CONFIG, **options)
    return ClipEncoder(network, tokenizer())
