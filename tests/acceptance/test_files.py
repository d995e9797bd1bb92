"""Files that castssl writes have the mode that the umask gives, and equal content gives equal bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import castssl
from castssl.checkpoints.hub import save_pretrained
from castssl.datasets.demo import dataset as demo
from castssl.models.cast import CAST
from tests.acceptance.conftest import Command


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    try:
        yield request.param
    finally:
        os.umask(before)


def encoder() -> CAST:
    """A small untrained model."""
    built = castssl.create("nano", image_size=32)
    assert isinstance(built, CAST)
    return built


def wrong_modes(folder: Path, umask: int) -> dict[str, str]:
    """Files and folders whose mode is not the one that the umask gives."""
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert found
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in found}
    return {str(path): oct(mode) for path, mode in found.items() if mode != expected[path]}


def test_every_file_has_the_mode_of_the_umask(
    tmp_path: Path, umask: int, image_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASTSSL_CACHE", str(tmp_path / "cache"))
    save_pretrained(encoder(), tmp_path / "pretrained")
    photo = min((image_folder / "val").rglob("*.png"))
    weights = tmp_path / "pretrained"
    assert command("segment", photo, "--weights", weights, "--out", tmp_path / "segments").code == 0
    demo.root(size=16, per_class=1)
    assert wrong_modes(tmp_path, umask) == {}


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    model = encoder()
    written = set()
    for number in range(8):
        save_pretrained(model, tmp_path / str(number))
        written.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(written) == 1


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    model = encoder()
    save_pretrained(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # Python ignores SIGXFSZ, so that writes fail
    try:
        with pytest.raises(castssl.CastError, match=r"cannot write the .* \(File too large\)"):
            save_pretrained(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
