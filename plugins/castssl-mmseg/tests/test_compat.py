"""What an old mmsegmentation needs on today's PyTorch, and nothing more."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from castssl.errors import PluginError
from castssl.installer import restore_ximgproc
from castssl_mmseg import compat
from castssl_mmseg.compat import prepare
from castssl_mmseg_command import main


def test_a_cv2_without_superpixels_is_an_error_with_the_command_that_repairs_it(
    settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of cv2 when opencv-python was installed after castssl."""
    settings("cast_small_voc", nano=True).dump(tmp_path / "own.py")
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(PluginError) as caught:
        main(["train", str(tmp_path / "own.py")])
    assert str(caught.value).endswith(f"Repair it with: {restore_ximgproc()}")


def test_an_operator_that_is_missing_raises_when_it_is_used() -> None:
    from mmcv import ops

    if not type(ops).__module__.startswith("castssl_mmseg"):
        pytest.skip("mmcv has compiled operators here")
    assert isinstance(ops.DeformConv2d, type)
    with pytest.raises(ImportError, match="DeformConv2d is a compiled operator of mmcv"):
        ops.DeformConv2d(3, 3, 1)
    prepare()  # A second call changes nothing.


def test_a_call_after_one_that_failed_does_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = torch.serialization.get_safe_globals()
    monkeypatch.setattr(compat, "_PREPARED", [])
    torch.serialization.clear_safe_globals()
    try:
        with monkeypatch.context() as broken:
            broken.setitem(sys.modules, "mmengine.logging.history_buffer", None)
            with pytest.raises(ImportError):
                prepare()
        prepare()
        assert HistoryBuffer in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(listed)


def test_a_history_of_scalars_is_read_with_weights_only(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save({"log": history}, tmp_path / "a.pth")
    read = torch.load(tmp_path / "a.pth", weights_only=True)["log"]
    assert read.data[0].tolist() == [1.0, 3.0]
    assert read.statistics("mean") == 2.0


class _Attack:
    """An object whose pickle asks for an attribute of something else."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> Any:
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize(
    ("owner", "name"), [(HistoryBuffer, "__init__"), (HistoryBuffer, "__subclasses__"), (dict, "keys")]
)
def test_no_other_attribute_is_given_to_a_file(tmp_path: Path, owner: Any, name: str) -> None:
    torch.save(_Attack(owner, name), tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)
