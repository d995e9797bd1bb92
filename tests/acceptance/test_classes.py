"""Which folders are classes, which classes number the labels, and what is left out of a data set."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.classifier import save_classifier
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from castssl.labels import LabelTree
from castssl.objectives.tree_kl import TreeKL
from tests.acceptance.conftest import Command

SYSTEM = (
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    ".ipynb_checkpoints",
    "__MACOSX",
    "System Volume Information",
    "@Recycle",
    "@__thumb",
)


def write(root: Path, *names: str | bytes) -> Path:
    """Small images below a folder."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name) * 7, 0, 0)).save(path, "PNG")
    return root


def pack(path: Path, *names: str) -> Path:
    """A tar of small images."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
    return path


def opened(spec: str, split: str = "train") -> Images:
    """A data set that is not a stream."""
    images = open_images(spec, split=split)
    assert isinstance(images, Images)
    return images


def classes(images: Images) -> list[str]:
    """The class of each image by name."""
    return [images.tree.names[-1][label] for label in images.targets[:, -1].tolist()]


def oneline(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("flat", [True, False])
def test_a_class_may_be_called_masks(tmp_path: Path, flat: bool, command: Command) -> None:
    root = tmp_path if flat else tmp_path / "train"
    write(root, "hats/1.png", "masks/1.png", "masks/2.png")
    if not flat:
        write(tmp_path, "val/masks/3.png", "masks/train/hats/1.png")
    images = opened(f"folder:{tmp_path}")
    assert classes(images) == ["hats", "masks", "masks"]
    assert (images.masks is None) == flat
    assert "masks" in command("tree", f"folder:{tmp_path}").out


def test_folders_of_masks_are_no_class_and_are_named(tmp_path: Path, command: Command) -> None:
    write(tmp_path / "a", "cat/1.png", "dog/1.png", "masks/cat/1.png", "masks/dog/1.png")
    write(tmp_path / "b", "images/1.png", "masks/1.png")
    write(tmp_path / "c", "cat/1.png", "dog/1.png", "masks/train/cat/1.png")
    for name, expected in {"a": ["cat", "dog"], "b": ["images"], "c": ["cat", "dog"]}.items():
        assert classes(opened(f"folder:{tmp_path / name}")) == expected
        shown = oneline(command("tree", f"folder:{tmp_path / name}").out)
        assert "left out the folder masks: it holds object masks" in shown


def test_what_systems_leave_behind_is_no_class_and_no_split(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "train/cat/1.png", "train/dog/2.png")
    for name in SYSTEM:
        write(tmp_path, f"{name}/x.png", f"train/{name}/x.png", f"train/cat/{name}/x.png")
    images = opened(f"folder:{tmp_path}")
    assert classes(images) == ["cat", "dog"]
    assert images.tree.sizes == (2,)
    shown = oneline(command("tree", f"folder:{tmp_path}").out)
    assert f"left out {2 * len(SYSTEM)} folders" in shown
    assert "@eaDir" in shown
    inside = pack(tmp_path / "set.tar", "cat/1.png", "__MACOSX/cat/1.png", "cat/@eaDir/1.png", "dog/2.png")
    assert classes(opened(f"tar:{inside}")) == ["cat", "dog"]


def test_what_is_left_out_is_named_by_extension_and_by_damage(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "cat/1.png", "cat/2.jfif", "dog/3.png")
    (tmp_path / "dog" / "4.png").write_bytes(b"")
    (tmp_path / "dog" / "notes.txt").write_bytes(b"x")
    (tmp_path / "dog" / "LICENSE").write_bytes(b"x")
    (tmp_path / "cat" / "._2.jfif").write_bytes(b"x")
    assert len(opened(f"folder:{tmp_path}")) == 4
    shown = oneline(command("tree", f"folder:{tmp_path}").out)
    assert "left out 3 files by extension: 1 .txt, 1 hidden, 1 without extension" in shown
    assert "1 of 4 images that were looked at cannot be read" in shown
    assert "4.png" in shown.replace(" ", "")  # a long path is wrapped within a name


def test_an_image_format_without_its_package_names_the_package(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from castssl.datasets import file_names, left_out

    monkeypatch.setattr(left_out, "PACKAGES", {".heic": "pillow-heif"})
    monkeypatch.setattr(file_names, "EXTENSIONS", (".png",))
    write(tmp_path, "cat/1.png", "cat/2.heic", "cat/3.HEIC")
    shown = oneline(command("tree", f"folder:{tmp_path}").out)
    assert "left out 2 .heic files" in shown
    assert "pillow-heif" in shown


def three_classes(root: Path, kind: str, *more: str) -> str:
    """A data set of the classes a, b and c, of which val has a, c and what else is asked for."""
    train, val = [f"{name}/1.png" for name in "abc"], [f"{name}/2.png" for name in ("a", "c", *more)]
    names = [*(f"train/{name}" for name in train), *(f"val/{name}" for name in val)]
    if kind in ("folder", "tree"):
        return f"{kind}:{write(root, *names)}"
    if kind == "one tar":
        return f"tar:{pack(root / 'set.tar', *names)}"
    pack(root / "train.tar", *train)
    held_out = pack(root / "val.tar", *val)
    return f"tar:{root if kind == 'two tars' else held_out}"


@pytest.mark.parametrize("kind", ["folder", "tree", "one tar", "two tars", "a tar of two"])
def test_the_training_split_numbers_the_classes_for_every_reader(tmp_path: Path, kind: str) -> None:
    spec = three_classes(tmp_path, kind)
    held_out = opened(spec, "val")
    assert held_out.tree.names == (("a", "b", "c"),)
    assert held_out.targets.tolist() == [[0], [2]]
    three_classes(tmp_path, kind, "d")
    with pytest.raises(DataError, match=r"1 classes that .*train.* lacks: d"):
        open_images(spec, split="val")


def test_a_split_in_a_tar_of_its_own_has_its_own_classes(tmp_path: Path) -> None:
    pack(tmp_path / "val.tar", "a/2.png", "c/2.png")
    assert opened(f"tar:{tmp_path / 'val.tar'}", "val").tree.names == (("a", "c"),)


def test_names_that_are_not_utf_8_end_neither_tree_nor_predict(tmp_path: Path, command: Command) -> None:
    write(tmp_path / "set", b"c\xe9t/\xff1.png", "dog/2.png")
    shown = command("tree", f"folder:{tmp_path / 'set'}")
    assert shown.code == 0
    assert "dog" in shown.out
    assert r"c\udce9t" in shown.out

    torch.manual_seed(0)
    encoder = castssl.create("nano", image_size=32, sizes=(16, 8, 4), superpixels="grid:cell=8")
    tree = LabelTree.flat(("cat", os.fsdecode(b"d\xf6g")))
    objective = TreeKL(encoder, tree)
    path = tmp_path / "encoder.safetensors"
    save_classifier(objective, path, spec="tree-kl", labels=tree)
    image = tmp_path / "set" / os.fsdecode(b"c\xe9t/\xff1.png")
    shown = command("predict", image, "--weights", path, "--out", tmp_path / "sheet.png")
    assert (shown.code, "Traceback" in shown.err) == (0, False)
    assert r"\udcff1.png" in shown.out
    assert (tmp_path / "sheet.png").stat().st_size
    assert command("predict", image, "--weights", path, "--json").code == 0
