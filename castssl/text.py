"""Label embeddings: a vector for each label name, by a text encoder, from a file, or learned.

Sources, as :func:`embeddings` takes them; NAME is a repository of the Hugging Face hub or a folder:

=============================== ========================================================================
``bert:NAME``                   BERT's vector of one token, by the rule of HSVLT's released code
``sentence:NAME``               an encoder of transformers; the mean of its last layer over all tokens
``sentence-transformers:NAME``  an encoder of sentence-transformers with the pooling of its own settings
``words:DIM``                   a bag of words by fixed random vectors
``clip:ARCHITECTURE/WEIGHTS``   the text tower of an encoder plugin that reads names, as a unit vector
``file:PATH``                   rows of a matrix in ``.npy`` or ``.safetensors``, by name
``learned:DIM[,seed=SEED]``     standard normal initial values, as those of ``torch.nn.Embedding``
=============================== ========================================================================

Weights are read from safetensors only.  HSVLT: https://arxiv.org/abs/2407.16244.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from castssl.errors import ConfigError, DataError
from castssl.modes import kept_random_state
from castssl.system_errors import explain
from castssl.tensor_files import not_safetensors, write_tensors
from castssl.text_encoders import ENCODERS, standard_normal

METADATA = "castssl_label_embeddings"
"""The key of names, model and prompt, as JSON, in the metadata of a safetensors file."""
EXPANDED: Mapping[str, str] = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
"""Names of PASCAL VOC that are not words, and the words for them in HSVLT's released code."""
_LEARNED = re.compile(r"([1-9]\d*)(?:,seed=(\d+))?")


@dataclass(frozen=True, eq=False)
class LabelEmbeddings:
    """Label names and their vectors.

    Args:
        names: C label names, in the order of the rows.
        vectors: float32 (C, D), on the CPU.
        model: the source, as :func:`embeddings` takes it.
        prompt: a text with ``{}`` where the name belongs.
        whole: whether the names are texts, of which an encoder read all, and not their :func:`phrase`.

    Raises:
        ConfigError: if a name is blank, or there is none.
        DataError: if the vectors are not finite floating-point numbers (C, D).
    """

    names: tuple[str, ...]
    vectors: Tensor
    model: str
    prompt: str = "{}"
    whole: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _checked_names(self.names))
        shape = tuple(self.vectors.shape)
        if len(shape) != 2 or shape[0] != len(self.names) or not shape[1]:
            raise DataError(
                f"{self.model}: got label embeddings of shape {shape} for {len(self.names)} names, expected"
                f" ({len(self.names)}, D); give one row for each name"
            )
        vectors = self.vectors.detach().float().cpu()
        if not self.vectors.is_floating_point() or not vectors.isfinite().all():
            raise DataError(
                f"{self.model}: got label embeddings of {self.vectors.dtype}, some of them not finite or no"
                " floating-point numbers; expected finite float32; compute them again"
            )
        object.__setattr__(self, "vectors", vectors)

    @property
    def learned(self) -> bool:
        """True if the vectors are initial values of parameters."""
        return self.model.startswith("learned:")

    def of(self, names: Sequence[str]) -> LabelEmbeddings:
        """The embeddings of other label names; those that are not here are computed by the same model.

        Args:
            names: in any order, also several times.

        Raises:
            ConfigError: if a name is not here, and the source is learned, or a file without a row of it.
            DataError, PluginError: as :func:`embeddings` does; DataError also if the model's weights changed.
        """
        wanted = _checked_names(names)
        rows = {name: row for row, name in enumerate(self.names)}
        vectors = self.vectors
        if missing := [name for name in dict.fromkeys(wanted) if name not in rows]:
            vectors = torch.cat([vectors, self._compute(missing)])
            rows |= {name: row for row, name in enumerate(missing, len(self.names))}
        return replace(self, names=wanted, vectors=vectors[[rows[name] for name in wanted]])

    def _compute(self, names: Sequence[str]) -> Tensor:
        """Vectors of names that are not here; those of a file may be among its other rows."""
        kind, _, place = self.model.partition(":")
        rows = _rows_by_name(Path(place)) if kind == "file" else {}
        known = tuple(rows) or self.names
        if kind not in ENCODERS and not {self.names[0], *names} <= rows.keys():
            missing = [name for name in names if name not in rows]
            unknown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ConfigError(
                f"{self.model} has no vector of {unknown or self.names[0]}; expected names of its"
                f" {len(known)}, such as {', '.join(known[:5])}.  Correct the names, or take a source that"
                " reads text, such as bert:bert-base-uncased"
            )
        # A file, folder or repository may hold other vectors by now, which would not fit these.
        wanted = [self.names[0], *names]
        if rows:
            vectors = torch.stack([rows[name] for name in wanted])
        else:
            vectors = _encode(wanted, self.model, self.prompt, self.whole)
        before, now = self.vectors[0], vectors[0]
        if now.shape != before.shape or (now - before).norm() > 0.01 * before.norm():
            raise DataError(
                f"{self.model} gives another vector of {self.names[0]!r} than before: its weights have"
                " changed; compute all label embeddings again, into a new file"
            )
        return vectors[1:]

    def write(self, path: str | Path) -> None:
        """Write a safetensors file that :func:`read` reads: complete, or absent.

        Raises:
            CastError: if the system refuses to write it.
        """
        about: dict[str, object] = {"names": self.names, "model": self.model, "prompt": self.prompt}
        about |= {"whole": True} if self.whole else {}
        metadata = {METADATA: json.dumps(about)}
        write_tensors(Path(path), {"vectors": self.vectors}, metadata, "label embeddings")


