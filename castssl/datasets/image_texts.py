"""The texts of images, such as captions: a file beside the data set, and their embeddings.

A text is a second target in training, see :mod:`castssl.objectives.text_attributes`.  A file of texts is a
table with the columns ``path`` and ``text``, or has a line ``train/n01440764/n01440764_10026.JPEG, a text``
for each image, as the released code of Free-Grained Hierarchical Visual Recognition
(https://arxiv.org/abs/2510.14737) reads it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from castssl.contracts import Source
from castssl.datasets.csv_table import SEPARATORS
from castssl.datasets.decode import EXTENSIONS
from castssl.datasets.text import read_text
from castssl.errors import DataError
from castssl.text import embeddings

_LINE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, sorted(EXTENSIONS)))})),\s*(.*)", re.IGNORECASE)
CHUNK = 16384
"""Texts in a file of the cache: safetensors takes names, which the texts are, of at most 100 MB in all."""


class ImageTexts(NamedTuple):
    """Embeddings of the texts of the images of a source.

    Attributes:
        vectors: float32 (U, E), one for each different text.
        row: int64 (n,), the row of ``vectors`` for each row of the source; -1 for an image without a text.
        digest: a hash of the encoder's name and of the texts in the order of the images; "" if unknown.
    """

    vectors: Tensor
    row: Tensor
    digest: str = ""

    @property
    def dim(self) -> int:
        """E, the width of an embedding."""
        return self.vectors.shape[1]

    def of(self, row: int) -> Tensor:
        """The embedding float32 (E,) of a row of the source; all 0 without a text."""
        found = int(self.row[row])
        return self.vectors[found] if found >= 0 else self.vectors.new_zeros(self.dim)


def read_texts(path: str | Path) -> dict[str, str]:
    """The text of each path in a file; blank texts are left out.

    Raises:
        DataError: if there is no such file, it has neither form, or two texts for one path.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file of texts {path}; check the spelling")
    # Not str.splitlines, for which a line also ends at characters that captions have.
    content = io.StringIO(read_text(path), newline=None).read()
    pairs = _lines(path, content)
    for separator in SEPARATORS:
        names = [name.strip(' "').lower() for name in content.partition("\n")[0].split(separator)]
        if {"path", "text"} <= set(names):
            pairs = _table(path, content, names, separator)
    found: dict[str, str] = {}
    for number, name, text in pairs:
        if text.strip() and found.setdefault(name, text.strip()) != text.strip():
            raise DataError(f"{path}:{number}: a second, other text for {name}; give each image one text")
    if not found:
        raise DataError(f"{path} holds no text; expected {_EXPECTED}")
    return found


_EXPECTED = "the columns path and text, or lines such as train/n01440764/n01440764_10026.JPEG, a text"


def _table(path: Path, content: str, names: Sequence[str], separator: str) -> Iterator[tuple[int, str, str]]:
    """Line number, path and text of each row."""
    # Strict, as a quotation mark that is not closed would take all rows after it into one text.
    reader, last = csv.reader(io.StringIO(content), delimiter=separator, strict=True), 1
    try:
        for row in islice(reader, 1, None):
            if row and len(row) != len(names):
                raise DataError(
                    f"{path}:{reader.line_num}: got {len(row)} cells, expected {len(names)}; put a text with"
                    f" {separator!r} in quotation marks"
                )
            last = reader.line_num
            if row:
                yield last, row[names.index("path")].strip(), row[names.index("text")]
    except csv.Error as error:
        raise DataError(
            f'{path}:{last + 1}: no row of a table ({error}), expected cells such as "a red beak"; close'
            " each quotation mark, and double those within a text"
        ) from error


