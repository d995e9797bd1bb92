"""An encoder or a segmentation model as one file for other runtimes: ONNX, or torch.export's archive.

Superpixels stay outside: they are an input, as they are for the encoder itself.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from castssl.checkpoints.native import SETTINGS
from castssl.checkpoints.onnx_operators import translations
from castssl.contracts import Encoder
from castssl.encoder_config import imagenet
from castssl.errors import ConfigError, DataError, PluginError
from castssl.files import atomic_write
from castssl.installer import install
from castssl.models.cast import CAST
from castssl.models.fuse import FusedCAST
from castssl.models.segmentation_heads import paint
from castssl.modes import evaluating
from castssl.objectives.segmentation import SegmentationModel
from castssl.system_errors import explain
from castssl.types import Hierarchy, View

Run = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""(image, segments) -> outputs by name."""
To = Literal["onnx", "torch-export"]
SUFFIXES: dict[To, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
LIBRARIES: dict[To, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": ()}


class Flat(nn.Module):
    """An encoder and its classifiers with tensors as inputs and outputs, which all have names.

    Args:
        encoder: any encoder.
        heads: classifiers, of the finest labels first; the last one reads the last stage, the one before it
            the stage before it, as in H-CAST.
    """

    def __init__(self, encoder: Encoder, heads: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor, segments: Tensor) -> dict[str, Tensor]:
        """Class token, logits and the hierarchy.

        Args:
            image: normalized float32 (B, 3, H, W).
            segments: int32 (B, H, W), below the encoder's first size.

        Returns:
            ``features`` (B, D), ``logits`` (B, C) if there is one classifier, ``logits0``, ... if there are
            several; and of each stage i, fine to coarse: ``tokens{i}`` (B, N, D), ``mass{i}`` (B, N),
            ``labels{i}`` int64 (B, H, W), -1 where a pixel has no token, and ``assign{i}`` to the next stage,
            which :class:`castssl.types.Hierarchy` describes.
        """
        hierarchy, served = self._run(View(image, segments))
        rows = [stage.cls[:, 0] for stage in served.stages]
        outputs = {"features": rows[-1]}
        for i, head in enumerate(self.heads):
            name = "logits" if len(self.heads) == 1 else f"logits{i}"
            outputs[name] = head(rows[i - len(self.heads)])
        for i, stage in enumerate(hierarchy.stages):
            outputs |= {f"tokens{i}": stage.x, f"mass{i}": stage.mass, f"labels{i}": hierarchy.labels(i)}
        return outputs | {f"assign{i}": assign for i, assign in enumerate(hierarchy.assigns)}

    def _run(self, view: View) -> tuple[Hierarchy, Hierarchy]:
        """All stages, and those that serve the class token; nothing is computed twice."""
        if isinstance(self.encoder, FusedCAST):
            hierarchy, fused = self.encoder.fuse(view)
            return hierarchy, self.encoder.served(hierarchy, fused)
        if isinstance(self.encoder, CAST):
            hierarchy = self.encoder.segment(view)
            return hierarchy, hierarchy._replace(stages=hierarchy.stages[: self.encoder.stages_with_cls])
        hierarchy = self.encoder(view)
        return hierarchy, hierarchy


class FlatSegmenter(nn.Module):
    """A segmentation model with tensors as inputs and outputs, which all have names.

    Args:
        model: an encoder with a head on its dense tokens.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> Encoder:
        """The encoder of the model."""
        return self.model.encoder

    def forward(self, image: Tensor, segments: Tensor) -> dict[str, Tensor]:
        """Classes of segments and pixels.

        Args:
            image: normalized float32 (B, 3, H, W).
            segments: int32 (B, H, W), below the encoder's first size.

        Returns:
            ``segment_logits`` (B, N, C) of each superpixel, or of each cell of an encoder with a grid;
            ``logits`` (B, C, H, W) of each pixel; and ``labels`` int64 (B, H, W), the segment of each pixel.
            Mask queries have scores in place of logits.
        """
        logits, tokens = self.model.score(View(image, segments))
        maps = paint(logits, tokens, (image.shape[-2], image.shape[-1]))
        return {"segment_logits": logits, "logits": maps, "labels": tokens.labels.long()}


Exportable = Flat | FlatSegmenter


class Traced(NamedTuple):
    """A graph of a :data:`Exportable` for any number of images of one size."""

    program: torch.export.ExportedProgram
    names: tuple[str, ...]
    """Of the outputs."""
    image_size: int
    sizes: tuple[int, ...]
    channels: int
    """Of the images."""


def trace(flat: Exportable, image_size: int) -> Traced:
    """Trace a model in evaluation mode; each centroid that is sampled makes the graph longer.

    Raises:
        ConfigError: if torch.export cannot trace the model.
    """
    inputs = example(flat, image_size)
    with evaluating(flat), torch.no_grad():
        names = tuple(flat(*inputs))  # What fails here has nothing to do with the export.
        try:
            # Strict tracing would take minutes for the sampling loops, and finds nothing more here.
            with redirect_stderr(StringIO()):  # torch prints the whole graph where it fails
                program = torch.export.export(flat, inputs, dynamic_shapes=_batched(), strict=False)
        except Exception as fault:  # torch raises errors of many kinds, and the model's code may raise any
            if explain(fault):
                raise
            raise ConfigError(
                f"torch.export cannot trace this model, in no format: {_reason(fault)}; expected a forward"
                " without Python branches on values or on the number of images; castssl check, with the kind"
                " and the name of a plugin, tells whether it is the plugin"
            ) from fault
        _forget_paths(program)
    return Traced(program, names, image_size, flat.encoder.sizes, flat.encoder.config.channels)


def export(traced: Traced, path: str | Path, *, to: To, about: Mapping[str, Any] | None = None) -> Path:
    """Write one file, whose metadata ``castssl`` say as JSON what its images have to look like.

    Args:
        traced: from :func:`trace`.
        path: where to; replaced only once the new file is whole.
        to: the format.
        about: what a user has to know beside sizes and normalization, such as the superpixels.

    Raises:
        ConfigError: if there is no such format, or ONNX lacks an operator of the model.
        PluginError: if a library is missing; the message has the command that installs it.
    """
    require(to)
    mean, std = imagenet(traced.channels)
    description = {
        "image_size": traced.image_size,
        "sizes": traced.sizes,
        "mean": mean,
        "std": std,
        **(about or {}),
    }
    path = Path(path)
    with atomic_write(path, "exported model", shared=True) as aside:
        if to == "onnx":
            _write_onnx(traced, aside, json.dumps(description))
        else:
            with open(aside, "wb") as file:
                torch.export.save(traced.program, file, extra_files={SETTINGS: json.dumps(description)})
    return path


def require(to: To) -> None:
    """Refuse a format that cannot be written here, before the work.

    Raises:
        ConfigError, PluginError: as :func:`export` does.
    """
    if to not in get_args(To):
        raise ConfigError(f"cannot export to {to!r}; expected one of {', '.join(get_args(To))}")
    missing = [name for name in LIBRARIES[to] if find_spec(name) is None]
    if missing:
        command = install("onnx", "onnxscript", "onnxruntime")
        raise PluginError(f"{', '.join(missing)} not installed: {command}")


def load(path: str | Path) -> Run:
    """What an exported file computes, by onnxruntime or by torch: (image, segments) -> its module's dict.

    Torch reads parts of an archive of torch.export by pickle, which can run code: give a file that you trust.

    Raises:
        DataError: if there is no such file.
        PluginError: if onnxruntime is missing; the message has the command that installs it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no exported model at {path}; castssl export writes one")
    if path.suffix != ".onnx":
        archived: Any = torch.export.load(path).module()

        @torch.no_grad()
        def reload(image: Tensor, segments: Tensor) -> dict[str, Tensor]:
            return dict(archived(image, segments))

        return reload
    session = _session(path)
    inputs = {tensor.name for tensor in session.get_inputs()}
    outputs = [tensor.name for tensor in session.get_outputs()]

    def run(image: Tensor, segments: Tensor) -> dict[str, Tensor]:
        fed = {"image": image.numpy(), "segments": segments.numpy()}
        with _by_onnxruntime(path):
            values = session.run(outputs, {name: value for name, value in fed.items() if name in inputs})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, values, strict=True)}

    return run


