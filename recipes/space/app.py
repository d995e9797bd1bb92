"""A page on which a trained model segments and classifies images that its visitors bring.

    pip install "castssl[app]"
    python recipes/space/app.py --weights runs/hcast

With ``README.md`` and ``requirements.txt`` beside it this file is a Space of the Hugging Face Hub: set its
variable ``CASTSSL_WEIGHTS`` to ``hf:USER/NAME``, what ``castssl.checkpoints.hub.push_to_hub`` uploaded.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import castssl
from castssl.errors import CastError, DataError, PluginError
from castssl.inference.load import Model
from castssl.visualization.colors import paint
from castssl.visualization.draw import overlay

VARIABLE = "CASTSSL_WEIGHTS"
PANEL = 448
"""Height of a picture in pixels."""
ABOUT = """# Segments and classes of an image
The model groups the pixels of an image into segments, and these into fewer, larger ones. It learned from
labels of whole images, or without labels. The method is [CAST](https://arxiv.org/abs/2210.00314), here in
castssl.
"""


def answer(model: Model, image: Any) -> tuple[list[tuple[Any, str]], list[list[str]]]:
    """What the page shows of an image.

    Args:
        model: from :func:`castssl.load`.
        image: PIL, of any size.

    Returns:
        A picture of each stage with its caption, fine to coarse; and a row for each level of classes (level,
        class, probability), coarse to fine, none if the model has no classifier.

    Raises:
        CastError: if the image does not fit the model.
    """
    found = model.segment(image)
    levels = [found.labels(stage) for stage in range(len(found))]
    pictures = [
        (overlay(found.image, labels, colors, panel=PANEL, strength=0.6), f"{_count(labels)} segments")
        for labels, colors in zip(levels, paint(levels), strict=True)
    ]
    if not classifies(model):
        return pictures, []
    path = model.classify(image).path
    return pictures, [[str(level.level), level.name, f"{level.probability:.1%}"] for level in path]


def classifies(model: Model) -> bool:
    """Whether the model has a classifier of images whose objective is installed."""
    try:
        return model.classifier is not None
    except (DataError, PluginError):
        return False


def _count(labels: Any) -> int:
    return int((labels.unique() >= 0).sum())


def page(model: Model, name: str) -> Any:
    """The page, a ``gradio.Blocks``.

    Args:
        model: from :func:`castssl.load`.
        name: of the weights, as ``--weights`` takes it; visitors do not see the folder that they lie in.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    def show(image: Any) -> tuple[list[tuple[Any, str]], list[list[str]]]:
        if image is None:
            raise gradio.Error("there is no image; drop one into the field, or choose an example")
        try:
            return answer(model, image)
        except CastError as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(title="castssl") as blocks:
        gradio.Markdown(ABOUT)
        gradio.Markdown(f"Weights: `{name if name.startswith('hf:') else Path(name).name}`")
        with gradio.Row():
            image = gradio.Image(type="pil", label="image")
            classes = gradio.Dataframe(
                headers=["level", "class", "probability"], label="classes", visible=classifies(model)
            )
        button = gradio.Button("Segment", variant="primary")
        pictures = gradio.Gallery(label="segments, fine to coarse", columns=3, object_fit="contain")
        gradio.Examples(_examples(), image)
        button.click(show, image, [pictures, classes], api_name="segment")
    return blocks


def _examples() -> list[Any]:
    from castssl.visualization.photographs import photographs

    return [photograph for _, photograph in photographs()]


def main() -> int:
    """Open the page; returns the exit code."""
    parser = argparse.ArgumentParser(description="A page that segments and classifies images.")
    help_ = f"a run's folder, a checkpoint, or hf:USER/NAME (default: the variable {VARIABLE})"
    parser.add_argument("--weights", default=os.environ.get(VARIABLE), metavar="SOURCE", help=help_)
    parser.add_argument("--host", default=None, help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860")
    args = parser.parse_args()
    if not args.weights:
        parser.error(f"no weights: give --weights, or set the variable {VARIABLE}, such as hf:USER/NAME")
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        from castssl.installer import install

        print(f"gradio is not installed; run: {install('castssl[app]')}", file=sys.stderr)
        return 1
    try:
        model = castssl.load(args.weights)
    except CastError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    page(model, args.weights).launch(server_name=args.host, server_port=args.port, max_file_size="20mb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