def _lines(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    """The same of lines as released."""
    for number, line in enumerate(content.split("\n"), start=1):
        match = _LINE.fullmatch(line.strip())
        if match:
            yield number, match[1], match[2]
        elif line.strip():
            raise DataError(f"{path}:{number}: got {line[:60]!r}, expected {_EXPECTED}")


def match_texts(names: Sequence[str], texts: Mapping[str, str]) -> list[str | None]:
    """The text of each image.

    An image is looked up by its name, by its name below ``train/``, without a first folder ``train/`` or
    ``images/``, and by its file alone if that is unique among the images and among the texts.

    Args:
        names: of images, with ``/``.
        texts: by path.
    """
    files = Counter(PurePosixPath(name).name for name in names)
    counts = Counter(PurePosixPath(path).name for path in texts)
    alone = {PurePosixPath(path).name: text for path, text in texts.items()}
    found: list[str | None] = []
    for name in names:
        first, _, rest = name.partition("/")
        candidates = [name, f"train/{name}", *([rest] if first in ("train", "images") else [])]
        text = next((texts[each] for each in candidates if each in texts), None)
        file = PurePosixPath(name).name
        if text is None and files[file] == counts[file] == 1:
            text = alone[file]
        found.append(text)
    return found


def embed_texts(
    source: Source, rows: Sequence[int], path: str | Path, encoder: str, *, cache: Path
) -> tuple[ImageTexts, str]:
    """The embeddings of the texts of some images, and a sentence on images and texts without the other.

    The embeddings are computed once for a text encoder and the texts of a file, and read from a file in
    ``cache`` from then on; those of ``file:`` are read from that file each time.  Several processes must not
    begin at the same time.

    Args:
        source: of the images.
        rows: of ``source``, which belong to the data set.
        path: of a file as :func:`read_texts` reads it.
        encoder: as :mod:`castssl.text` names them: ``clip:ViT-B-32/openai``, ``words:128``, ...
        cache: a folder.

    Raises:
        DataError: if the file cannot be read, or names no image of ``rows``.
        ConfigError, PluginError: as :func:`castssl.text.embeddings`.
    """
    texts, names = read_texts(path), [source.name(int(row)) for row in rows]
    found = match_texts(names, texts)
    known = sum(text is not None for text in found)
    if not known:
        raise DataError(
            f"none of the {len(texts)} texts of {path} is of one of the {len(names)} images: got the path"
            f" {next(iter(texts))}, expected one such as {names[0] if names else 'none'}; correct the paths"
        )
    unique = list(dict.fromkeys(text for text in found if text is not None))
    place = {text: number for number, text in enumerate(unique)}
    row = torch.full((len(source),), -1, dtype=torch.int64)
    row[torch.as_tensor(rows)] = torch.tensor([-1 if text is None else place[text] for text in found])
    about = f"{path}: {known} of {len(names)} images have a text"
    digest = _digest(encoder, [text or "" for text in found])
    return ImageTexts(_computed(unique, encoder, cache), row, digest), about


def _digest(encoder: str, texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([encoder, *texts]).encode()).hexdigest()[:20]


def _computed(texts: Sequence[str], encoder: str, cache: Path) -> Tensor:
    """Embeddings float32 (U, E) out of the cache, or into it, :data:`CHUNK` texts a file; a file has none."""
    if encoder.startswith("file:"):  # It may hold other vectors by now, and is read as fast as the cache.
        return embeddings(texts, encoder, whole=True).vectors
    parts = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
    return torch.cat([_part(part, encoder, cache) for part in parts])


def _part(texts: Sequence[str], encoder: str, cache: Path) -> Tensor:
    """The same of the texts of a file; a damaged file is replaced."""
    store = cache / f"texts-{_digest(encoder, texts)}.safetensors"
    if os.path.lexists(store):
        try:
            return embeddings(texts, encoder, store=store, whole=True).vectors
        except DataError as error:
            print(f"castssl: the embeddings of the texts are computed again: {error}", file=sys.stderr)
            store.unlink(missing_ok=True)
    return embeddings(texts, encoder, store=store, whole=True).vectors
