"""Weights: one value for all (:class:`Checkpoint`), one reader (:func:`read`), two layouts of files."""

from castssl.checkpoints.checkpoint import Checkpoint
from castssl.checkpoints.load import load_encoder, read

__all__ = ["Checkpoint", "load_encoder", "read"]
