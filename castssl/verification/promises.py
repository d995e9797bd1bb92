"""What is checked of a recipe, in words; the module imports nothing heavy, so that the help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Promise(NamedTuple):
    """One check."""

    title: str
    about: str
    """What it shows."""


PROMISES: Mapping[str, Promise] = {
    "resume": Promise(
        "resume equals never stopped",
        "A run that gets SIGTERM and is started again has the images, losses, weights, optimizer and random"
        " streams of a run that never stopped, bit for bit.",
    ),
    "processes": Promise(
        "two processes equal one",
        "Two processes have the images, the loss and the gradients of one. Batch norm and dropout are in"
        " evaluation mode, since batch norm is not synchronized on processors.",
    ),
    "batch": Promise(
        "an image does not depend on its batch",
        "In evaluation mode an image has the same features, segments and predictions alone and among others.",
    ),
    "export": Promise(
        "exported equals eager (torch.export)",
        "The encoder, or the segmentation model, as a file of `castssl export --to torch-export` computes the"
        " same for 1, 2 and 7 images.",
    ),
    "onnx": Promise(
        "exported equals eager (ONNX)", "The same for an ONNX file in onnxruntime. It takes a minute or more."
    ),
    "compiled": Promise(
        "eager equals compiled",
        "With torch.compile on the encoders, loss and gradients are the same, in evaluation mode. It takes"
        " minutes.",
    ),
}
"""By the name that --only and --skip take, in the order in which they are made."""