def about(path: str | Path) -> dict[str, Any]:
    """What :func:`export` noted in a file: image size, sizes, normalization, superpixels.

    Raises:
        DataError: if it is not a file of :func:`export`.
        PluginError: if onnxruntime is missing; the message has the command that installs it.
    """
    path = Path(path)
    if path.suffix == ".onnx" and path.is_file():
        metadata = _session(path).get_modelmeta().custom_metadata_map
        if SETTINGS in metadata:
            return dict(json.loads(metadata[SETTINGS]))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{SETTINGS}"):
                    return dict(json.loads(archive.read(name)))
    raise DataError(f"{path} was not written by castssl export")


def _session(path: Path) -> Any:
    require("onnx")
    onnxruntime: Any = import_module("onnxruntime")
    with _by_onnxruntime(path):
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@contextmanager
def _by_onnxruntime(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as fault:  # onnxruntime's own, which have no common root
        raise DataError(
            f"onnxruntime cannot run {path}: {_reason(fault)}; expected a whole file of castssl export, and"
            " images and segments of the size that it was made for; castssl export --to torch-export writes a"
            " file that needs no onnxruntime"
        ) from fault


def example(flat: Exportable, image_size: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Smooth noise of unit variance, and cells of about equal size as its segments."""
    first = flat.encoder.sizes[0]
    side = max(int(first**0.5), 1)
    cell = torch.arange(image_size) * min(side, image_size) // image_size
    segments = (cell[:, None] * side + cell).int().expand(batch, -1, -1).contiguous()
    channels = flat.encoder.config.channels
    coarse = torch.randn(batch, channels, side, side)
    image = nn.functional.interpolate(coarse, (image_size, image_size)) + torch.randn(
        batch, channels, image_size, image_size
    )
    return image, segments


def _forget_paths(program: torch.export.ExportedProgram) -> None:
    """Remove the lines of code that each operator came from: their paths are those of this machine."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _reason(fault: BaseException) -> str:
    """The operator that an export lacks, or the first line of the first error."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    if found := re.search(r"No ONNX function found for .*op='([^']+)'(?:, overload='([^']+)')?", str(fault)):
        return f"no translation of the operator {'.'.join(filter(None, found.groups()))}"
    line = next((line.strip() for line in str(fault).splitlines() if line.strip()), "")
    return f"{type(fault).__name__}: {line[:400]}"


def _batched() -> dict[str, dict[int, Any]]:
    batch = {0: torch.export.Dim("batch", min=1)}
    return {"image": batch, "segments": batch}


def _write_onnx(traced: Traced, path: Path, about: str) -> None:
    with warnings.catch_warnings():
        # torch says that the second tensor's "batch" names no axis of its own.
        warnings.filterwarnings("ignore", message="# The axis name")
        try:
            written: Any = torch.onnx.export(
                traced.program,
                dynamo=True,
                input_names=["image", "segments"],
                output_names=[*traced.names],
                dynamic_shapes=_batched(),
                custom_translation_table=translations(),
                verbose=False,
            )
        except Exception as fault:  # torch's, onnx's and onnxscript's own
            if explain(fault):
                raise
            raise ConfigError(
                f"cannot write this model as ONNX: {_reason(fault)}; expected operators that"
                " torch.onnx.export translates; give --to torch-export, which takes all, or use other"
                " operators"
            ) from fault
    written.model.metadata_props[SETTINGS] = about
    written.save(str(path))
