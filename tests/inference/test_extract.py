"""``castssl features``: the rows of the evaluators, parts that outlive the process, files that stay."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import castssl
from castssl.checkpoints.native import save_encoder
from castssl.cli import main
from castssl.data.evaluation_views import CenterView
from castssl.datasets import many_labels
from castssl.datasets.depth import range_of_bits
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import ConfigError, DataError
from castssl.inference import extract as home
from castssl.inference.extract import Job, extract
from castssl.inference.features import features
from tests.datasets.image_files import write

NAMES = [f"{'abc'[i % 3]}/{i:02}.png" for i in range(10)]
BROKEN = ("a/03.png", "c/08.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of three classes, two of them unreadable."""
    root = write(tmp_path_factory.mktemp("set"), NAMES)
    for name in BROKEN:
        (root / name).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    return castssl.create("cast_nano", image_size=32, superpixels="grid:cell=8").eval()


@pytest.fixture
def job(folder: Path, encoder: Any) -> Job:
    return make(folder, encoder)


def make(folder: Path, encoder: Any) -> Job:
    images = open_images(f"folder:{folder}")
    assert isinstance(images, Images)
    return Job(images, encoder, "grid:cell=8", CenterView(32), (2, 3), batch_size=2)


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_rows_are_those_of_the_readable_images(folder: Path, encoder: Any, tmp_path: Path) -> None:
    done = extract(make(folder, encoder), tmp_path / "x.npz")
    assert (done.images, sorted(done.unreadable), done.finished) == (10, sorted(BROKEN), True)
    found = arrays(tmp_path / "x.npz")
    paths = [name for name in sorted(NAMES) if name not in BROKEN]
    assert found["paths"].tolist() == paths
    assert found["labels"].tolist() == [["abc".index(path[0])] for path in paths]
    about = json.loads(str(found["about"]))
    assert about["classes"] == [["a", "b", "c"]]
    assert set(about["unreadable"]) == set(BROKEN)
    expected = features([folder / path for path in paths], encoder)
    np.testing.assert_allclose(found["image"], expected.image, atol=1e-5)
    for stage in (2, 3):
        np.testing.assert_allclose(found[f"segments{stage}"], expected.segments[stage], atol=1e-5)
        np.testing.assert_allclose(found[f"mass{stage}"], expected.mass[stage], atol=1e-5)
    assert not (tmp_path / "x.npz.parts").exists()


class Killed(Exception):
    """In place of SIGKILL: nothing that is written after it counts."""


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, 6), (Killed, 4)])
def test_an_interrupted_call_continues(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, kept: int
) -> None:
    monkeypatch.setattr(home, "ROWS", 4)
    out = tmp_path / "y.npz"
    extract(job, tmp_path / "x.npz")

    def stop(done: int) -> None:
        if done == 6:
            raise error

    if error is KeyboardInterrupt:
        assert not extract(job, out, report=stop).finished
    else:
        with pytest.raises(Killed):
            extract(job, out, report=stop)
    assert not out.exists()
    with pytest.raises(ConfigError, match="interrupted call with other image_size"):
        extract(job._replace(center=CenterView(64)), out)
    seen: list[int] = []
    assert extract(job, out, report=seen.append).finished
    assert seen == [*range(kept, 11, 2)]
    first, second = arrays(tmp_path / "x.npz"), arrays(out)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []


def test_one_call_at_a_time_writes_parts(job: Any, tmp_path: Path) -> None:
    out = tmp_path / "y.npz"

    def twice(done: int) -> None:
        if done == 6:
            with pytest.raises(ConfigError, match="another process writes in"):
                extract(job, out)

    assert extract(job, out, report=twice).finished
    assert len(arrays(out)["paths"]) == 8


def test_parts_that_do_not_follow_each_other_are_refused(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "ROWS", 4)
    out, parts = tmp_path / "y.npz", tmp_path / "y.npz.parts"

    def stop(done: int) -> None:
        if done == 8:
            raise Killed

    with pytest.raises(Killed):
        extract(job, out, report=stop)
    first = min(parts.glob("*.npz"))
    first.rename(parts / "000000002-000000006.npz")
    with pytest.raises(DataError, match=r"does not follow the 0 images before it.*--overwrite"):
        extract(job, out)
    assert extract(job, out, overwrite=True).finished


