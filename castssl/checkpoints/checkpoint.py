"""What a file of weights holds: one value for run files, shared encoders and published models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from castssl.checkpoints.report import Report
from castssl.contracts import Encoder
from castssl.datasets.pixel_classes import Color
from castssl.encoder_config import EncoderConfig
from castssl.errors import CastError, DataError
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.models.image_sizes import LARGEST

State = dict[str, Tensor]
Which = Literal["base", "momentum"]
MOMENTUM = "momentum_model."
"""Before the names in ``extra`` of a momentum encoder and its projector."""
_OF_BOTH = ("encoder.", "projector.", "published.")
"""Before the names of tensors that the momentum encoder has a copy of."""


@dataclass
class Checkpoint:
    """Weights and what is known about them; :func:`castssl.checkpoints.read` makes one of any source.

    Attributes:
        config: of the encoder.
        encoder: its tensors.
        heads: the classifiers' tensors, as ``objective.heads()`` names them; empty where there are none.
        extra: other tensors: ``projector.*``, ``predictor.*``, ``momentum_model.*`` (a momentum encoder
            and its projector), and ``published.*``, which only the published layout has a place for.
        objective: name of the objective that has trained the heads; ``""`` where there are none.
        options: it was built with these.
        labels: its classes; None where the file does not name them.
        variant: the published model that this was, or ``""``.
        source: where it comes from, for messages.
        report: what became of the source's tensors.
        palette: the RGB color of each class of pixels; () where there is none.
    """

    config: EncoderConfig
    encoder: State
    heads: State = field(default_factory=dict)
    extra: State = field(default_factory=dict)
    objective: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: LabelTree | None = None
    variant: str = ""
    source: str = "these weights"
    report: Report = field(default_factory=Report)
    palette: tuple[Color, ...] = ()

    def build(self) -> Encoder:
        """The encoder with its weights, in evaluation mode; float64 where the weights are.

        Raises:
            ConfigError: if the config names no encoder or pooling that is installed.
            DataError: if the config describes another encoder than the tensors are of.
        """
        self.check()
        encoder = create(self.config)
        # Before the values go in: they would be rounded to float32 on the way.
        encoder.to(next((v.dtype for v in self.encoder.values() if v.dtype == torch.float64), torch.float32))
        encoder.load_state_dict(self.encoder)
        encoder.eval()
        return encoder

    def check(self) -> None:
        """Refuse a config whose encoder is not the one that the tensors are of.

        Configs come from strangers: without this, a few bytes of them could ask for any amount of memory.

        Raises:
            DataError: with the first difference.
        """
        config = self.config
        if re.search(r"[/\\]", config.name):
            raise DataError(
                f"the settings in {self.source} name the encoder {config.name[:80]}, which is a path or a"
                " model to download; expected an architecture alone, as the weights are those in the file:"
                " copy it again, or take other weights"
            )
        try:
            if sum(config.depths) > len(self.encoder):
                raise ValueError(f"{sum(config.depths)} blocks in {len(self.encoder)} tensors")
            # No tensor's shape depends on the sizes, but a forward asks for memory for them.
            if max(config.sizes, default=0) > config.image_size**2:
                raise ValueError(f"sizes {config.sizes} of {config.image_size} x {config.image_size} pixels")
            # CAST has a table of positions for its size; a convolutional network has no such tensor.
            if ":" in config.name and config.image_size > LARGEST:
                raise ValueError(f"image_size {config.image_size}, expected 1 to {LARGEST} pixels")
            # Without a mean, each channel gets one.
            if config.channels > (most := max((v.numel() for v in self.encoder.values()), default=3)):
                raise ValueError(f"{config.channels} channels in tensors of at most {most} numbers")
            with torch.device("meta"):
                built = create(config)
        except CastError:
            raise
        except Exception as error:  # a stranger's numbers fail in many ways
            raise _damaged("encoder", self.source, error) from error
        wanted = built.state_dict()
        if {n: v.shape for n, v in wanted.items()} != {n: v.shape for n, v in self.encoder.items()}:
            differ = difference(wanted, self.encoder)
            raise DataError(f"{self.source} does not hold the weights that its settings describe: {differ}")

    def choose(self, which: Which) -> Checkpoint:
        """The same with the momentum encoder and its projector in front, or itself.

        Raises:
            DataError: if it has no momentum encoder.
        """
        if which == "base":
            return self
        if not (momentum := self.under(f"{MOMENTUM}encoder.")):
            raise DataError(
                f"{self.source} has no {which} encoder; only MoCo's checkpoints have, leave which out"
            )
        swapped = {}
        for name, value in {**self.extra, **{f"encoder.{n}": v for n, v in self.encoder.items()}}.items():
            if name.startswith(MOMENTUM):
                swapped[name.removeprefix(MOMENTUM)] = value
            else:
                swapped[MOMENTUM + name if name.startswith(_OF_BOTH) else name] = value
        extra = {name: value for name, value in swapped.items() if not name.startswith("encoder.")}
        return replace(self, encoder=momentum, extra=extra)

    def under(self, prefix: str) -> State:
        """The tensors in ``extra`` whose names begin so, without that beginning."""
        return {n.removeprefix(prefix): v for n, v in self.extra.items() if n.startswith(prefix)}


@contextmanager
def described(what: str, source: str) -> Iterator[None]:
    """DataError in place of the errors of other kinds, in which a stranger's settings of ``what`` may end."""
    try:
        yield
    except CastError:
        raise
    except Exception as error:
        raise _damaged(what, source, error) from error


def _damaged(what: str, source: str, error: Exception) -> DataError:
    return DataError(
        f"the settings in {source} describe no {what} ({error}); they are damaged, or of a newer castssl:"
        " copy the file again, or update castssl"
    )


def difference(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The first difference of names or shapes of two state dicts, and their number; ``""`` if none."""
    expected, actual = ({name: tuple(v.shape) for name, v in part.items()} for part in (wanted, tensors))
    if not (differ := [n for n in {**expected, **actual} if expected.get(n) != actual.get(n)]):
        return ""
    name = differ[0]
    return (
        f"{name} has shape {actual.get(name)}, expected {expected.get(name)} ({len(differ)} tensors differ);"
        " None: there is no such tensor"
    )
