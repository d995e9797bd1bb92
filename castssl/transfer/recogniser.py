"""A trained classifier of label levels in one file: the encoder, its heads, and the names of the classes.

It is the file of :mod:`castssl.transfer.encoders` with the heads beside the encoder, so that whoever wants
the encoder alone reads it as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from castssl.contracts import Encoder
from castssl.errors import CastError, DataError
from castssl.models.create import preset
from castssl.modes import kept_random_state
from castssl.objectives.deit import DeiT
from castssl.objectives.supervised import Branch, Supervised
from castssl.objectives.tree_kl import TreeKL
from castssl.options import parse, values
from castssl.registry import build, load
from castssl.transfer.encoders import (
    BESIDE,
    RECOGNISER,
    build_encoder,
    encoder_of,
    read_encoder,
    save_encoder,
)
from castssl.transfer.official import Official, load_official
from castssl.transfer.source import is_ours, locate, side
from castssl.types import LabelTree

TRAINS = "recipes/hcast.py and recipes/deit_in1k.py train one"
"""The next step for who has no classifier."""


class Recogniser(NamedTuple):
    """What recognises images, and what its images and its answers look like."""

    objective: Supervised
    """In evaluation mode; ``predict`` gives the logits of the levels ``objective.columns`` of ``labels``."""
    labels: LabelTree
    superpixels: str
    """Spec of the backend that it was trained with."""
    image_size: int
    """Side of its training crops in pixels."""
    known: bool = True
    """False if ``labels`` are mere numbers whose parents are made up: a published file holds no tree."""


def save_recogniser(
    objective: Supervised,
    path: str | Path,
    *,
    spec: str,
    labels: LabelTree,
    options: Mapping[str, Any] | None = None,
    branch: Branch = "base",
    **made: Any,
) -> Path:
    """Write a trained objective, so that :func:`load_recogniser` builds it again; only the main rank writes.

    Args:
        objective: any that learns classes.
        path: a ``.safetensors`` file; replaced only once the new one is whole.
        spec: what the objective was built from, such as ``tree-kl`` or ``tree-kl:weight=0.5``.
        labels: the label tree it was built with.
        options: further options that it was built with; plain values, since they become JSON.
        branch: the weights themselves, or their average.
        made: how the encoder was made: ``name``, the options of :func:`castssl.models.create.create`, and
            ``superpixels``.

    Raises:
        ConfigError: if no average is kept and ``branch`` asks for it.
        CastError: if the file cannot be written.
    """
    name, _ = parsed = parse(spec)
    merged = {**values(load("objectives", name), parsed), **(options or {})}
    about = {"objective": name, "options": merged, "labels": labels.to_dict()}
    encoder, beside = objective.branch(branch), objective.heads(branch)
    return save_encoder(encoder, path, beside=beside, **{**made, RECOGNISER: about})


def load_recogniser(
    source: str | Path | Official, *, labels: LabelTree | None = None, sizes: Sequence[int] | None = None
) -> Recogniser:
    """A trained classifier, in evaluation mode.

    Args:
        source: the folder of a finished run, a file of :func:`save_recogniser`, a published DeiT or H-CAST
            checkpoint (see :func:`castssl.transfer.official.load_official`) or what that returned, or
            ``hf:USER/NAME`` on the Hugging Face hub, which has to hold an ``encoder.safetensors``.
        labels: the classes' names and parents in place of those in the file; a published file has none.
        sizes: token budgets of a published model, which its file does not hold.

    Returns:
        Of a published checkpoint a :class:`TreeKL` (H-CAST) or a :class:`DeiT`.  Its encoder has the
        published padding, where empty tokens take part: it predicts what the released code does where an
        image has as many superpixels as ``encoder.sizes`` says, as SEEDS on 224 pixels have.

    Raises:
        DataError: if there is no such file, it holds no classifier, or ``labels`` have other classes.
    """
    if isinstance(source, Official):
        return _of_official(source, labels, "this model")
    path = find(source)
    if not is_ours(path):
        return _of_official(load_official(path, sizes=sizes), labels, str(path))
    tensors, settings = read_encoder(path)
    about = settings.get(RECOGNISER)
    if about is None and settings.get("published"):
        return _of_official(load_official(path, sizes=sizes), labels, str(path))
    if about is None:
        about = _bare(tensors, str(path))
    return _rebuild(tensors, settings, about, labels, path)


def check_heads(objective: Supervised, heads: Mapping[str, Tensor]) -> None:
    """Nothing, if tensors have the names and shapes of ``objective.heads()``.

    Raises:
        DataError: if names or shapes differ; the message has the first of them.
    """
    wanted = {name: tuple(value.shape) for name, value in objective.heads().items()}
    given = {name: tuple(value.shape) for name, value in heads.items()}
    if wanted != given:
        differ = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise DataError(
            f"these classifiers do not fit a {type(objective).__name__} of {objective.classes} classes:"
            f" {differ[0]} has shape {given.get(differ[0])}, expected {wanted.get(differ[0])}"
            f" ({len(differ)} tensors differ); None: there is no such tensor"
        )


def take_heads(objective: Supervised, heads: Mapping[str, Tensor]) -> None:
    """Fill all that is trained beside the encoder, from tensors named as ``objective.heads()`` names them.

    Raises:
        DataError: as :func:`check_heads`.
    """
    check_heads(objective, heads)
    for name, part in objective.trained().items():
        if name != "encoder":
            start = f"{name}."
            own = {key.removeprefix(start): value for key, value in heads.items() if key.startswith(start)}
            part.load_state_dict(own)


def find(source: str | Path) -> Path:
    """The file with the weights, see :func:`load_recogniser`.

    Raises:
        DataError: if there is none.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return Path(hf_hub_download(source.removeprefix("hf:"), "encoder.safetensors"))
    path = locate(source)
    if path is None:
        raise DataError(f"no weights at {source}; expected a finished run's folder or a checkpoint file")
    return path


