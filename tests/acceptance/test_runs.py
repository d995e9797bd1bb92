"""A run that is copied, moved, damaged or given other images: it continues exactly, or says what differs."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.acceptance.conftest import Command
from tests.training.processes import same

pytestmark = pytest.mark.recipe
FLAGS = (
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--hidden", "16", "--out-dim", "8"),
    *("--batch-size", "16", "--lr", "1e-3", "--epochs", "2", "--warmup-epochs", "1", "--knn-every", "2"),
    *("--workers", "0", "--save-every", "1", "--log-every", "1", "--keep", "3"),
)


def hashes(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def damage(path: Path) -> None:
    """Flip one bit of the largest tensor of a checkpoint, as a failing disk does."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + len(largest.FileHeader()) + 64 + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((out / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """Images of this module's own."""
    return Path(shutil.copytree(image_folder, tmp_path_factory.mktemp("first") / "images"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path, process: Command) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = process("recipes/moco_in1k.py", "--data", f"folder:{images}", *FLAGS, "--out", out)
    assert done.code == 0, done.err[-3000:]
    assert [path.name for path in checkpoints(out)] == [f"step-0000000{step}.pt" for step in (4, 5, 6)]
    return out


def test_a_copied_run_with_moved_images_damaged_files_and_other_path_ends_as_the_first(
    whole: Path, images: Path, tmp_path: Path, process: Command
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    moved = Path(shutil.copytree(images, tmp_path / "elsewhere"))
    *_, second, newest = checkpoints(copy)
    damage(newest)
    second.write_bytes(second.read_bytes()[:-100])
    (copy / "once.json").write_bytes(b"")
    (copy / "results.json").write_bytes(b"")
    before = hashes(whole)
    flags = ("--config", copy / "config.json", "--data", f"folder:{moved}")
    done = process("recipes/moco_in1k.py", *flags)
    said = " ".join(done.err.split())
    assert done.code == 0, done.err[-3000:]
    assert "goes on after step 4" in said
    for path in (newest, second):
        assert f"{path.name} is damaged" in said.replace(" .pt", ".pt")
    assert hashes(whole) == before
    assert json.loads((copy / "once.json").read_text()) == json.loads((whole / "once.json").read_text())
    assert json.loads((copy / "results.json").read_text()) == json.loads((whole / "results.json").read_text())
    assert same(load_file(copy / "encoder.safetensors"), load_file(whole / "encoder.safetensors"))
    assert [path.name for path in checkpoints(copy)] == [path.name for path in checkpoints(whole)]
    for path in checkpoints(copy):
        assert zipfile.ZipFile(path).testzip() is None


def test_a_run_without_a_whole_checkpoint_is_refused_and_each_is_named(
    whole: Path, images: Path, tmp_path: Path, process: Command
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    first, second, newest = checkpoints(copy)
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-100])
    damage(newest)
    (copy / "config.json").write_bytes(b"\0" * 512)
    logged = (copy / "log.jsonl").read_bytes()
    done = process("recipes/moco_in1k.py", "--data", f"folder:{images}", *FLAGS, "--out", copy)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "is whole" in done.err
    assert f"{first.name} is empty" in done.err
    assert all(path.name in done.err for path in (first, second, newest))
    assert (copy / "log.jsonl").read_bytes() == logged


def test_other_images_are_refused_by_class_and_taken_by_a_flag(
    whole: Path, images: Path, tmp_path: Path, process: Command
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    other = Path(shutil.copytree(images, tmp_path / "other"))
    renamed = min((other / "train").rglob("*.png"))
    renamed.rename(renamed.with_name("another.png"))
    before = hashes(copy / "checkpoints")
    flags = ("--config", copy, "--data", f"folder:{other}", "--epochs", "3", "--max-steps", "7")
    done = process("recipes/moco_in1k.py", *flags)
    label = renamed.parent.relative_to(other / "train").as_posix()
    assert done.code == 2, done.err[-3000:]
    assert f"class '{label}': 6 images then and now, of other names" in done.err
    assert "--other-images" in done.err
    assert hashes(copy / "checkpoints") == before
    done = process("recipes/moco_in1k.py", *flags, "--other-images", "--knn-every", "0")
    assert done.code == 0, done.err[-3000:]
    assert "continues with other images" in done.err
    assert checkpoints(copy)[-1].name == "step-00000007.pt"
