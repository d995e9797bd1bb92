"""Objectives that predict labels, and may keep an average of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from castssl.contracts import Encoder, Model, Objective
from castssl.errors import ConfigError
from castssl.types import LabelAttention, View

Branch = Literal["base", "ema"]
A = TypeVar("A", bound="Averaged[Any]")
M = TypeVar("M", bound=Model)


class Averaged(Objective, Generic[M]):
    """An objective that predicts labels, and may keep an average of its weights as the branch ``ema``.

    A subclass sets :attr:`model` and then calls :meth:`keep_average`.
    """

    model: M

    def __init__(self) -> None:
        super().__init__()
        self.average: ModelEmaV3 | None = None

    def keep_average(self, ema: float) -> None:
        """Keep an average of what is trained that moves by 1 - ``ema`` a step, for ``branch("ema")``.

        Args:
            ema: 0 keeps none; the released code has 0.99996.

        Raises:
            ConfigError: if it is out of range.
        """
        if not 0 <= ema < 1:
            raise ConfigError(f"ema is the share that an average keeps: expected 0 to below 1, got {ema}")
        if ema:
            self.average = ModelEmaV3(self.model, decay=ema)
            self.average.requires_grad_(False)

    def restart_average(self) -> None:
        """Let the average, if one is kept, begin anew from what the weights are now."""
        if self.average is not None:
            self.average.set(self.model)  # type: ignore[no-untyped-call]

    def after_step(self, progress: float) -> None:
        """Move the average; FSDP's parameters one by one, as no operator takes them and buffers at once."""
        if self.average is not None:
            self.average.foreach = type(next(self.average.parameters())) is nn.Parameter
            self.average.update(self.model)

    def branches(self) -> Mapping[str, M]:
        """The model as ``base``, and its average as ``ema`` if one is kept."""
        return {"base": self.model} | ({} if self.average is None else {"ema": self.average.module})

    @property
    def to_load(self) -> Mapping[str, Any]:
        """Options with which it is built where weights will be filled in, in place of its own; none here."""
        return {}

    @classmethod
    def to_rebuild(cls, options: Mapping[str, Any], heads: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Options with which it is built of a file of weights, which may come from a stranger; the same here.

        An objective with options that name files or models to read replaces them here, so that the file
        alone is read.

        Args:
            options: those in the file, of any type and value.
            heads: its tensors beside the encoder, as :meth:`heads` names them.

        Raises:
            DataError: if it cannot be built of the file alone.
        """
        return options

    def predict(self, view: View, branch: Branch = "base") -> Mapping[str, Tensor]:
        """Logits (B, C) of each learned level by name, coarse to fine."""
        raise NotImplementedError(f"{type(self).__name__}.predict")

    def label_attention(self, view: View, branch: Branch = "base") -> LabelAttention | None:
        """What each label of target "multihot" attends to; None if labels attend to nothing."""
        return None

    def encoders(self) -> list[Encoder]:
        """The encoder, and those that an objective has beside it, such as one for each level; no average."""
        return [module for module in self.model.modules() if isinstance(module, Encoder)]

    def heads(self, branch: Branch = "base") -> dict[str, Tensor]:
        """All tensors that are trained beside the encoder, by name."""
        state = self._model(branch).state_dict()
        return {name: value for name, value in state.items() if not name.startswith("encoder.")}

    def train(self: A, mode: bool = True) -> A:
        """As in torch, but the average stays in evaluation mode."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def branch(self, name: str) -> Encoder:
        """The encoder that is trained, or its average.

        Raises:
            ConfigError: if no average is kept.
        """
        return self._model(name).encoder

    def _model(self, branch: str) -> M:
        if branch not in self.branches():
            raise ConfigError("there is no average of the weights; build it with ema=0.99996, or --ema")
        return self.branches()[branch]
