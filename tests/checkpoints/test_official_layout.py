"""The published layout, by the counts that were taken from the released code."""

from __future__ import annotations

import pytest
import torch

from castssl.checkpoints.official_layout import Layout, Variant, find_variant, head_shapes, stage_depths
from castssl.errors import DataError
from castssl.models.create import create
from tests.checkpoints import checkpoints

HEADS = {"cast": (4,), "cast_deit": (4,), "cast_seg": (4,), "cast_seg_deit": (4,)}


@pytest.mark.parametrize(
    ("variant", "classes", "blocks", "entries"),
    [
        ("cast", (1000,), 11, 357),
        ("cast", (1000,), 15, 453),
        ("cast_deit", (1000,), 11, 356),
        ("cast_deit", (1000,), 15, 452),
        ("cast_seg", (1000,), 11, 230),
        ("cast_seg_deit", (1000,), 11, 363),
        ("cast_deit_hier", (200, 38, 13), 11, 360),
        ("cast_deit_hier", (34, 17), 11, 358),
    ],
)
def test_as_many_entries_as_the_released_code_writes(
    variant: Variant, classes: tuple[int, ...], blocks: int, entries: int
) -> None:
    names = ("head", "family_head", "manufacturer_head")
    heads = [(f"{n}.{k}", s) for n, c in zip(names, classes, strict=False) for k, s in (("weight", (c, 384)), ("bias", (c,)))]  # fmt: skip # noqa: E501
    rows = 785 if "deit" in variant else 784
    layout = Layout(variant, 384, checkpoints.DEPTHS[blocks], rows, tuple(heads))
    names_written = [name for plain in layout.shapes for name in layout.spellings(plain)]
    assert len(names_written) == len(set(names_written)) == entries


@pytest.mark.parametrize("variant", checkpoints.VARIANTS)
@pytest.mark.parametrize("blocks", [11, 15])
def test_a_second_description_agrees(variant: Variant, blocks: int) -> None:
    """Names and shapes as tests/parity writes them down."""
    state = checkpoints.state(variant, *((5, 3) if variant == "cast_deit_hier" else (4,)), blocks=blocks)
    assert find_variant(state) == variant
    assert stage_depths(state) == checkpoints.DEPTHS[blocks]
    layout = Layout(variant, 48, stage_depths(state), state["pos_embed"].shape[1], tuple(head_shapes(state)))
    assert layout.side == 4
    spelt = {name: shape for plain, shape in layout.shapes.items() for name in layout.spellings(plain)}
    assert spelt == {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(
    ("variant", "name"),
    [("cast", "cast_small"), ("cast", "cast_base_deep"), ("cast_seg", "cast_small_seg")],
)
def test_our_names_are_those_of_the_encoder(variant: Variant, name: str) -> None:
    with torch.device("meta"):
        encoder = create(name)
    depths = (6, 3, 3, 3) if "deep" in name else (3, 3, 3, 2)
    layout = Layout(variant, encoder.dim, depths, 784)
    ours = {new: layout.shapes[plain] for plain, new in layout.encoder_names.items()}
    table = ours.pop("positions")
    theirs = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    assert theirs.pop("positions") == (1, table[2], 28, 28)
    assert ours == theirs


def test_depths_are_counted_from_the_keys() -> None:
    deep = {f"blocks.{g}.norm1.bias": torch.zeros(1) for g in range(15)}
    assert stage_depths(deep) == (6, 3, 3, 3)
    with pytest.raises(DataError, match="7 blocks without stage numbers"):
        stage_depths({f"blocks.{g}.norm1.bias": torch.zeros(1) for g in range(7)})
    with pytest.raises(DataError, match=r"no blocks2\.\* in this checkpoint"):
        stage_depths({f"blocks{s}.0.norm1.bias": torch.zeros(1) for s in (1, 3)})


def test_a_table_for_no_square_is_refused() -> None:
    with pytest.raises(DataError, match="has 784 rows; expected a square, after one for the class token"):
        _ = Layout("cast_deit", 48, (3, 3, 3, 2), 784).side