def _bare(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """What files say nothing about whose classifier is DeiT's: numbers are its classes' names."""
    weight = tensors.get(f"{BESIDE}head.weight")
    if weight is None or weight.ndim != 2:
        raise DataError(f"{where} holds an encoder without a classifier; {TRAINS}")
    return {"objective": "deit", "options": {}, "labels": _numbered([len(weight)]).to_dict()}


@kept_random_state()
def _rebuild(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    labels: LabelTree | None,
    path: Path,
) -> Recogniser:
    saved = LabelTree.from_dict(about["labels"])
    encoder = encoder_of(settings, tensors, path)
    # The average would be a second copy that nobody asks for.
    chosen = {key: value for key, value in about["options"].items() if key != "ema"}
    heads = {k.removeprefix(BESIDE): v for k, v in tensors.items() if k.startswith(BESIDE)}
    try:
        with torch.device("meta"):  # A stranger's numbers of classes could ask for any amount of memory.
            draft = build("objectives", about["objective"], build_encoder(settings), saved, **chosen)
    except CastError:
        raise
    except Exception as error:  # a stranger's options fail in many ways
        raise DataError(f"the settings in {path} describe no classifier ({error}); copy it again") from error
    check_heads(cast(Supervised, draft), heads)
    objective = cast(Supervised, build("objectives", about["objective"], encoder, saved, **chosen))
    own = {name: value for name, value in tensors.items() if not name.startswith(BESIDE)}
    objective.branch("base").load_state_dict(own)
    take_heads(objective, heads)
    objective.eval()
    spec = settings.get("superpixels") or preset(settings["name"]).superpixels
    size = settings.get("image_size") or side(encoder)
    return Recogniser(objective, _renamed(saved, labels), spec, size)


def _of_official(model: Official, labels: LabelTree | None, where: str) -> Recogniser:
    heads = [*reversed(list(model.coarser)), model.head]
    if model.stage == "segmentation" or not all(isinstance(head, nn.Linear) for head in heads):
        raise DataError(f"{where} is a {model.variant} without a classifier of images; {TRAINS}")
    sizes = [cast(nn.Linear, head).out_features for head in heads]
    tree = _renamed(_numbered(sizes), labels)
    encoder = cast(Encoder, model.encoder)
    objective: Supervised
    if len(heads) == 1:
        objective = DeiT(encoder, tree)
        objective.head = cast(nn.Linear, model.head)
    else:
        objective = TreeKL(encoder, tree)
        objective.level_heads = nn.ModuleList(heads)
    objective.eval()
    known = labels is not None or len(sizes) == 1
    return Recogniser(objective, tree, model.settings["superpixels"], side(encoder), known)


def _numbered(sizes: Sequence[int]) -> LabelTree:
    """Classes named by their numbers; their parents are made up where there are several levels."""
    names = tuple(tuple(map(str, range(size))) for size in sizes)
    parents = tuple(tuple(min(i, coarse - 1) for i in range(fine)) for coarse, fine in pairwise(sizes))
    return LabelTree(tuple(sizes), parents, names)


def _renamed(saved: LabelTree, labels: LabelTree | None) -> LabelTree:
    """The caller's tree if it has the same classes, else the file's."""
    if labels is None:
        return saved
    if labels.sizes != saved.sizes:
        raise DataError(
            f"the weights tell {saved.sizes} classes apart, coarse to fine, but the label tree has"
            f" {labels.sizes}; give the tree of the data that they were trained on"
        )
    return labels
