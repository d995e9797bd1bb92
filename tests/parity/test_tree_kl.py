"""The tree-path divergence against what the released H-CAST computed."""

from __future__ import annotations

from safetensors.torch import load_file

from castssl.objectives.tree_kl import tree_kl
from tests.parity.test_tome import FILE


def test_three_levels() -> None:
    stored = load_file(FILE)
    levels = [[stored[f"tree_kl.{kind}{level}"] for level in range(3)] for kind in ("logits", "targets")]
    assert abs(float(tree_kl(*levels)) - float(stored["tree_kl.loss"])) < 1e-6