def embeddings(
    names: Sequence[str],
    source: str,
    *,
    prompt: str | None = None,
    rows: Sequence[str] | None = None,
    store: str | Path | None = None,
    whole: bool = False,
) -> LabelEmbeddings:
    """The label embeddings of names.

    A text encoder reads :func:`phrase` of a name, one name at a time: a row does not depend on the other
    names.  Torch's global random state stays as it is.

    Args:
        names: label names; their order is that of the rows.
        source: see :mod:`castssl.text`.
        prompt: a text with ``{}`` where the name belongs; by default the name alone, and "a photo of a {}"
            for ``clip:``.  Files and learned vectors have none.
        rows: the names of a file's rows, in order, where no names are stored in it or beside it.
        store: a file of :meth:`LabelEmbeddings.write`.  If it exists, its vectors are read instead of
            computed, otherwise it is written; names that it lacks are computed and added.  Several processes
            must not write it at the same time.
        whole: read all of each text, such as a caption, and not its :func:`phrase`; without a prompt it
            stands alone for ``clip:``, too.

    Raises:
        ConfigError: if the source or the prompt is malformed, the file has no row of a name, or ``store``
            holds the embeddings of another model or prompt.
        DataError: if the model or the file cannot be read.
        PluginError: if a library or the plugin is not installed.
        CastError: if the system refuses to write ``store``.
    """
    kind = source.partition(":")[0]
    if prompt is None:
        prompt = "a photo of a {}" if kind == "clip" and not whole else "{}"
    _check(source, prompt, rows)
    if kind == "file":  # A store names the path as Path writes it, without a leading "./".
        source = f"file:{Path(source.removeprefix('file:'))}"
    wanted = _checked_names(names)
    if store is None or not os.path.lexists(store):
        if kind == "file":
            found = _file(Path(source.removeprefix("file:")), rows).of(wanted)
        else:
            found = LabelEmbeddings(wanted, _encode(wanted, source, prompt, whole), source, prompt, whole)
        if store is not None:
            found.write(store)
        return found
    stored = read(store)
    if (stored.model, stored.prompt, stored.whole) != (source, prompt, whole):
        of = {True: " for whole texts", False: ""}
        raise ConfigError(
            f"{store} holds label embeddings of {stored.model} with the prompt"
            f" {stored.prompt!r}{of[stored.whole]}, expected {source} with {prompt!r}{of[whole]}; give"
            " another path, or delete the file"
        )
    union = stored.of(list(dict.fromkeys([*stored.names, *wanted])))
    if len(union.names) > len(stored.names):
        union.write(store)
    return union.of(wanted)


def read(path: str | Path) -> LabelEmbeddings:
    """Read a file of :meth:`LabelEmbeddings.write`.

    Raises:
        DataError: if it cannot be read, or holds no label embeddings of castssl.
    """
    tensors, metadata = _safetensors(Path(path))
    try:
        about = json.loads(metadata[METADATA])
        names, model, prompt = about["names"], about["model"], about["prompt"]
        if not all(isinstance(text, str) for text in (*names, model, prompt)):
            raise TypeError("names, model and prompt are not texts")
        return LabelEmbeddings(names, tensors["vectors"], model, prompt, about.get("whole") is True)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DataError(
            f"{path} holds no label embeddings that castssl wrote ({type(error).__name__}: {error}); for"
            f" another matrix with names write file:{path}, or delete the file to compute it again"
        ) from error


def phrase(name: str) -> str:
    """A label name as it stands in a sentence: ``"red_fox, Vulpes vulpes"`` becomes ``"red fox"``.

    What follows a comma is left out (further synonyms), underscores become blanks, and three names of VOC
    are expanded (:data:`EXPANDED`).
    """
    words = " ".join(name.partition(",")[0].replace("_", " ").split()) or name
    return EXPANDED.get(words, words)


