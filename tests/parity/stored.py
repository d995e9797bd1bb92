"""Stored runs of the released code, one of each model variant.

The originals are one file a variant, 18 MB together: inputs, weights, intermediates, outputs and gradients.
What is kept of them: equal tensors once, and of each gradient its norm and :data:`SIGNS` sums under random
signs.  A difference of norm d changes such a sum by d on average, so the sums tell an error in any element.

``python -m tests.parity.stored FOLDER`` makes the file anew from the originals.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity import filler

FILE = Path(__file__).parent / "golden" / "variants.safetensors"
VARIANTS = ("moco", "deit", "hier2", "hier3", "seg_deit", "seg_pretrain", "seg_segmentation")
SIGNS = 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Run:
    """A stored run: published state dict, inputs, and what the released code made of them.

    ``gradients`` are :func:`digest` of each; ``facts`` are the sizes that the released code was built with.
    """

    image: Tensor
    segments: Tensor
    state: dict[str, Tensor]
    outputs: list[Tensor]
    inter: dict[str, Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]
    facts: dict[str, str]


def digest(gradient: Tensor) -> Tensor:
    """The norm, and sums under :data:`SIGNS` fixed random signs: float64 (1 + SIGNS,)."""
    flat = gradient.detach().double().flatten()
    signs = torch.from_numpy(filler.uniform(SIGNS * len(flat), 3)).view(SIGNS, -1) < 0.5
    return torch.cat([flat.norm()[None], torch.where(signs, flat, -flat).sum(1)])


@cache
def _everything() -> tuple[dict[str, Tensor], dict[str, str], dict[str, dict[str, str]]]:
    with safe_open(FILE, "pt") as file:
        about = file.metadata()
    return load_file(FILE), json.loads(about["same"]), json.loads(about["facts"])


def load(variant: str) -> Run:
    """The stored run of a variant."""
    tensors, same, facts = _everything()
    whole = tensors | {name: tensors[other] for name, other in same.items()}

    def under(prefix: str) -> dict[str, Tensor]:
        start = f"{variant}.{prefix}"
        return {k.removeprefix(start): v for k, v in whole.items() if k.startswith(start)}

    rgb = tensors["input.rgb"].permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    outputs = under("output")
    return Run(
        image=(rgb - mean) / std,
        segments=tensors["input.superpixels"].long(),
        state={name: value.clone() for name, value in under("state.").items()},
        outputs=[outputs[name] for name in sorted(outputs)],
        inter=under("inter."),
        loss=whole[f"{variant}.loss"],
        gradients=under("grad."),
        facts=facts[variant],
    )


def shrink(folder: Path, out: Path) -> None:
    """Write what this module reads, from a folder of the original files."""
    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    facts: dict[str, dict[str, str]] = {}
    seen: dict[tuple[object, ...], str] = {}
    for variant in VARIANTS:
        with safe_open(folder / f"{variant}.safetensors", "pt") as file:
            facts[variant] = file.metadata()
        for name, value in sorted(load_file(folder / f"{variant}.safetensors").items()):
            if name.startswith("input."):
                if name != "input.image":
                    kept[name] = value.to(torch.uint8)
                continue
            full = f"{variant}.{name}"
            small = digest(value) if name.startswith("grad.") else value
            key = (str(small.dtype), tuple(small.shape), small.numpy().tobytes())
            if key in seen:
                same[full] = seen[key]
            else:
                seen[key], kept[full] = full, small
    save_file(kept, out, metadata={"same": json.dumps(same), "facts": json.dumps(facts)})
    out.chmod(0o644)


if __name__ == "__main__":
    shrink(Path(sys.argv[1]), FILE)
