"""``count_compiled.py OUT RECIPE FLAGS``: run a recipe, and count what it calls of what it compiles.

OUT receives the number of calls that keep something for a gradient.  The functions are called as they are, as
their compilation would take minutes.
"""

from __future__ import annotations

import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

calls = Counter[bool]()


def compile_nothing(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        calls[torch.is_grad_enabled()] += 1
        return function(*args, **options)

    return call


if __name__ == "__main__":
    out, recipe, *flags = sys.argv[1:]
    setattr(torch, torch.compile.__name__, compile_nothing)
    sys.argv = [recipe, *flags]
    sys.path.insert(0, str(Path(recipe).resolve().parent))
    runpy.run_path(recipe, run_name="__main__")
    Path(out).write_text(str(calls[True]))
