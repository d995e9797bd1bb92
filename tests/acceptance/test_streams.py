"""Archives and streams: a name of data starts no command, and what cannot be read is reported."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from castssl.data.evaluation_views import CenterView
from castssl.data.loader import Loader, load
from castssl.datasets.images import Images
from castssl.datasets.open import open_images
from castssl.errors import DataError
from tests.acceptance.conftest import Command

KEYS = 8


def image(number: int) -> bytes:
    """A PNG of one color, ``(10 * number, 0, 0)``."""
    stream = io.BytesIO()
    Image.new("RGB", (24, 24), (10 * number, 0, 0)).save(stream, "png")
    return stream.getvalue()


Member = tuple[str, bytes | tuple[bytes, str]]


def tar(path: Path, members: Sequence[Member]) -> Path:
    """A tar of files, and of links given as their type and target."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                entry.type, entry.linkname = content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def samples(keys: Sequence[str], label: str = "cls") -> list[Member]:
    """An image and a label for each key, side by side; the label is the number modulo 3."""
    pairs = [((f"{key}.png", image(n)), (f"{key}.{label}", b"%d" % (n % 3))) for n, key in enumerate(keys)]
    return [member for pair in pairs for member in pair]


def evaluated(spec: str) -> Loader:
    """All images of a training split, once, in order."""
    return load(open_images(spec), views=CenterView(8), superpixels=None, batch_size=4, train=False)


def colors(loader: Loader) -> dict[int, list[int]]:
    """The images that came, by the number of :func:`image`, with their label paths."""
    found = {}
    for batch in loader:
        for image, target in zip(batch.views[0].image, batch.target, strict=True):
            found[round(int(image[0, 0, 0]) / 10)] = target.tolist()
    return found


