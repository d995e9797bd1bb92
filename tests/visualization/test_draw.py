from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from castssl.types import Hierarchy, Tokens
from castssl.visualization import draw
from castssl.visualization.colors import paint
from castssl.visualization.confusion import draw_confusion
from castssl.visualization.draw import (
    BORDER,
    GAP,
    PAPER,
    captioned,
    draw_hierarchy,
    draw_image,
    draw_levels,
    overlay,
    partition,
    sheet,
    to_pil,
    truncate,
)
from castssl.visualization.evidence import Panel, draw_path


def hierarchy(sizes: tuple[int, ...] = (16, 8, 4), *, batch: int = 2, cell: int = 8) -> Hierarchy:
    """A grid of ``sizes[0]`` cells whose tokens join in pairs."""
    side = int(sizes[0] ** 0.5)
    cells = torch.arange(side * side).view(side, side)
    segments = cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1).int().expand(batch, -1, -1)
    stages, assigns = [tokens(torch.ones(batch, sizes[0]))], []
    for fine, coarse in pairwise(sizes):
        assign = torch.eye(coarse).repeat_interleave(max(fine // coarse, 1), 0).expand(batch, -1, -1)
        assigns.append(assign)
        stages.append(tokens((stages[-1].mass.unsqueeze(1) @ assign).squeeze(1)))
    return Hierarchy(segments, tuple(stages), tuple(assigns))


def tokens(mass: Tensor) -> Tokens:
    return Tokens(torch.zeros(*mass.shape, 2), torch.zeros(mass.shape[0], 1, 2), mass)


def make_image(size: int = 32) -> Tensor:
    return torch.randint(
        0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def panels(row: Image.Image, panel: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    pixels = np.asarray(row)
    count = (row.width - GAP) // (panel + GAP)
    lefts = [GAP + i * (panel + GAP) for i in range(count)]
    return [pixels[GAP : GAP + panel, left : left + panel] for left in lefts]


def test_a_slim_image_is_not_enlarged_to_gigabytes() -> None:
    assert draw_image(Image.new("RGB", (4000, 1)), 64).size == (4000, 64)
    labels = torch.zeros(1, 4000, dtype=torch.int64)
    assert partition(Image.new("RGB", (4000, 1)), labels, panel=16).size == (4000, 16)
    assert draw_image(Image.new("RGB", (300, 100)), 64).size == (192, 64)


def test_a_row_shows_image_superpixels_and_each_pooled_stage() -> None:
    row = draw_hierarchy(make_image(), hierarchy(), 1, panel=64)
    assert row.mode == "RGB"
    assert row.width == GAP + 4 * (64 + GAP)
    shown = panels(row, 64)
    enlarged = to_pil(make_image()).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(shown[0], np.asarray(enlarged))


def test_a_stage_panel_has_its_colors_inside_and_borders_between() -> None:
    tree = hierarchy()
    row = draw_hierarchy(make_image(), tree, 0, panel=64, strength=1.0)
    [_, _, fine, coarse] = panels(row, 64)
    expected = paint([tree.labels(1)[0], tree.labels(2)[0]])
    # Pixel (4, 4) of the 32-pixel map is (8, 8) of the panel, inside the first cell.
    assert fine[8, 8].tolist() == expected[0][4, 4].tolist()
    assert coarse[8, 8].tolist() == expected[1][4, 4].tolist()
    # Rows of cells are different regions; the border, smoothed, is half a pixel on either side.
    for row_of_pixels, inside in ((15, fine[8, 8]), (16, fine[24, 8])):
        assert fine[row_of_pixels, 8] == pytest.approx((inside + np.array(BORDER)) / 2, abs=1)
    assert coarse[8, 16].tolist() == coarse[8, 8].tolist()  # the first four cells are one region


def test_stages_without_pooling_are_left_out() -> None:
    assert draw_hierarchy(make_image(), hierarchy((16, 16, 16)), panel=32).width == GAP + 2 * (32 + GAP)
    assert draw_hierarchy(make_image(), hierarchy((16, 16, 4)), panel=32).width == GAP + 3 * (32 + GAP)


def test_segments_without_tokens_are_drawn_too() -> None:
    tree = hierarchy()
    mass = tree.stages[0].mass.clone()
    mass[0, :5] = 0
    lost = tree._replace(stages=(tree.stages[0]._replace(mass=mass), *tree.stages[1:]))
    assert int(lost.labels(2)[0].min()) == -1
    assert draw_hierarchy(make_image(), lost).size == draw_hierarchy(make_image(), tree).size


def test_a_flat_image_in_one_segment_draws() -> None:
    flat = torch.full((3, 8, 8), 9, dtype=torch.uint8)
    row = draw_hierarchy(flat, hierarchy((1,), cell=8), panel=16)
    assert row.width == GAP + 2 * (16 + GAP)


def test_the_image_must_be_what_the_encoder_saw() -> None:
    with pytest.raises(ValueError, match="the segments are"):
        draw_hierarchy(make_image(30), hierarchy())
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_hierarchy(make_image().float(), hierarchy())


def test_a_partition_has_mean_colors() -> None:
    image = torch.zeros(3, 8, 16, dtype=torch.uint8)
    image[0, :, :4], image[2, :, 8:] = 200, 50
    labels = torch.zeros(8, 16, dtype=torch.int32)
    labels[:, 8:] = 3
    shown = np.asarray(partition(image, labels, panel=8))
    assert shown.shape == (8, 16, 3)
    assert shown[3, 2].tolist() == [100, 0, 0]
    assert shown[3, 13].tolist() == [0, 0, 50]
    assert shown[3, 7].max() > 100  # the border is white


def test_an_overlay_lets_the_image_through() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    colors = np.full((8, 8, 3), 100, np.uint8)
    assert np.asarray(overlay(image, torch.zeros(8, 8), colors, panel=8, strength=0.5)).max() == 50


def test_wide_images_keep_their_shape() -> None:
    labels = torch.zeros(10, 20)
    assert partition(torch.zeros(3, 10, 20, dtype=torch.uint8), labels, panel=50).size == (100, 50)


def test_an_image_of_one_column_has_a_panel() -> None:
    image, column = Image.new("RGB", (1, 2000)), torch.zeros(2000, 1, dtype=torch.int64)
    for drawn in (
        draw_image(image, panel=144),
        partition(image, column, panel=144),
        draw_path(image, [Panel(column, torch.ones(1), "a class")], "a title", panel=144),
    ):
        assert drawn.width >= 1


def test_a_sheet_holds_all_rows() -> None:
    rows = [Image.new("RGB", (40, 10), (1, 2, 3)), Image.new("RGB", (60, 20), (4, 5, 6))]
    page = sheet(rows, "a title")
    assert page.width == 60 + 2 * GAP
    colors = {color: count for count, color in page.getcolors(10_000) or []}
    assert (colors[(1, 2, 3)], colors[(4, 5, 6)]) == (400, 1200)
    assert len(colors) > 3  # the title's ink, smoothed
    assert page.getpixel((0, 0)) == PAPER
    assert sheet(rows).height < page.height
    with pytest.raises(ValueError, match="at least one"):
        sheet([])


def test_panels_stand_beside_each_other_above_their_captions() -> None:
    colors = ((200, 0, 0), (0, 0, 200))
    row = np.asarray(captioned([Image.new("RGB", (40, 30), color) for color in colors], ["one", "two"]))
    for i, color in enumerate(colors):
        left = GAP + i * (40 + GAP)
        assert (row[GAP : GAP + 30, left : left + 40] == color).all()
        assert (row[GAP + 30 :, left : left + 40] != PAPER).any(), "there is a caption"
    with pytest.raises(ValueError, match="zip"):
        captioned([Image.new("RGB", (4, 4))], [])


def test_levels_of_methods_are_beside_the_image_in_the_colors_of_their_hierarchy() -> None:
    coarse = torch.arange(40).expand(20, -1) // 20
    fine = torch.arange(40).expand(20, -1) // 10
    photo = Image.new("RGB", (40, 20), (100, 100, 100))
    drawn = np.asarray(draw_levels(photo, {"a": [fine, coarse], "b": [coarse]}, strength=1.0))
    assert drawn.shape[1] == 4 * (40 + GAP) + GAP
    panels = [drawn[GAP:][:20, GAP + at * (40 + GAP) :][:, :40] for at in range(4)]
    assert (panels[0] == 100).all()
    for panel, levels, at in (
        (panels[1], [fine, coarse], 0),
        (panels[2], [fine, coarse], 1),
        (panels[3], [coarse], 0),
    ):
        assert np.array_equal(panel[10, 5::10], paint(levels)[at][10, 5::10])


def test_the_captions_of_narrow_panels_keep_the_number_of_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def recorded(panels: list[Image.Image], captions: list[str]) -> Image.Image:
        seen.extend(captions)
        return panels[0]

    monkeypatch.setattr(draw, "captioned", recorded)
    labels = torch.arange(32).repeat(32, 1) // 2
    draw_levels(Image.new("RGB", (32, 32)), {"kmeans": [labels]}, panel=100)
    draw_levels(Image.new("RGB", (32, 32)), {"kmeans": [labels]}, panel=300)
    assert seen == ["image", "kmeans, 16", "image", "kmeans, 16 segments"]


def test_a_long_name_is_cut_to_the_width_and_widens_no_matrix() -> None:
    assert truncate("short", 100, 13) == "short"
    name = "long name " * 10_000
    for width in (10, 100, 1500):
        cut = truncate(name, width, 13)
        assert cut.endswith("...")
        assert name.startswith(cut[:-3])
        letters = draw.font(13)
        assert letters.getlength(cut) <= max(width, letters.getlength("..."))
        assert letters.getlength(f"{name[: len(cut) - 2]}...") > width
    assert draw_confusion(torch.eye(2).long(), [name, "b"]).width < 500
