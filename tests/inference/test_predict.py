"""Paths, backing off, and what each segment did to a logit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from castssl.checkpoints.classifier import Classifier
from castssl.errors import ConfigError, DataError
from castssl.inference.predict import Prediction, explained, predict, with_superpixels
from castssl.labels import LabelTree
from castssl.models.create import create
from castssl.objectives.classification import Supervised
from castssl.objectives.deit import DeiT
from castssl.objectives.tree_kl import TreeKL
from castssl.types import View
from castssl_baselines.flat import Flat

TREE = LabelTree((2, 3, 5), ((0, 0, 1), (0, 0, 1, 2, 2)), (tuple("AB"), tuple("cde"), tuple("vwxyz")))
SPEC = "grid:cell=8"


def shaken(objective: Supervised) -> Supervised:
    """Weights large enough that segments differ."""
    torch.manual_seed(5)
    for value in objective.parameters():
        value.data.add_(0.1 * torch.randn_like(value))
    return objective.eval()


def made(tree: LabelTree = TREE, **options: Any) -> TreeKL:
    torch.manual_seed(0)
    encoder = create("nano", image_size=32, sizes=(16, 8, 4), **options)
    built = shaken(TreeKL(encoder, tree))
    assert isinstance(built, TreeKL)
    return built


def photo(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 52, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def view() -> View:
    torch.manual_seed(3)
    at = torch.arange(32) // 8
    segments = at[:, None] * 4 + at
    segments = segments.masked_fill(segments == 5, 6)  # token 5 is padding
    return View(torch.randn(1, 3, 32, 32, dtype=torch.float64), segments[None].int())


def says(objective: TreeKL, *logits: list[float]) -> None:
    """Make the heads say this, whatever they see."""
    heads: Any = objective.model.level_heads
    for head, wanted in zip(heads, logits, strict=True):
        head.weight.data.zero_()
        head.bias.data.copy_(torch.tensor(wanted))


def shares(*values: float) -> list[float]:
    return torch.tensor(values).log().tolist()


def asked(objective: TreeKL, least: float | None, **options: Any) -> Prediction:
    recogniser = Classifier(objective, TREE, SPEC, 32, **options)
    return predict(photo(), recogniser, min_confidence=least, explain=False)


@pytest.mark.parametrize(
    ("logits", "least", "answer", "consistent"),
    [
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0.4, 0.3, 0.1, 0.1, 0.1)), None, 3, True),
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0.4, 0.3, 0.1, 0.1, 0.1)), 0.3, 3, True),
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0.4, 0.3, 0.1, 0.1, 0.1)), 0.5, 2, True),
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0.4, 0.3, 0.1, 0.1, 0.1)), 0.8, 1, True),
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0.4, 0.3, 0.1, 0.1, 0.1)), 0.95, 0, True),
        # a sure child carries a parent that is less sure
        ((shares(0.6, 0.4), shares(0.5, 0.3, 0.2), shares(0.9, 0.1, 0, 0, 0)), 0.7, 3, True),
        # the finest is another's child
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0, 0, 0, 0, 1)), None, 3, False),
        ((shares(0.9, 0.1), shares(0.7, 0.2, 0.1), shares(0, 0, 0, 0, 1)), 0, 2, False),
        # the middle is: nothing below it agrees with all above
        ((shares(0.9, 0.1), shares(0, 0, 1), shares(1, 0, 0, 0, 0)), 0.5, 1, False),
    ],
)
def test_the_answer_backs_off_to_a_parent(
    logits: Any, least: float | None, answer: int, consistent: bool
) -> None:
    objective = made()
    says(objective, *logits)
    found = asked(objective, least)
    assert (found.answer, found.consistent) == (answer, consistent)
    for level, wanted in zip(found.path, logits, strict=True):
        expected = torch.tensor(wanted).exp()
        assert level.number == int(expected.argmax())
        assert level.name == TREE.names[level.level][level.number]
        assert level.probability == pytest.approx(float(expected.max()), abs=1e-6)


def test_made_up_parents_judge_nothing() -> None:
    objective = made()
    says(objective, shares(0.9, 0.1), shares(0, 0, 1), shares(1, 0, 0, 0, 0))
    found = asked(objective, 0.5, known=False)
    assert (found.consistent, found.answer) == (None, 3)


def test_one_level_of_a_tree_is_a_path_of_one() -> None:
    objective = shaken(DeiT(create("nano", image_size=32, sizes=(16, 8, 4)), TREE, level=1))
    found = predict(photo(), Classifier(objective, TREE, SPEC, 32), min_confidence=0.0)
    (level,) = found.path
    assert (level.level, level.agrees, found.answer) == (1, True, 1)
    assert level.name in "cde"
    assert found.evidence[0].moved.shape == (4,)


def slopes(objective: Supervised, look: View, to: Tensor) -> list[Tensor]:
    """How fast each level's logits fall as one token moves towards ``to``: float64 (16, C) of each level.

    Central differences, in one batch: each token is moved there and back.
    """
    step, rows = 1e-4, torch.arange(16)
    encoder: Any = objective.encoder

    def nudge(_: Any, args: Any) -> Any:
        x = args[0].x.clone()
        for start, sign in ((0, 1), (16, -1)):
            x[start + rows, rows] += sign * step * (to - x[start + rows, rows])
        return (args[0]._replace(x=x), *args[1:])

    hook = encoder.stages[0].register_forward_pre_hook(nudge)
    with torch.no_grad():
        found = objective.predict(View(look.image.repeat(32, 1, 1, 1), look.segments.repeat(32, 1, 1)))
    hook.remove()
    return [(logits[16:] - logits[:16]) / (2 * step) for logits in found.values()]


@pytest.mark.parametrize("padding", ["mask", "reference"])
def test_evidence_is_what_the_logit_loses_as_segments_become_average(padding: str) -> None:
    """To first order, by a second way: tokens are moved, and logits compared."""
    objective, look = made(padding=padding).double(), view()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    logits, found = explained(objective, look)
    with torch.no_grad():
        hierarchy = objective.encoder(look)
        encoder: Any = objective.encoder
        tokens = encoder.tokenise(look, 16)
    mean = (tokens.x * tokens.mass[..., None]).sum(1)[0] / tokens.mass.sum()
    for level, (stage, slope) in enumerate(zip((-1, -2, -3), slopes(objective, look, mean), strict=True)):
        each = slope[:, logits[level][0].argmax()] * (tokens.mass[0] > 0)
        expected = torch.zeros(hierarchy.stages[stage].x.shape[1], dtype=torch.float64)
        expected.index_add_(0, hierarchy.parents(stage % 3)[0], each)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found[level].moved.double(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(found[level].labels, hierarchy.labels(stage)[0])
        assert torch.equal(logits[level], objective.predict(look)[f"level{level}"])
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_explaining_leaves_no_trace() -> None:
    objective = made().train()
    look = View(view().image.float(), view().segments)
    torch.manual_seed(0)
    objective.eval()
    expected = objective.predict(look)["level2"]
    objective.train()
    _, found = explained(objective, look)
    assert objective.training
    assert all(module.training for module in objective.model.level_heads)
    objective.eval()
    assert torch.equal(objective.predict(look)["level2"], expected)
    assert not any(e.moved.requires_grad for e in found)


def test_each_level_of_flat_is_explained_by_its_own_encoder() -> None:
    encoder: Any = create("nano", image_size=32, sizes=(16, 8, 4))
    flat = shaken(Flat(encoder, LabelTree(TREE.sizes[:2], TREE.parents[:1])))
    look = View(view().image.float(), view().segments)
    _, found = explained(flat, look)
    for level, each in enumerate(flat.encoders()[::-1]):
        alone: Any = DeiT(each, LabelTree(TREE.sizes[:2], TREE.parents[:1]), level=level)
        alone.model.head.load_state_dict(flat.model.level_heads[level].state_dict())  # type: ignore[union-attr,index]
        (expected,) = explained(alone.eval(), look)[1]
        torch.testing.assert_close(found[level].moved, expected.moved)
    assert not torch.equal(found[0].moved, found[1].moved)


def test_encoders_without_superpixels_are_explained_by_their_pixels() -> None:
    objective = DeiT(create("timm:resnet10t", image_size=64), LabelTree.flat("abc")).eval()
    found = predict(photo(), Classifier(objective, LabelTree.flat("abc"), SPEC, 64), min_confidence=None)
    (evidence,) = found.evidence
    assert evidence.labels.shape == (64, 64)
    assert evidence.moved.shape == (4,)
    assert evidence.moved.abs().max() > 0
    look = View(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64).int())
    assert not explained(objective, look)[1][0].moved.any(), "a plain picture has nothing to differ from"


def test_what_predict_refuses() -> None:
    recogniser = Classifier(made(), TREE, SPEC, 32)
    with pytest.raises(ConfigError, match=r"0 to 1, got 1\.5"):
        predict(photo(), recogniser, min_confidence=1.5)
    with pytest.raises(DataError, match=r"cannot read the image nothing\.png"):
        predict("nothing.png", recogniser)
    small = recogniser._replace(superpixels="grid:cell=4")
    with pytest.raises(ConfigError, match=r"up to 64 superpixels of grid:cell=4, but .* room for 16"):
        predict(photo(), small)
    room = with_superpixels(recogniser, "grid:cell=4")
    assert predict(photo(), room).evidence[2].moved.shape == (64,)
    assert room.objective.encoder.sizes == (64, 8, 4, 2)
