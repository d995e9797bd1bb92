"""Few files in few rooms lie between a command's ``--weights`` and the encoder."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from PIL import Image

import castssl
from castssl.checkpoints.initialize import initialize
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.deit import DeiT
from tests.checkpoints import checkpoints

PACKAGE = Path(castssl.__file__).parent
BEGINS, ENDS = "commands/segment.py _segment", "checkpoints/load.py load_encoder"
BUILDS = "models/create.py create"
STAYS, ROOMS = 8, 4
COMPREHENSIONS = {"<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"}


class Way:
    """The castssl functions that are called from the command's function until ``load_encoder`` returns.

    Functions called by ``create`` build the encoder, and imports follow no argument: both are left out.  A
    comprehension is no function of its own; Python 3.12 has no frame for most of them.
    """

    def __init__(self, begins: str = BEGINS, ends: str = ENDS) -> None:
        self._begins, self._ends = begins, ends
        self.functions: list[str] = []
        self._inside: FrameType | None = None
        self._done = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """For ``sys.setprofile``."""
        if event == "return" and frame is self._inside:
            self._inside = None
        if event not in {"call", "return"} or self._inside or self._done:
            return
        name = self._name(frame)
        if event == "return":
            self._done = name == self._ends
        elif frame.f_code.co_name == "<module>":
            self._inside = frame
        elif name == self._begins or (self.functions and name):
            self.functions.append(name)
            self._inside = frame if name == BUILDS else None

    @staticmethod
    def _name(frame: FrameType) -> str:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(PACKAGE) or frame.f_code.co_name in COMPREHENSIONS:
            return ""
        return f"{path.relative_to(PACKAGE).as_posix()} {frame.f_code.co_name}"

    def stays(self) -> list[str]:
        """The files in the order of the way; functions of one file in a row are one stay."""
        return [file for file, _ in groupby(name.partition(" ")[0] for name in self.functions)]


def follow(weights: Path, folder: Path) -> Way:
    """The way of ``castssl segment --weights``."""
    Image.effect_noise((40, 40), 60).convert("RGB").save(folder / "photo.png")
    way = Way()
    arguments = [
        "segment",
        str(folder / "photo.png"),
        "--weights",
        str(weights),
        "--out",
        str(folder / "out"),
    ]
    before = sys.getprofile()
    sys.setprofile(way)
    try:
        code = main(arguments)
    finally:
        sys.setprofile(before)
    assert code == 0
    assert BUILDS in way.functions
    return way


def check(way: Way) -> None:
    stays = way.stays()
    shown = " -> ".join(way.stays())
    assert stays
    rooms = {file.partition("/")[0] for file in stays}
    assert len(stays) <= STAYS, f"{len(stays)} stays in {sorted(rooms)}: {shown}"
    assert len(rooms) <= ROOMS, f"{sorted(rooms)}: {shown}"


def test_few_stays_lie_between_a_runs_folder_and_its_encoder(tmp_path: Path) -> None:
    save_encoder(create("nano", image_size=32), tmp_path / "encoder.safetensors")
    check(follow(tmp_path, tmp_path))


@pytest.mark.parametrize("variant", ["cast", "cast_deit", "cast_seg", "moco"])
def test_few_stays_lie_between_a_published_file_and_its_encoder(variant: str, tmp_path: Path) -> None:
    content = checkpoints.moco() if variant == "moco" else {"model": checkpoints.state(variant, 4)}
    torch.save(content, tmp_path / "in.pth")
    check(follow(tmp_path / "in.pth", tmp_path))


def test_few_stays_lie_between_hcasts_weights_and_its_objective(tmp_path: Path) -> None:
    save_encoder(create("nano", image_size=32), tmp_path / "encoder.safetensors")
    labels = LabelTree((3,), (), (("a", "b", "c"),))
    objective = DeiT(create("nano", image_size=64), labels)
    way = Way("checkpoints/initialize.py initialize", "checkpoints/initialize.py initialize")
    before = sys.getprofile()
    sys.setprofile(way)
    try:
        initialize(objective, tmp_path)
    finally:
        sys.setprofile(before)
    check(way)
