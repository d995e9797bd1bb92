"""What the processes of :mod:`tests.forked` find imported, and would else each import anew."""

from __future__ import annotations

import atexit
import gc
from importlib import import_module

from PIL import Image

RECIPES = (
    "moco_in1k",
    "pretrain",
    "deit_in1k",
    "hcast",
    "probe_in1k",
    "segment",
    "finetune_voc",
    "retrieve_voc",
)
LATER = ("torch._dynamo", "sklearn.cluster", "typeguard", "rich._emoji_codes", "tests.training.toy")

for name in (*(f"recipes.{recipe}" for recipe in RECIPES), *LATER):
    import_module(name)
Image.init()
atexit.register(gc.unfreeze)  # Else libraries report as leaked at the end of the process what is frozen.
gc.freeze()  # Else each process would visit all these objects in its collections, which copies their memory.
