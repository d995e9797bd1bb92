"""Streams that go on past images which cannot be read, and tell of them.

timm's readers decode by themselves: the WebDataset reader skips what it cannot read, with a line on the
terminal each time; the Hub's ends with the first one.  TensorFlow's decoder gives no way to go on.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from PIL import Image

from castssl.data.decode import hush, to_rgb
from castssl.data.unreadable import TRIES, Unreadable, why
from castssl.errors import CastError, DataError


class Guarded:
    """The pictures of a timm reader, as often as it is iterated; made before and used in a worker.

    Args:
        kind: "wds", "hfids" or "tfds".
        name: what the stream is called in messages.
        reader: timm's reader; nobody else may iterate over it.
    """

    def __init__(self, kind: str, name: str, reader: Any) -> None:
        self.kind, self.name, self.reader = kind, name, reader
        self._met: list[Unreadable] = []
        self._decode: Callable[[Any], Image.Image | None] | None = None

    def __iter__(self) -> Iterator[tuple[Image.Image, Any, tuple[Unreadable, ...]]]:
        """RGB pictures, their classes, and the unreadable images met since the picture before.

        Raises:
            DataError: if a hundred images in a row are unreadable, or the stream itself breaks.
        """
        hush()
        try:
            if self._decode is None:
                self._decode = self._guard()
            for encoded, label in self.reader:
                image = self._decode(encoded)
                if image is None:
                    continue
                bad, self._met[:] = tuple(self._met), []
                yield image, label, bad
        except CastError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.name} cannot be read any further: {why(error)}; check the shards, the options and the"
                " connection"
            ) from error

    def _guard(self) -> Callable[[Any], Image.Image | None]:
        """Reach into the reader; returns what makes pictures of what it gives, None of an unreadable one."""
        if self.kind == "wds":
            self._guard_shards()
        if self.kind == "hfids":
            return self._guard_hub() or to_rgb
        return to_rgb

    def _miss(self, name: str, error: Exception) -> None:
        self._met.append(Unreadable(name, why(error)))
        if len(self._met) >= TRIES:
            raise DataError(
                f"{len(self._met)} images in a row of {self.name} cannot be read, the last is {name} ("
                f"{self._met[-1].reason}); check the shards and the options"
            ) from error

    # WebDataset: stages of a pipeline, one of which decodes

    def _guard_shards(self) -> None:
        if self.reader.ds is None:
            self.reader._lazy_init()
        for stage in self.reader.ds.pipeline:
            options = getattr(stage, "kw", {})
            if "handler" in options:
                options["handler"] = self._skip
            given = getattr(stage, "args", ())
            if given and isinstance(given[0], partial) and given[0].func.__name__ == "_decode":
                stage.args = (partial(self._sample, given[0]), *given[1:])

    def _sample(self, decode: Callable[[Any], Any], sample: Any) -> Any:
        """What timm makes of a sample, None if it cannot read the image."""
        try:
            return decode(sample)
        except Exception as error:
            if _settled(error):
                raise
            self._miss(f"{sample.get('__url__', self.name)}: {sample.get('__key__')}", error)
            return None

    def _skip(self, error: Exception) -> bool:
        """True, so that the pipeline goes on, past the rest of a broken shard."""
        if _settled(error):
            raise error
        # webdataset puts the open file behind the message, or the shard's address behind the arguments
        reason, _, file = str(next(iter(error.args), error)).partition(" @ ")
        named = re.search("name='(.+)'", file)
        known = [part for part in error.args[1:] if isinstance(part, str)] + ([named[1]] if named else [])
        self._miss(known[0] if known else self.name, OSError(reason))
        return True

    # the Hub: a column that decodes by itself unless it is told not to

    def _guard_hub(self) -> Callable[[Any], Image.Image | None] | None:
        import datasets  # type: ignore[import-untyped]

        if self.reader.ds is None:
            self.reader._lazy_init()
        stream, key = self.reader.ds, self.reader.input_key
        if not isinstance((stream.features or {}).get(key), datasets.Image):
            return None
        decoder = datasets.Image()
        self.reader.ds = stream.cast_column(key, datasets.Image(decode=False))
        tokens = getattr(stream, "_token_per_repo_id", None)

        def decode(encoded: dict[str, Any]) -> Image.Image | None:
            try:
                return to_rgb(decoder.decode_example(encoded, token_per_repo_id=tokens))
            except Exception as error:
                self._miss(self._place(encoded), error)
                return None

        return decode

    def _place(self, encoded: dict[str, Any] | None) -> str:
        found = encoded or {}
        path = found.get("path") or f"checksum {zlib.crc32(found.get('bytes') or b''):08x}"
        return path if os.path.isabs(path) or "://" in path else f"{self.name}: {path}"


def _settled(error: Exception) -> bool:
    """True for what every sample would bring: a wrong option, not a broken file."""
    return isinstance(error, (CastError, TypeError)) or type(error).__name__ == "WdsTargetKeyError"