# A name of data starts no command


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that the commands of these tests would make."""
    return tmp_path / "canary"


def spelled(canary: Path) -> dict[str, str]:
    command = f"pipe:touch {canary} #"
    return {
        "root": f"wds/x:{command}://?num_samples=4",
        "root without slashes": f"wds/x:{command}?num_samples=4",
        "upper case": f"wds/x: PIPE:touch {canary} #://?num_samples=4",
        "split": f"wds/x:{canary.parent}/shards?split={command}.tar|4",
        "list": f"wds/x:{canary.parent}/shards?split=a.tar::{command}.tar|4",
        "variable": f"wds/x:{canary.parent}/shards?split=${{PIPED}}.tar|4",
        "chained": f"wds/x:simplecache::{command}://?num_samples=4",
        "hidden in a scheme": f"wds/x:scp://{canary}?num_samples=4&split=a.tar",
    }


@pytest.mark.parametrize("place", spelled(Path("x")))
def test_a_name_of_data_starts_no_command(
    place: str, command: Command, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar(canary.parent / "shards" / "a.tar", samples("abcd"))
    monkeypatch.setenv("WDS_PIPED", f"pipe:touch {canary} #")
    done = command("tree", spelled(canary)[place])
    assert done.code == 1, done.err
    assert "cannot start a command" in " ".join(done.err.split())
    assert not canary.exists()


def test_files_beside_the_data_start_no_command(command: Command, canary: Path) -> None:
    folder = canary.parent / "shards"
    tar(folder / "a.tar", samples("abcd"))
    split = {"name": "train", "num_samples": 4, "filenames": [f"pipe:touch {canary} #"], "shard_lengths": [4]}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    done = command("tree", f"wds/x:{folder}")
    assert (done.code, canary.exists()) == (1, False)
    assert "cannot start a command" in " ".join(done.err.split())


def test_a_rewriting_variable_starts_no_command(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar(canary.parent / "shards" / "a.tar", samples("abcd"))
    monkeypatch.setenv("GOPEN_REWRITE", f"{canary.parent}=pipe:touch {canary} #")
    assert len(colors(evaluated(f"wds/x:{canary.parent}/shards"))) == 4
    assert not canary.exists()


def test_a_configuration_starts_no_command(process: Command, canary: Path, tmp_path: Path) -> None:
    config = tmp_path / "given" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"data": f"wds/x:pipe:touch {canary} #://?num_samples=4"}))
    done = process("recipes/moco_in1k.py", "--config", config, "--out", tmp_path / "run")
    assert done.code == 1, done.err
    assert "cannot start a command" in " ".join(done.err.split())
    assert not canary.exists()


def test_shards_by_address(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", samples("abcd"))
    spec = f"wds/x:file://{tmp_path}?split=a.tar&num_samples=4&num_classes=3"
    assert colors(evaluated(spec)) == {0: [0], 1: [1], 2: [2], 3: [0]}


# Damaged shards

NAMES = [f"{number:04}" for number in range(KEYS)]


def damaged(path: Path, where: str) -> Path:
    """A shard of :data:`KEYS` samples; the damage hits the third image, or all from there on."""
    content = bytearray(tar(path, samples(NAMES)).read_bytes())
    third = content.index(b"0002.png") & ~511
    if where == "header":
        content[third + 150] ^= 1  # of the checksum
    elif where == "cut in the content":
        del content[third + 520 :]
    elif where == "cut in the header":
        del content[third + 100 :]
    elif where == "cut between":
        del content[third:]
    elif where == "zeros":
        content[third : third + 1024] = bytes(1024)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("header", {0, 1, 3, 4, 5, 6, 7}),
        ("cut in the content", {0, 1}),
        ("cut in the header", {0, 1}),
        ("cut between", {0, 1}),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_a_damaged_shard_is_read_and_reported(
    where: str, expected: set[int], train: bool, tmp_path: Path
) -> None:
    shard = damaged(tmp_path / "a.tar", where)
    stream = open_images(f"wds/x:{tmp_path}?num_samples={KEYS}&num_classes=3")
    loader = load(stream, views=CenterView(8), superpixels=None, batch_size=4, train=train)
    assert colors(loader) == {number: [number % 3] for number in expected}
    assert any(name.startswith(str(shard)) for name in loader.bad), "what was lost is in the list"


def test_a_hole_in_a_shard_does_not_end_it(tmp_path: Path) -> None:
    damaged(tmp_path / "a.tar", "zeros")
    assert set(colors(evaluated(f"wds/x:{tmp_path}?num_classes=3"))) >= {0, 1, 3, 4, 5, 6, 7}


def test_joined_shards_are_read_to_the_end(tmp_path: Path) -> None:
    halves = (samples(NAMES)[:KEYS], samples(NAMES)[KEYS:])
    both = [tar(tmp_path / "parts" / "a", half).read_bytes() for half in halves]
    (tmp_path / "a.tar").write_bytes(b"".join(both))
    loader = evaluated(f"wds/x:{tmp_path}")
    assert (set(colors(loader)), dict(loader.bad)) == (set(range(8)), {})


def test_the_last_images_of_a_stream_are_reported_too(tmp_path: Path) -> None:
    members = [*samples(NAMES), ("0009.png", b"broken"), ("0009.cls", b"1"), ("0010.cls", b"1")]
    tar(tmp_path / "a.tar", members)
    loader = evaluated(f"wds/x:{tmp_path}?num_classes=3")
    assert len(colors(loader)) == KEYS
    assert set(loader.bad) == {f"{tmp_path}/a.tar: 0009", f"{tmp_path}/a.tar: 0010"}


def test_a_compressed_shard(tmp_path: Path) -> None:
    import gzip

    shard = tar(tmp_path / "plain" / "a.tar", samples(NAMES)).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(shard))
    spec = f"wds/x:{tmp_path}?split=a.tar.gz&num_samples={KEYS}"
    assert len(colors(evaluated(spec))) == KEYS


# Layouts of shards


@pytest.mark.parametrize("keys", [["a.b", "a.c", "v1.0/x", "a"], ["IMG.1.2", "IMG.1.3", "IMG.2", "IMG"]])
def test_keys_with_dots(keys: list[str], tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", samples(keys))
    stream = f"wds/x:{tmp_path}?num_classes=3"
    assert colors(evaluated(stream)) == {n: [n % 3] for n in range(4)}


def test_a_field_with_a_dot_is_no_image_of_its_own(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("1.png", image(1)), ("1.seg.png", image(9)), ("1.cls", b"2")])
    assert colors(evaluated(f"wds/x:{tmp_path}?num_classes=3")) == {1: [2]}


def test_images_before_labels(tmp_path: Path) -> None:
    members = samples(NAMES)
    tar(tmp_path / "a.tar", sorted(members, key=lambda member: member[0].endswith("cls")))
    assert colors(evaluated(f"wds/x:{tmp_path}?num_classes=3")) == {n: [n % 3] for n in range(KEYS)}


def test_labels_in_json(tmp_path: Path) -> None:
    members = samples("abcd", label="json")
    labels = zip("abcd", (2, -1, None, 0), strict=True)
    members[1::2] = [(f"{key}.json", json.dumps({"kind": label}).encode()) for key, label in labels]
    tar(tmp_path / "a.tar", members)
    spec = f"wds/x:{tmp_path}?num_classes=3&target_key=kind"
    assert colors(evaluated(spec)) == {0: [2], 1: [-1], 2: [-1], 3: [0]}


@pytest.mark.parametrize(("label", "workers"), [(b"7", 0), (b"7", 1), (b"-2", 0), (b"1.5", 0), (b"cat", 0)])
def test_labels_that_are_no_class(label: bytes, workers: int, tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [*samples("abcd"), ("e.png", image(5)), ("e.cls", label)])
    stream = open_images(f"wds/x:{tmp_path}?num_classes=3")
    loader = load(stream, views=CenterView(8), superpixels=None, batch_size=1, workers=workers, train=False)
    expected = rf"^the label of {tmp_path}/a.tar: e is '{label.decode()}'.* expected"
    with pytest.raises(DataError, match=expected):
        list(loader)


def test_labels_that_are_missing_are_no_class(tmp_path: Path) -> None:
    members = [*samples("abcd"), ("e.png", image(4)), ("f.png", image(5)), ("f.cls", b"-1")]
    tar(tmp_path / "a.tar", members)
    with pytest.warns(UserWarning, match="1 of 6 images have no label"):
        found = colors(evaluated(f"wds/x:{tmp_path}?num_classes=3"))
    assert (found[3], found[4], found[5]) == ([0], [-1], [-1])


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", samples("abcd"))
    with pytest.raises(DataError, match=r"unknown option 'num_class'; did you mean 'num_classes'\?"):
        open_images(f"wds/x:{tmp_path}?num_class=3")


def test_processes_and_workers_share_the_shards(tmp_path: Path) -> None:
    for number in range(4):
        half = samples(NAMES)[4 * number : 4 * number + 4]
        tar(tmp_path / f"{number}.tar", half)

    def order(rank: int, epoch: int, seed: int = 0) -> list[int]:
        stream = open_images(f"wds/x:{tmp_path}")
        made = load(
            stream, views=CenterView(8), superpixels=None, batch_size=4, seed=seed, rank=rank, world=2
        )
        made.set_epoch(epoch)
        return [round(int(image[0, 0, 0]) / 10) for batch in made for image in batch.views[0].image]

    first, second = order(0, 0), order(1, 0)
    assert sorted(first + second) == list(range(KEYS))
    assert len(first) == len(second)
    assert order(0, 0) == first
    assert len({tuple(order(0, epoch, seed)) for epoch in range(3) for seed in range(3)}) > 3


def failure(loader: Loader) -> str:
    """The error that ends it; "" if none does."""
    try:
        list(loader)
    except DataError as error:
        return str(error)
    return ""


def test_a_reader_without_images_is_an_error(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", samples(NAMES))
    tar(tmp_path / "b.tar", [("readme.txt", b"empty")])
    stream = open_images(f"wds/x:{tmp_path}")
    readers = [
        load(stream, views=CenterView(8), superpixels=None, batch_size=2, rank=rank, world=2)
        for rank in range(2)
    ]
    ended = [error for error in map(failure, readers) if error]
    assert len(ended) == 1
    assert "no readable image for one of 2 readers; use fewer workers" in ended[0]


@pytest.mark.parametrize(("shards", "workers"), [(1, 0), (1, 2), (3, 0)])
def test_processes_evaluate_each_image_once(shards: int, workers: int, tmp_path: Path) -> None:
    pairs = [samples(NAMES)[at : at + 2] for at in range(0, 2 * KEYS, 2)]
    for number in range(shards):
        tar(tmp_path / f"val-{number}.tar", [member for pair in pairs[number::shards] for member in pair])
    stream = open_images(f"wds/x:{tmp_path}?num_classes=3", split="val")
    seen: list[int] = []
    for rank in range(2):
        made = load(
            stream,
            views=CenterView(8),
            superpixels=None,
            batch_size=4,
            workers=workers,
            train=False,
            rank=rank,
            world=2,
        )
        own = [round(int(image[0, 0, 0]) / 10) for batch in made for image in batch.views[0].image]
        assert own, f"process {rank} has a part"
        seen += own
    assert sorted(seen) == list(range(KEYS))


def test_splits_described_beside_the_shards(tmp_path: Path) -> None:
    members = samples("abcd", label="json")
    members[1::2] = [(f"{key}.json", b'{"kind": 2}') for key in "abcd"]
    tar(tmp_path / "one.tar", members)
    split = {"name": "train", "num_samples": 4, "filenames": ["one.tar"], "shard_lengths": [4]}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split | {"alt_label": "kind"}}}))
    assert colors(evaluated(f"wds/x:{tmp_path}?num_classes=3")) == {n: [2] for n in range(4)}
    (tmp_path / "_info.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*_info.json"):
        open_images(f"wds/x:{tmp_path}")


def test_tree_reports_a_damaged_shard(tmp_path: Path, command: Command) -> None:
    shard = damaged(tmp_path / "a.tar", "cut in the header")
    with pytest.warns(UserWarning, match=rf"1 parts of shards cannot be read, such as {shard} \(no valid"):
        done = command("tree", f"wds/x:{tmp_path}?num_classes=3")
    assert "1 parts of the shards of train cannot be read" in " ".join(done.out.split())


# Plain tars


def test_links_in_a_tar_are_images(tmp_path: Path) -> None:
    members: list[Member] = [
        ("n01/early.png", (tarfile.LNKTYPE, "n01/a.png")),
        ("n01/chain.png", (tarfile.SYMTYPE, "soft.png")),
        ("n01/a.png", image(1)),
        ("n02/b.png", image(2)),
        ("n02/hard.png", (tarfile.LNKTYPE, "n01/a.png")),
        ("n01/soft.png", (tarfile.SYMTYPE, "../n02/b.png")),
        ("n03", (tarfile.SYMTYPE, "n02")),
    ]
    images = open_images(f"tar:{tar(tmp_path / 'all.tar', members)}")
    assert isinstance(images, Images)
    found = {images.name(i): np.asarray(images[i][0])[0, 0, 0] // 10 for i in range(len(images))}
    assert found == {
        "n01/early.png": 1,
        "n01/chain.png": 2,
        "n01/a.png": 1,
        "n02/b.png": 2,
        "n02/hard.png": 1,
        "n01/soft.png": 2,
        "n03/b.png": 2,
        "n03/hard.png": 1,
    }


def test_a_real_tar_with_hard_links(tmp_path: Path) -> None:
    (tmp_path / "data" / "n01").mkdir(parents=True)
    (tmp_path / "data" / "n02").mkdir()
    (tmp_path / "data" / "n01" / "a.png").write_bytes(image(1))
    os.link(tmp_path / "data" / "n01" / "a.png", tmp_path / "data" / "n02" / "b.png")
    subprocess.run(["tar", "-cf", tmp_path / "all.tar", "-C", tmp_path / "data", "n01", "n02"], check=True)
    assert len(open_images(f"tar:{tmp_path}/all.tar")) == 2


def test_a_link_out_of_the_tar_is_reported(tmp_path: Path) -> None:
    members: list[Member] = [("n01/a.png", image(1)), ("n02/b.png", (tarfile.SYMTYPE, "/elsewhere/b.png"))]
    with pytest.warns(UserWarning, match=r"n02/b.png: a link to /elsewhere/b.png, which leads to no file"):
        open_images(f"tar:{tar(tmp_path / 'all.tar', members)}")


@pytest.mark.parametrize("where", ["header", "cut in the content", "cut in the header"])
def test_a_damaged_tar_is_refused(where: str, tmp_path: Path, command: Command) -> None:
    done = command("tree", f"tar:{damaged(tmp_path / 'all.tar', where)}")
    assert done.code == 1
    assert "copy damaged ones again" in " ".join(done.err.split())


def test_a_tar_cut_between_two_members_is_reported(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no end mark: the archive may have been cut off"):
        open_images(f"tar:{damaged(tmp_path / 'all.tar', 'cut between')}")


def test_tars_deep_inside_tars(tmp_path: Path, command: Command) -> None:
    content = image(1)
    for depth in range(6):
        content = tar(tmp_path / "inner.tar", [("a.tar" if depth else "a.png", content)]).read_bytes()
    (tmp_path / "all.tar").write_bytes(content)
    done = command("tree", f"tar:{tmp_path}/all.tar")
    assert done.code == 1
    assert "tars inside one another" in " ".join(done.err.split())


# Data sets of the Hub's library


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images with the labels 0, 1, none, -1, 1, 0 of the classes cat and dog, and no labels at all."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    labels = [0, 1, None, -1, 1, 0]
    rows = {"image": [{"bytes": image(n), "path": None} for n in range(6)], "label": labels}
    named = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for name, features in (("named", named), ("plain", {**named, "label": datasets.Value("int64")})):
        folder = tmp_path / name
        folder.mkdir()
        data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        data.to_parquet(str(folder / "train.parquet"))
    return tmp_path


EXPECTED = {0: [0], 1: [1], 2: [-1], 3: [-1], 4: [1], 5: [0]}


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
@pytest.mark.parametrize("name", ["named", "plain"])
def test_labels_that_are_none_in_parquet(kind: str, name: str, parquet: Path) -> None:
    options = f"?num_classes=2{'&num_samples=6' if kind == 'hfids' else ''}"
    loader = evaluated(f"{kind}/{parquet}/{name}:{parquet}/cache{options}")
    assert (colors(loader), dict(loader.bad)) == (EXPECTED, {})


@pytest.mark.parametrize("train", [False, True])
def test_processes_share_one_file_of_the_hub(train: bool, parquet: Path) -> None:
    stream = open_images(f"hfids/{parquet}/named:{parquet}/cache?num_samples=6")
    seen: list[int] = []
    for rank in range(2):
        made = load(
            stream, views=CenterView(8), superpixels=None, batch_size=6, train=train, rank=rank, world=2
        )
        seen += colors(made)
    assert sorted(seen) == list(range(6))


def test_tree_counts_labels_that_are_none(parquet: Path, command: Command) -> None:
    done = command("tree", f"hfds/{parquet}/named:{parquet}/cache")
    assert "Traceback" not in done.err
    assert "cat  2" in done.out.replace("\n", " "), done.out


def test_numbers_without_class_names_are_reported(parquet: Path) -> None:
    with pytest.warns(UserWarning, match=r"'label' .* names no classes.*num_classes=N"):
        assert open_images(f"hfds/{parquet}/plain:{parquet}/cache").tree.levels == 0


def test_labels_of_the_hub_that_are_no_class(parquet: Path) -> None:
    with pytest.raises(DataError, match=r"#1 is 1, but the data has 1 classes: expected 0 to 0"):
        open_images(f"hfds/{parquet}/plain:{parquet}/cache?num_classes=1")
    loader = evaluated(f"hfids/{parquet}/plain:{parquet}/cache?num_classes=1&num_samples=6")
    with pytest.raises(DataError, match="is 1, but the data has 1 classes"):
        list(loader)


def test_a_column_of_paths_reads_no_other_address(parquet: Path, canary: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": None, "path": f"{scheme}://touch {canary}"} for scheme in ("pipe", "ssh")]}
    stored = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(stored))
    (parquet / "paths").mkdir()
    data.to_parquet(str(parquet / "paths" / "train.parquet"))
    images = open_images(f"hfds/{parquet}/paths:{parquet}/cache")
    with pytest.raises(DataError, match=r"2 images in a row cannot be read.*cannot start a command"):
        images[0]  # type: ignore[index]
    assert not canary.exists()


def test_columns_that_are_not_there(parquet: Path) -> None:
    for kind, options in (("hfds", ""), ("hfids", "&num_samples=6")):
        with pytest.raises(DataError, match="has no column 'img': it has image, label"):
            open_images(f"{kind}/{parquet}/named:{parquet}/cache?input_key=img{options}")
