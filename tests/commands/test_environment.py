from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from castssl.cli import main
from castssl.commands.environment import Finding, opencv, optional, python, required
from castssl.devices import machine
from tests.plugins.packages import DUPLICATE, Package

CLOBBERED = Package("opencv-python", version="4.11.0.86", sources={"cv2.py": '__version__ = "4.11.0"\n'})
"""What is left when opencv-python has written its folder over that of opencv-contrib."""


def test_a_clobbered_cv2_comes_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("cv2")  # So that there is something to put back.
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.syspath_prepend(str(CLOBBERED.write(tmp_path)))
    found = opencv()
    assert found.state == "broken"
    assert "4.11.0 has no ximgproc" in found.text
    assert "opencv-python 4.11.0.86" in found.text
    version = metadata.version("opencv-contrib-python-headless")
    assert found.remedy.endswith(f"install --no-deps opencv-contrib-python-headless=={version}")


def test_something_broken_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(DUPLICATE.write(tmp_path)))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines if line.startswith("broken")] == [["pooling", "graph"]]
    assert lines[-1] == "1 broken"


def test_this_environment_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    shown = main(["doctor"]), capsys.readouterr().out
    assert shown[0] == 0, shown[1]
    topics = [line.split()[1] for line in shown[1].splitlines() if line.split()[0] in ("ok", "note")]
    for topic in (
        "python",
        "torch",
        "device",
        "cv2",
        "timm",
        "lightly",
        "accelerate",
        "tensorboard",
        "pooling",
    ):
        assert topic in topics


def test_two_opencv_distributions_are_a_note_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opencv().state == "ok"
    package = Package("opencv-python-headless", version="4.11.0.86").write(tmp_path)
    monkeypatch.syspath_prepend(str(package))
    found = opencv()
    assert found.state == "note"
    assert "opencv-python-headless 4.11.0.86" in found.text
    remove, install = found.remedy.split(" && ")
    assert remove.endswith(" opencv-python-headless")
    assert "opencv-contrib-python-headless==" in install


def test_an_opencv_that_a_library_requires_is_not_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Package("opencv-python", version="4.11.0.86").write(tmp_path)))
    found = opencv()
    assert found.state == "note"
    assert "mmengine" in found.text.partition("required by")[2]
    assert not found.remedy


def test_python_is_named() -> None:
    assert python() == Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def test_a_missing_library_comes_with_its_command() -> None:
    found = required(Requirement("library-that-nobody-has>=2"))
    assert found.state == "broken"
    assert found.remedy.endswith("pip install 'library-that-nobody-has>=2'")


def test_an_old_library_is_broken() -> None:
    found = required(Requirement("numpy>=1000"))
    assert found.state == "broken"
    assert metadata.version("numpy") in found.text
    assert "numpy>=1000" in found.text


def test_a_library_that_does_not_import_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("hollow-library", sources={"hollow_library.py": "raise OSError('libGL.so.1')\n"})
    monkeypatch.syspath_prepend(str(package.write(tmp_path)))
    found = required(Requirement("hollow-library"))
    assert found.state == "broken"
    assert "libGL.so.1" in found.text
    assert "install" in found.remedy


def test_a_missing_tracker_is_a_note() -> None:
    found = optional(Requirement("tracker-that-nobody-has; extra == 'track'"))
    assert found.state == "note"
    assert "extra 'track'" in found.text
    assert optional(Requirement("rich; extra == 'track'")).state == "ok"


def test_a_table_of_measurements_says_where_it_was_made() -> None:
    output = machine().split(", ")
    assert output[0]
    assert output[-3].endswith(" cores")
    threads = torch.get_num_threads()
    assert output[-2] == ("1 thread" if threads == 1 else f"{threads} threads")
    assert output[-1] == f"torch {torch.__version__}"
