"""The main recipe on a folder with files that are broken: it goes on, or ends with a clear word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.recipes.conftest import Runner
from tests.recipes.test_moco_in1k import FLAGS

pytestmark = pytest.mark.recipe
BROKEN = ("an empty one.jpg", "a truncated one.png", "no image \u00e9.jpg")


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """The demo's images, three files of them broken, others odd, and a broken one to be examined on."""
    root = tmp_path_factory.mktemp("spoilt") / "with blanks"
    shutil.copytree(image_folder, root)
    place = next((root / "train").rglob("*.png")).parent
    whole = sorted(place.glob("*.png"))
    odd = Image.open(whole[3])
    odd.convert("CMYK").save(place / "cmyk.jpg")
    odd.resize((1, 1)).save(place / "pixel.png")
    odd.resize((400, 10)).convert("P").save(place / "panorama.gif")
    (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (place / "._pixel.png").write_bytes(b"\0\5\26\7")
    (place / BROKEN[0]).write_bytes(b"")
    (place / BROKEN[1]).write_bytes(whole[0].read_bytes()[:-200])
    (place / BROKEN[2]).write_text("<html>404</html>")
    next((root / "val").rglob("*.png")).write_bytes(b"")
    return root


def names(out: Path) -> list[str]:
    """The last parts of the listed paths."""
    lines = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [Path(line["image"]).name for line in lines if line.get("event") == "unreadable"]


def test_a_few_broken_files_are_replaced_and_listed(tmp_path: Path, spoilt: Path, recipe: Runner) -> None:
    flags = [*FLAGS, "--epochs", "2", "--out", str(tmp_path), "--max-bad", "0.2", "--workers", "1"]
    done = recipe("moco_in1k", "--data", f"folder:{spoilt}", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 images could not be read" in done.stdout.replace("\n", "")
    assert set(BROKEN) <= set(names(tmp_path))
    assert len(names(tmp_path)) == 4
    assert "Warning" not in done.stderr


@pytest.mark.distributed
def test_too_many_end_all_processes_with_a_clear_word(tmp_path: Path, spoilt: Path, recipe: Runner) -> None:
    flags = [*FLAGS, "--epochs", "2", "--out", str(tmp_path), "--max-bad", "0.01", "--knn-every", "9"]
    done = recipe("moco_in1k", "--data", f"folder:{spoilt}", *flags, processes=2)
    assert done.returncode == 1
    assert "are more than --max-bad 0.01 allows" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("checkpoints/step*"))
    assert set(BROKEN) <= set(names(tmp_path))
