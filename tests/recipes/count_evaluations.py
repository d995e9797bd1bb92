"""``count_evaluations.py OUT RECIPE FLAGS``: run a recipe, and count what each of its evaluations computes.

OUT receives a JSON list with an object for each evaluation: the files that were decoded and how often, the
sizes of the data sets, how often each view was partitioned, and how many images had an object.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import ImageFile
from torch import Tensor

from castssl.datasets.images import Images
from castssl.evaluation.held_out import Evaluation, Evaluator, Subject
from castssl.superpixels.grid import Grid

decoded, partitioned = Counter[str](), Counter[bytes]()
evaluations: list[dict[str, Any]] = []
decode, partition, measure = ImageFile.ImageFile.load, Grid.__call__, Evaluation._measure


def count_decode(self: ImageFile.ImageFile) -> Any:
    if self.tile:  # Otherwise the pixels are decoded already.
        decoded[getattr(self.fp, "name", "")] += 1
    return decode(self)


def count_partition(self: Grid, images: Tensor) -> Tensor:
    partitioned.update(image.numpy().tobytes() for image in images)
    return partition(self, images)


def count_evaluation(
    self: Evaluation, subject: Subject, due: Sequence[Evaluator]
) -> dict[Evaluator, dict[str, float]]:
    decoded.clear()
    partitioned.clear()
    results = measure(self, subject, due)
    assert isinstance(self.train, Images)
    assert isinstance(self.held_out, Images)
    splits = {"train": self.train, "held_out": self.held_out}
    evaluations.append(
        {
            "evaluators": [type(one).__name__ for one in due],
            "decoded": dict(decoded),
            "partitioned": sorted(partitioned.values()),
            **{
                name: [images.source.path(int(row)) for row in images.rows] for name, images in splits.items()
            },
        }
    )
    return results


if __name__ == "__main__":
    out, recipe, *flags = sys.argv[1:]
    ImageFile.ImageFile.load = count_decode  # type: ignore[method-assign]
    Grid.__call__ = count_partition  # type: ignore[method-assign]
    Evaluation._measure = count_evaluation  # type: ignore[method-assign]
    sys.argv = [recipe, *flags]
    sys.path.insert(0, str(Path(recipe).resolve().parent))
    runpy.run_path(recipe, run_name="__main__")
    Path(out).write_text(json.dumps(evaluations))
