from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from castssl import text
from castssl.datasets import image_texts
from castssl.datasets.folder import Files
from castssl.datasets.image_texts import embed_texts, match_texts, read_texts
from castssl.errors import DataError

NAMES = ["n01/a.JPEG", "n01/b.JPEG", "n02/a.JPEG", "n02/c.JPEG"]
RELEASED = """train/n01/a.JPEG, a red beak, and wings
train/n02/a.JPEG, a black dot
train/n02/c.JPEG,  a red beak, and wings

"""


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "caps.txt"
    path.write_text(RELEASED)
    return path


def test_lines_as_released(released: Path) -> None:
    expected = {"train/n01/a.JPEG": "a red beak, and wings", "train/n02/a.JPEG": "a black dot"}
    assert read_texts(released) == {**expected, "train/n02/c.JPEG": "a red beak, and wings"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table(separator: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    rows = ("split|Path|text", 'train|n01/a.JPEG|"red, and\nblue"', "train|n01/b.JPEG|", "")
    path.write_text("\n".join(rows).replace("|", separator))
    assert read_texts(path) == {"n01/a.JPEG": "red, and\nblue"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,text\na.png,red, blue\n", r":2: got 3 cells, expected 2; put a text with ',' in quotation"),
        ("a red beak\n", r":1: got 'a red beak', expected the columns path and text, or lines such as"),
        ("a.png, red\na.png, blue\n", r":2: a second, other text for a.png"),
        ("path,text\na.png,\n", "holds no text"),
        ('path,text\na.png,red\nb.png,"red\nc.png,blue\n', r":3: no row of a table \(unexpected end"),
        ('path,text\na.png,"red" beak\n', r":2: no row of a table .*, expected cells such as"),
        (f"path,text\na.png,{'red ' * 50_000}\n", r":2: no row of a table \(field larger than"),
    ],
)
def test_what_is_no_file_of_texts_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_texts(path)
    with pytest.raises(DataError, match="there is no file of texts"):
        read_texts(tmp_path / "absent.csv")


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    beginnings = ("", f'train/n01/b.JPEG, "{"long " * 50_000}\r\n', "path,text\n", '"Path","Text"\r')
    for beginning in beginnings:
        path.write_bytes(f"{beginning}n01/a.JPEG,red\u2028blue\x85\n".encode())
        assert read_texts(path)["n01/a.JPEG"] == "red\u2028blue"


def test_paths_may_have_other_first_folders() -> None:
    texts = {"train/n01/a.JPEG": "1", "n01/b.JPEG": "2", "train/n02/a.JPEG": "3", "x/c.JPEG": "4"}
    assert match_texts(NAMES, texts) == ["1", "2", "3", "4"]
    assert match_texts([f"images/{name}" for name in NAMES], {"n02/c.JPEG": "4"}) == [None, None, None, "4"]
    # The file name of two images, or of two texts, does not say which one is meant.
    assert match_texts(NAMES, {"x/a.JPEG": "1", "x/c.JPEG": "4", "y/c.JPEG": "5"}) == [None] * 4


def test_embeddings_by_row_of_the_source(released: Path, tmp_path: Path) -> None:
    rows = [3, 1, 2]  # A subset: the first image is not asked for, though it has a text.
    found, about = embed_texts(Files(tmp_path, NAMES), rows, released, "words:16", cache=tmp_path)
    assert about == f"{released}: 2 of 3 images have a text"
    expected = text.embeddings(["a red beak, and wings", "a black dot"], "words:16", whole=True).vectors
    assert found.dim == 16
    for row, vector in ((3, expected[0]), (2, expected[1]), (1, torch.zeros(16)), (0, torch.zeros(16))):
        assert torch.equal(found.of(row), vector)


def test_embeddings_are_computed_once(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Files(tmp_path, NAMES)
    first, _ = embed_texts(source, range(4), released, "words:16", cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(text, "_encode", lambda *_: pytest.fail("computed again"))
        again, _ = embed_texts(source, range(4), released, "words:16", cache=tmp_path)
    assert torch.equal(first.vectors, again.vectors)
    other, _ = embed_texts(source, range(4), released, "words:8", cache=tmp_path)
    assert other.dim == 8
    released.write_text(RELEASED.replace("black", "white"))
    changed, _ = embed_texts(source, range(4), released, "words:16", cache=tmp_path)
    assert torch.equal(changed.of(0), first.of(0))
    assert not torch.equal(changed.of(2), first.of(2))


def test_vectors_of_a_file_are_those_that_it_has_now(released: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a red beak, and wings\na black dot\n", encoding="utf-8")
    encoder = f"file:{tmp_path / 'texts.npy'}"
    for scale in (1, 2):
        np.save(tmp_path / "texts.npy", scale * np.eye(2, 3, dtype=np.float32))
        found, _ = embed_texts(Files(tmp_path, NAMES), range(4), released, encoder, cache=tmp_path / "cache")
        assert found.of(0).tolist() == [scale, 0, 0]
        assert found.of(2).tolist() == [0, scale, 0]
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_of_the_cache_is_computed_again(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Files(tmp_path, NAMES)
    first, _ = embed_texts(source, range(4), released, "words:16", cache=tmp_path)
    (stored,) = tmp_path.glob("texts-*")
    content = stored.read_bytes()
    stored.write_bytes(content[:-1])
    again, _ = embed_texts(source, range(4), released, "words:16", cache=tmp_path)
    assert torch.equal(first.vectors, again.vectors)
    assert stored.read_bytes() == content
    assert f"computed again: {stored} cannot be read" in capsys.readouterr().err


def test_embeddings_that_were_interrupted_go_on_in_parts(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(f"n01/{i}.JPEG, {i}\n" for i in range(9))
    released.write_text(lines)
    source, encode, sizes = Files(tmp_path, [f"n01/{i}.JPEG" for i in range(9)]), text._encode, list[int]()

    def count(names: list[str], *rest: object) -> torch.Tensor:
        sizes.append(len(names))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return encode(names, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(image_texts, "CHUNK", 2)
    monkeypatch.setattr(text, "_encode", count)
    with pytest.raises(KeyboardInterrupt):
        embed_texts(source, range(9), released, "words:16", cache=tmp_path)
    found, _ = embed_texts(source, range(9), released, "words:16", cache=tmp_path)
    assert sizes == [2, 2, 2, 2, 2, 1]
    # A file of safetensors has names of 100 MB at most.
    assert sorted(len(text.read(file).names) for file in tmp_path.glob("texts-*")) == [1, 2, 2, 2, 2]
    monkeypatch.undo()
    expected = text.embeddings([str(i) for i in range(9)], "words:16", whole=True).vectors
    assert torch.equal(found.vectors, expected)


def test_texts_of_other_images_are_refused(released: Path, tmp_path: Path) -> None:
    message = "none of the 3 texts .* got the path train/n01/a.JPEG, expected one such as z/0.png"
    with pytest.raises(DataError, match=message):
        embed_texts(Files(tmp_path, ["z/0.png"]), [0], released, "words:16", cache=tmp_path)