def _encode(names: Sequence[str], source: str, prompt: str, whole: bool) -> Tensor:
    """Vectors float32 (C, D) by a text encoder, or initial values."""
    kind, _, model = source.partition(":")
    if match := _LEARNED.fullmatch(model) if kind == "learned" else None:
        return standard_normal(names, int(match[1]), int(match[2] or 0))
    with kept_random_state(), torch.no_grad():
        texts = names if whole else [phrase(name) for name in names]
        return ENCODERS[kind](model, texts, prompt).float()


KINDS = (*ENCODERS, "file", "learned")
"""What a source begins with."""


def _file(path: Path, rows: Sequence[str] | None) -> LabelEmbeddings:
    """All rows of a matrix, with the names in it, in the ``.txt`` beside it, or given."""
    array, stored = _matrix(path)
    beside = path.with_suffix(".txt")
    if stored is None and beside.is_file():
        try:
            stored = beside.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            if explain(error):
                raise  # The fault is not the file's.
            raise DataError(f"{beside} is not text in UTF-8 ({error}); save it as UTF-8") from error
    if stored is not None and rows is not None and list(stored) != list(rows):
        pairs = zip([*stored, None], [*rows, None], strict=False)
        got, expected = next(pair for pair in pairs if pair[0] != pair[1])
        raise DataError(
            f"{path}: the names of its {len(stored)} rows differ from the {len(rows)} given, in names or in"
            f" order: got {got!r}, expected {expected!r}; leave the given names out, or correct them"
        )
    names = rows if stored is None else stored
    if names is None:
        raise DataError(
            f"{path}: no names of the {len(array)} rows in it, in {beside.name} beside it, or given; write"
            f" them to {beside}, one per line, in the order of the rows"
        )
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{path}: several rows are named {twice[0]!r}; give each row a name of its own")
    return LabelEmbeddings(tuple(names), array, f"file:{path}")


def _rows_by_name(path: Path) -> dict[str, Tensor]:
    """All rows of a matrix whose names are in it or beside it; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = _file(path, None)
    except DataError:  # its names were given, and are not known here
        return {}
    return dict(zip(found.names, found.vectors, strict=True))


def _matrix(path: Path) -> tuple[Tensor, list[str] | None]:
    """The only tensor of a file, and the names that castssl stored with it."""
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
        if METADATA in metadata:
            found = read(path)
            return found.vectors, list(found.names)
        if len(tensors) != 1:
            raise DataError(f"{path} holds the tensors {sorted(tensors)[:5]}, expected one; write it alone")
        return next(iter(tensors.values())), None
    try:
        # Mapped, so that a header alone cannot ask for memory.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError("it is not an array of floating-point numbers")
    except (OSError, ValueError, EOFError) as error:
        if explain(error):
            raise  # The fault is not the file's.
        raise DataError(
            f"{path} cannot be read as a matrix ({error}); expected floating-point numbers (C, D) in .npy"
            " without pickled objects, or in .safetensors"
        ) from error
    return torch.from_numpy(array.astype(np.float32)), None


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read as safetensors ({not_safetensors(path, error)}); check the path, or"
            " compute the label embeddings again"
        ) from error


def _check(source: str, prompt: str, rows: object) -> None:
    """Refuse a source, a prompt or names of rows that do not fit each other."""
    kind, _, model = source.partition(":")
    if kind not in KINDS or not model:
        raise ConfigError(
            f"no label embeddings {source!r}; expected {', '.join(f'{name}:...' for name in KINDS)}, such as"
            " bert:bert-base-uncased, words:64 or learned:768"
        )
    if kind == "learned" and not _LEARNED.fullmatch(model):
        raise ConfigError(f"got {source!r}, expected learned:DIM or learned:DIM,seed=SEED, as learned:768")
    if kind == "words" and not re.fullmatch(r"[1-9]\d*", model):
        raise ConfigError(f"got {source!r}, expected words:DIM, as words:128")
    if kind == "clip" and not model.partition("/")[2]:
        raise ConfigError(f"{source} names no weights; write clip:ARCHITECTURE/WEIGHTS, as ViT-B-32/openai")
    if prompt.count("{}") != 1:
        raise ConfigError(f"prompt: expected {{}} once, where the name belongs; got {prompt!r}")
    if kind not in ENCODERS and prompt != "{}":
        raise ConfigError(f"{source} reads no text, so it has no prompt, got {prompt!r}; leave it out")
    if kind != "file" and rows is not None:
        raise ConfigError(f"{source} has no file whose rows have names; leave rows out")


def _checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names, if there are any and none is blank."""
    listed = (names,) if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not listed or not all(map(str.strip, listed)):
        raise ConfigError(f"label names: expected a list without blank names, got {names!r}")
    return listed
