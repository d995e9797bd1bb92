from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from castssl.data.evaluation_views import CenterView
from castssl.data.inventory import inventory
from castssl.data.loader import load
from castssl.data.splits import hold_out, open_splits, renumber
from castssl.datasets import DataError, many_labels, multi_hot
from castssl.datasets.free_grain import hide_fine
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from tests.contracts.healthy import Tags

NAMES = ("cat", "dog", "hen")


def test_labels_by_name_are_one_zero_or_unknown() -> None:
    found = multi_hot([("dog",), (), ("hen", "cat")], NAMES, [("cat", "dog"), (), ("dog",)])
    assert found.dtype == torch.float32
    # A label that is present and unknown, as of two objects of which one is difficult, is present.
    assert found.tolist() == [[-1, 1, 0], [0, 0, 0], [1, -1, 1]]
    assert multi_hot([], NAMES).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "unknown", "words"),
    [
        ([("cow",)], [], "cow"),
        ([("cat",)], [("cow",)], "cow"),
        ([("cat",)], [(), ()], "unknown labels of 2 images, but labels of 1"),
    ],
)
def test_strange_labels_are_refused(
    labels: list[tuple[str, ...]], unknown: list[tuple[str, ...]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        multi_hot(labels, NAMES, unknown)


def test_a_tree_of_many_labels_has_levels_side_by_side() -> None:
    tree = many_labels(("pet", "bird"), NAMES, parents=[(0, 0, 1)])
    assert (tree.sizes, tree.exclusive, tree.parents) == ((2, 3), False, ((0, 0, 1),))
    assert tree.names == (("pet", "bird"), NAMES)
    assert many_labels(("pet", "bird"), NAMES).parents == ()
    with pytest.raises(DataError, match="cat"):
        many_labels((*NAMES, "cat"))
    with pytest.raises(DataError, match="3 levels with 1 parent tables"):
        many_labels(("a",), ("b",), ("c",), parents=[(0,)])


@pytest.fixture
def tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The spec of a data set with many labels per image."""
    monkeypatch.setattr("castssl.datasets.open.build", lambda *_, **__: Tags())
    return f"folder:{Tags().example(tmp_path)}"


def test_a_batch_has_the_multi_hot_targets_of_its_images(tags: str) -> None:
    images = cast(Images, open_images(tags))
    assert (images.targets.dtype, images.targets.shape) == (torch.float32, (6, 5))
    options = {"views": CenterView(32), "superpixels": None, "batch_size": 4}
    batches = [batch.target for batch in load(images, train=False, **options)]  # type: ignore[arg-type]
    assert [batch.dtype for batch in batches] == [torch.float32] * 2
    assert torch.cat(batches).equal(images.targets)


def test_what_needs_label_paths_refuses_many_labels_or_takes_all_images_as_one_group(tags: str) -> None:
    images = cast(Images, open_images(tags))
    rest, held_out = hold_out(images, 0.34)
    assert (len(rest), len(held_out)) == (4, 2)
    assert inventory(images)["classes"].keys() == {""}
    assert renumber(held_out, images.tree, "val") is held_out
    with pytest.raises(DataError, match="same classes"):
        renumber(held_out, many_labels(("a", "b")), "val")
    with pytest.raises(DataError, match="fine labels cannot be hidden"):
        hide_fine(images, 0.5)
    with pytest.raises(DataError, match="many classes per image"):
        open_images(tags, subset="imagenet100")


def test_held_out_labels_are_matched_by_name(tmp_path: Path) -> None:
    """As of two tables, of which one is in another order or lacks a label of few images."""
    for name, rows in {"train": ("cat|dog", "hen", "cow"), "val": ("hen|cat", "dog", "")}.items():
        for number in range(len(rows)):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{name}{number}.png")
        lines = [f"{name}{number}.png,{row}" for number, row in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,tags", *lines]) + "\n")
    train, val = (f"csv:{tmp_path / name}.csv?labels=tags" for name in ("train", "val"))
    held_out = cast(Images, open_splits(train, val=val).held_out)
    assert held_out.tree.names == (("cat", "cow", "dog", "hen"),)
    assert held_out.targets.tolist() == [[1, -1, 0, 1], [0, -1, 1, 0], [0, -1, 0, 0]]
    assert "left out 1 classes that these images do not know: cow" in open_splits(train, val=val).remarks[-1]
    levels = many_labels(("b", "a"), ("y", "x", "z"))
    wide = torch.tensor([[1.0, 0, -1, 1, 0]] * 3)
    images = replace(held_out, targets=wide, tree=many_labels("ab", "xyz"))
    assert cast(Images, renumber(images, levels, "val")).targets[0].tolist() == [0, 1, 1, -1, 0]
    with pytest.raises(DataError, match="1 classes that the training images lack: y"):
        renumber(images, many_labels("ab", "xz"), "val")