def test_files_of_others_stay(folder: Path, encoder: Any, tmp_path: Path) -> None:
    job, out = make(folder, encoder), tmp_path / "x.npz"
    np.savez(out, precious=np.arange(3))
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=r"exists, and castssl features did not write it.*--overwrite"):
        extract(job, out)
    assert out.read_bytes() == before
    assert extract(job, out, overwrite=True).finished
    assert "precious" not in arrays(out)
    for name in ("link.npz", "other.npz.parts"):
        (tmp_path / name).symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"link\.npz exists, and castssl features did not write it"):
        extract(job, tmp_path / "link.npz")
    with pytest.raises(ConfigError, match=r"did not make .*other\.npz\.parts and leaves it"):
        extract(job, tmp_path / "other.npz", overwrite=True)
    assert all((tmp_path / name).is_symlink() for name in ("link.npz", "other.npz.parts"))
    (tmp_path / "y.npz.parts").mkdir()
    (tmp_path / "y.npz.parts" / "diary.txt").touch()
    (tmp_path / "v.npz.parts").mkdir()
    (tmp_path / "v.npz.parts" / ".lock").write_text("of my tool")
    for name in ("y.npz", "v.npz"):
        with pytest.raises(ConfigError, match="and leaves it"):
            extract(job, tmp_path / name, overwrite=True)
    assert (tmp_path / "v.npz.parts" / ".lock").read_text() == "of my tool"
    extract(job, tmp_path / "z.npz")
    before = (tmp_path / "z.npz").read_bytes()
    assert extract(job, tmp_path / "z.npz").unreadable.keys() == set(BROKEN)
    assert (tmp_path / "z.npz").read_bytes() == before
    with pytest.raises(ConfigError, match="other image_size; choose another --out, or give --overwrite"):
        extract(job._replace(center=CenterView(64)), tmp_path / "z.npz")
    extract(job._replace(center=CenterView(64)), tmp_path / "z.npz", overwrite=True)
    assert json.loads(str(arrays(tmp_path / "z.npz")["about"]))["image_size"] == 64
    with pytest.raises(ConfigError, match=r"ends in \.npz or \.parquet"):
        extract(job, tmp_path / "x.csv")
    mine = tmp_path / "z.npz.parts"
    mine.mkdir()
    (mine / "settings.json").write_text("[]")
    assert extract(job._replace(center=CenterView(64)), tmp_path / "z.npz").finished
    assert (mine / "settings.json").exists(), "the file is complete, and the folder is another's"
    with pytest.raises(ConfigError, match="is a folder"):
        home.check_output(mine.rename(tmp_path / "w.npz"), {}, overwrite=True)
    with pytest.raises(ConfigError, match="no images"):
        extract(job._replace(images=job.images.take([])), tmp_path / "none.npz")


def test_parquet_has_the_same_rows(
    folder: Path, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(home, "ROWS", 4)
    job = make(folder, encoder)
    for name in ("x.npz", "x.parquet", "x.parquet"):  # The second time it is complete.
        extract(job, tmp_path / name)
    expected, table = arrays(tmp_path / "x.npz"), parquet.read_table(tmp_path / "x.parquet")
    assert table["path"].to_pylist() == expected["paths"].tolist()
    assert table["label0"].to_pylist() == expected["labels"][:, 0].tolist()
    shape = json.loads(table.schema.metadata[b"castssl features"])["shapes"]["segments3"]
    rows = np.array(table["segments3"].to_pylist(), np.float32).reshape(-1, *shape)
    assert np.array_equal(rows, expected["segments3"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"need pyarrow: .*install pyarrow"):
        extract(job, tmp_path / "y.parquet")


def test_many_labels_have_a_column_each(job: Job, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    targets = torch.arange(3 * len(job.images)).view(-1, 3) % 3 - 1.0
    job = job._replace(images=replace(job.images, targets=targets, tree=many_labels(("cat", "dog", "hen"))))
    for name in ("x.npz", "x.parquet"):
        extract(job, tmp_path / name)
    labels, table = arrays(tmp_path / "x.npz")["labels"], parquet.read_table(tmp_path / "x.parquet")
    assert (labels.dtype, np.unique(labels).tolist()) == (np.dtype(np.int64), [-1, 0, 1])
    assert [table[f"label{column}"].to_pylist() for column in range(3)] == labels.T.tolist()


def test_a_file_of_another_declared_range_stays(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    declared = job._replace(images=replace(job.images, declared=range_of_bits("12")))
    extract(declared, out)
    for other in (job, job._replace(images=replace(job.images, declared=range_of_bits("10")))):
        with pytest.raises(ConfigError, match="has other range; choose another --out"):
            extract(other, out)
    assert extract(declared, out).finished
    older = {name: value for name, value in job.settings().items() if name != "range"}
    np.savez(tmp_path / "older.npz", about=np.array(json.dumps(older)))
    assert home.check_output(tmp_path / "older.npz", job.settings(), overwrite=False)


def test_a_file_with_other_labels_of_the_same_classes_stays(job: Job, tmp_path: Path) -> None:
    settings = {**job.settings(), "unreadable": {}}
    np.savez(tmp_path / "x.npz", about=np.array(json.dumps(settings)))
    assert home.check_output(tmp_path / "x.npz", job.settings(), overwrite=False)
    changed = job._replace(images=replace(job.images, targets=job.images.targets.flip(0)))
    with pytest.raises(ConfigError, match="has other labels; choose another --out"):
        home.check_output(tmp_path / "x.npz", changed.settings(), overwrite=False)
    older = {name: value for name, value in settings.items() if name != "labels"}
    np.savez(tmp_path / "older.npz", about=np.array(json.dumps(older)))
    assert home.check_output(tmp_path / "older.npz", changed.settings(), overwrite=False)


def test_nothing_readable_is_an_error(tmp_path: Path, encoder: Any) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 1 images can be read: a/x\.png"):
        extract(make(tmp_path / "set", encoder), tmp_path / "x.npz")


def test_the_command(folder: Path, encoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    out = tmp_path / "x.npz"
    flags = ["--weights", str(tmp_path), "--out", str(out), "--workers", "0", "--device", "cpu"]
    assert main(["features", str(folder), *flags]) == 1
    text, progress = capsys.readouterr()
    assert "unreadable: a/03.png (not an image, or of an unknown format)" in text
    assert f"{out}: 8 of 10 images, 2 unreadable" in text
    assert "10 of 10 images" in progress
    assert "/s  0:00:00 left" in progress
    found = arrays(out)
    assert (found["image"].shape, found["segments3"].shape, "segments2" in found) == (
        (8, 64),
        (8, 8, 64),
        False,
    )
    assert main(["features", str(folder), *flags, "--stages", "7", "--overwrite"]) == 1
    assert "the stages 0 to 3" in capsys.readouterr().err
