"""One way out: ``castssl.load(SOURCE)`` is a model that segments, gives features and classifies."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from castssl.checkpoints.checkpoint import Checkpoint, Which
from castssl.checkpoints.classifier import PROBE, Classifier, load_classifier
from castssl.checkpoints.load import Source, load_encoder, read
from castssl.checkpoints.segmenter import Segmenter, load_segmenter
from castssl.contracts import Encoder
from castssl.errors import DataError
from castssl.inference.classes import segment_classes
from castssl.inference.features import Features, features
from castssl.inference.photos import Photos, separate
from castssl.inference.predict import predict
from castssl.inference.segment import segment
from castssl.labels import LabelTree
from castssl.models.timm_encoder import TimmEncoder

TIMM = "timm:"
"""Before the name of a model of timm, in place of a source of weights."""


class Model:
    """A trained model; each method takes one image, a list or a batch, as :func:`castssl.segment` does.

    Attributes:
        checkpoint: what the source holds.
        encoder: in evaluation mode, on the device.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", labels: LabelTree | None = None
    ) -> None:
        self.checkpoint, self._device, self._labels = checkpoint, device, labels
        self.encoder = load_encoder(checkpoint).to(device)

    @cached_property
    def classifier(self) -> Classifier:
        """What classifies images.

        Raises:
            DataError: if the source holds no classifier of images.
        """
        classifier = load_classifier(self.checkpoint, labels=self._labels)
        classifier.objective.to(self._device)
        return classifier

    @cached_property
    def segmenter(self) -> Segmenter:
        """What classifies pixels.

        Raises:
            DataError: if the source holds no head for segmentation.
        """
        segmenter = load_segmenter(self.checkpoint)
        segmenter.model.to(self._device)
        return segmenter

    @property
    def interpolation(self) -> str:
        """How the recipe that trained the model resizes images: bicubic with labels, else bilinear."""
        return "bilinear" if self.checkpoint.objective in ("", PROBE) else "bicubic"

    def segment(self, images: Photos, **options: Any) -> Any:
        """A :class:`castssl.inference.segment.Segmentation`; a list of them for a list or a batch.

        Args:
            images: one, a list or a batch.
            options: of :func:`castssl.segment`: ``image_size``, ``superpixels``, ``sizes``, ``value_range``.
        """
        return segment(images, self.encoder, **options)

    def features(self, images: Photos, **options: Any) -> Features:
        """The features of each image and of its segments; of one image, too, they have a dimension n = 1.

        Args:
            images: one, a list or a batch.
            options: of :func:`castssl.inference.features.features`: ``image_size``, ``superpixels``, ...
        """
        chosen = {"interpolation": self.interpolation, **options}
        return features(separate(images)[0], self.encoder, **chosen)

    def classify(self, images: Photos, *, explain: bool = False, **options: Any) -> Any:
        """A :class:`castssl.inference.predict.Prediction`: the label path; a list for a list or a batch.

        Args:
            images: one, a list or a batch.
            explain: also find the segments that support each class.
            options: of :func:`castssl.inference.predict.predict`: ``min_confidence``, ``value_range``.

        Raises:
            DataError: if the source holds no classifier of images, or an image cannot be read.
        """
        photos, many = separate(images)
        predictions = [predict(photo, self.classifier, explain=explain, **options) for photo in photos]
        return predictions if many else predictions[0]

    def segment_classes(self, images: Photos, **options: Any) -> Any:
        """A :class:`castssl.inference.classes.ClassMap`: classes of pixels; a list for a list or a batch.

        Args:
            images: one, a list or a batch.
            options: of :func:`castssl.segment_classes`: ``image_size``, ``windows``, ``value_range``, ...

        Raises:
            DataError: if the source holds no head for segmentation, or an image cannot be read.
        """
        photos, many = separate(images)
        maps = [segment_classes(photo, self.segmenter, **options) for photo in photos]
        return maps if many else maps[0]

    def __repr__(self) -> str:
        config = self.encoder.config
        return f"Model({config.name} of {self.checkpoint.source}, trained at {config.image_size} pixels)"


def load(
    source: Source,
    *,
    which: Which = "base",
    ema: bool = False,
    labels: LabelTree | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """A trained model of any source, which segments images, gives their features and classifies them.

    Args:
        source: the folder of a run or of ``save_pretrained``; a file of castssl; a published CAST or
            H-CAST checkpoint; a model of castssl that timm trained, as ``train.py`` or ``save_for_hf`` saves
            it; ``hf:USER/NAME`` on the Hugging Face hub; a state dict; or a
            :class:`castssl.checkpoints.Checkpoint`.
        which: the encoder of a MoCo checkpoint: ``"base"`` or ``"momentum"``.
        ema: take the moving average that a published or a timm checkpoint holds beside the model.
        labels: the names and parents of the classes; published files and timm's have none.
        device: where to run; by default cuda if there is one, else cpu.

    Raises:
        DataError: if there is no such file, or it is damaged or holds no weights of an encoder.
    """
    place = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    return Model(read(source, which=which, ema=ema), place, labels)


def of_timm(name: str, image_size: int | None, pretrained: bool) -> Encoder:
    """A model of timm in evaluation mode.

    Args:
        name: of timm.
        image_size: side in pixels; by default 224.
        pretrained: with timm's weights, which are downloaded once; else with random ones.

    Raises:
        ValueError: if timm knows no such model.
        DataError: if the weights cannot be read.
    """
    try:
        return TimmEncoder(name, image_size=image_size or 224, pretrained=pretrained).eval()
    except ValueError:
        raise
    except Exception as error:  # the hub's, httpx's and the system's
        raise DataError(
            f"timm's weights of {name} cannot be read ({type(error).__name__}: {error}); check the name and"
            " the network; kmeans:timm:NAME,pretrained=false takes random weights"
        ) from error
