from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.contracts import Encoder
from castssl.encoder_config import EncoderConfig
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.testing import samples
from castssl.testing.claims import claim_trained
from castssl.types import Batch, Hierarchy, Tokens, View
from castssl_baselines.hrn import HRN, finest, log_marginals, rows_and_columns

DEEP = LabelTree((2, 4), ((0, 0, 1, 1),))
THREE = LabelTree((2, 3, 5), ((0, 1, 1), (0, 0, 1, 2, 2)))
RESNET50 = 23_508_032
"""Parameters of timm's resnet50 without its classifier."""


@st.composite
def trees(draw: st.DrawFn) -> LabelTree:
    """Up to four levels, in which each class has one to three children."""
    sizes, parents = [draw(st.integers(1, 3))], []
    for _ in range(draw(st.integers(0, 3))):
        counts = [draw(st.integers(1, 3)) for _ in range(sizes[-1])]
        table = [parent for parent, count in enumerate(counts) for _ in range(count)]
        parents.append(tuple(draw(st.permutations(table))))
        sizes.append(len(table))
    return LabelTree(tuple(sizes), tuple(parents))


def tables(tree: LabelTree) -> list[Tensor]:
    return [torch.tensor(table) for table in tree.parents]


def paths(tree: LabelTree) -> list[list[int]]:
    """The classes of every path from the root down, the empty one first."""
    found: list[list[int]] = [[]]
    for level, count in enumerate(tree.sizes):
        for last in range(count):
            path = [last]
            for table in reversed(tree.parents[:level]):
                path.insert(0, table[path[0]])
            found.append(path)
    return found


def enumerated(scores: list[Tensor], tree: LabelTree) -> list[Tensor]:
    """Marginals of each level, path by path and image by image."""
    marginals = [torch.zeros_like(each) for each in scores]
    for image in range(len(scores[0])):
        total = 0.0
        for path in paths(tree):
            weight = math.exp(sum(float(scores[level][image, at]) for level, at in enumerate(path)))
            total += weight
            for level, at in enumerate(path):
                marginals[level][image, at] += weight
        for each in marginals:
            each[image] /= total
    return marginals


@settings(max_examples=40, deadline=None)
@given(tree=trees(), seed=st.integers(0, 99), spread=st.floats(0.1, 5))
def test_marginals_are_sums_over_the_paths(tree: LabelTree, seed: int, spread: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = [spread * torch.randn(2, count, generator=draw, dtype=torch.float64) for count in tree.sizes]
    found = log_marginals(scores, tables(tree))
    for each, expected in zip(found, enumerated(scores, tree), strict=True):
        torch.testing.assert_close(each.exp(), expected)
    for table, above, below in zip(tables(tree), found, found[1:], strict=False):
        inside = torch.zeros_like(above).index_add(1, table, below.exp())
        assert (inside <= above.exp() + 1e-9).all()


def test_marginals_are_exact_where_exponentials_would_overflow() -> None:
    scores = [torch.tensor([[400.0, -400.0]]), torch.tensor([[500.0, 498.0, -900.0, 0.0]])]
    scores = [each.requires_grad_() for each in scores]
    coarse, fine = log_marginals(scores, tables(DEEP))
    top = math.log1p(math.exp(-2))
    torch.testing.assert_close(coarse, torch.tensor([[0.0, -1300.0 + math.log(2) - top]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(fine[:, :2], torch.tensor([[-top, -2 - top]]), atol=1e-4, rtol=0)
    (coarse.sum() + fine.sum()).backward()
    assert all(each.grad is not None and bool(each.grad.isfinite().all()) for each in scores)


@settings(max_examples=30, deadline=None)
@given(tree=trees(), seed=st.integers(0, 99), share=st.floats(0.01, 0.99))
def test_the_target_is_the_finest_known_class_of_each_part_of_a_mixture(
    tree: LabelTree, seed: int, share: float
) -> None:
    draw = np.random.default_rng(seed)
    targets = [torch.zeros(1, count) for count in tree.sizes]
    expected = [torch.zeros(1, count) for count in tree.sizes]
    for weight in (share, 1 - share):
        leaves = [path for path in paths(tree) if len(path) == tree.levels]
        path = leaves[draw.integers(len(leaves))][: draw.integers(1, tree.levels + 1)]
        for level, at in enumerate(path):
            targets[level][0, at] += weight
        expected[len(path) - 1][0, path[-1]] += weight
    for found, each in zip(finest(targets, tables(tree)), expected, strict=True):
        torch.testing.assert_close(found, each, atol=1e-6, rtol=0)


class Cells(Encoder):
    """An encoder of one stage whose tokens are the 4 x 4 cells of a map."""

    uses_superpixels = False

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.dim, self.sizes, self.config = dim, (16,), EncoderConfig("convolution")
        self.stem = nn.Conv2d(3, dim, 8, 8)

    def forward(self, view: View) -> Hierarchy:
        x = self.stem(view.image).flatten(2).transpose(1, 2)
        mass = torch.ones(x.shape[:2])
        return Hierarchy(view.segments, (Tokens(x, x.mean(1, keepdim=True), mass),), ())


def made(tree: LabelTree = DEEP, *, cells: bool = False, **options: Any) -> HRN:
    torch.manual_seed(0)
    encoder: Any = Cells() if cells else samples.SampleEncoder()
    return HRN(encoder, tree, **options)


@pytest.mark.parametrize("scores", ["sigmoid", "raw"])
def test_the_loss_is_that_of_the_finest_known_label(scores: str) -> None:
    objective, batch = made(THREE, scores=scores).eval(), samples.batch(1, THREE, 6)
    target = batch.target.clone()
    target[1:3, 2] = -1
    target[3:5, 1:] = -1
    view = batch.views[0]
    marginals = list(objective.predict(view).values())
    expected = torch.zeros(())
    for image, known in enumerate((target >= 0).sum(1).tolist()):
        expected = expected - marginals[known - 1][image, target[image, known - 1]]
    leaf = objective.answers(view)["leaf"]
    softmax = F.cross_entropy(leaf, target[:, 2], ignore_index=-1, reduction="sum")
    outcome = objective(Batch([view], target))
    torch.testing.assert_close(outcome.loss, (expected + softmax) / 6)
    torch.testing.assert_close(outcome.logs["tree"], (expected / 6).detach())
    assert list(outcome.logs) == [
        "loss",
        "tree",
        "softmax",
        *(f"accuracy_level{level}" for level in range(3)),
    ]


@pytest.mark.parametrize(("scores", "least"), [("sigmoid", 0.0), ("raw", 0.9)])
def test_predictions_are_marginals(scores: str, least: float) -> None:
    objective = made(scores=scores).eval()
    with torch.no_grad():
        objective.get_parameter("model.level_heads.0.bias").copy_(torch.tensor([3.0, -3.0]))
        objective.get_parameter("model.level_heads.1.bias").copy_(torch.tensor([-3.0, 3.0, -3.0, -3.0]))
    coarse, fine = (each.exp() for each in objective.predict(samples.view(3)).values())
    assert (coarse.argmax(1) == 0).all()
    assert (fine.argmax(1) == 1).all()
    assert (coarse[:, 0] > least).all()
    assert (coarse.sum(1) < 1).all()
    assert (fine[:, :2].sum(1) < coarse[:, 0]).all()


def test_finer_levels_take_the_features_of_coarser_ones() -> None:
    objective, view = made(THREE, cells=True).eval(), samples.view(3)
    with torch.no_grad():
        features = objective.model.features(view)
        cells = objective.encoder(view).stages[-1].x.transpose(1, 2).reshape(3, -1, 4, 4)
        alone = [branch(cells) for branch in objective.model.branches]
    for level, feature in enumerate(features):
        torch.testing.assert_close(feature, torch.stack(alone[: level + 1]).sum(0).relu())


@pytest.mark.parametrize(("height", "width"), [(24, 16), (16, 32), (8, 64)])
def test_a_map_of_another_shape_keeps_its_rows_and_columns(height: int, width: int) -> None:
    objective = made(cells=True).eval()
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    view = View(image, torch.zeros(2, height, width, dtype=torch.int32))
    with torch.no_grad():
        found = objective.model.features(view)[0]
        expected = objective.model.branches[0](objective.encoder.get_submodule("stem")(image))
    torch.testing.assert_close(found, expected.relu())


def test_a_map_whose_rows_and_columns_are_unknown_is_refused() -> None:
    assert rows_and_columns(49, 224, 224) == (7, 7)
    assert rows_and_columns(6, 70, 33) == (3, 2)
    with pytest.raises(ConfigError, match=r"got 6 cells of an image of 32 x 32 pixels \(no grid"):
        rows_and_columns(6, 32, 32)
    with pytest.raises(ConfigError, match="16 x 9 or 18 x 8"):
        rows_and_columns(144, 298, 142)


def test_a_branch_sees_where_things_are() -> None:
    objective = made(cells=True).eval()
    image = torch.zeros(2, 3, 32, 32)
    image[0, :, :16, :16] = image[1, :, :8, ::2] = 1.0
    tokens = objective.encoder(View(image, torch.zeros(2, 32, 32).int())).stages[-1].x
    place = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    maps = [each.transpose(1, 2).reshape(2, -1, 4, 4) for each in (tokens, tokens[:, place])]
    here, there = (objective.model.branches[0](each) for each in maps)
    assert not torch.allclose(here, there, atol=1e-4)


def test_coarse_labels_teach_the_finer_scores_but_not_the_softmax() -> None:
    objective, batch = made(scores="raw").train(), samples.batch(1, DEEP, 6)
    batch.target[:, 1] = -1
    objective(batch).loss.backward()
    grads = {name: part.grad for name, part in objective.named_parameters() if name.endswith(".bias")}
    for name, taught in {"level_heads.0": True, "level_heads.1": True, "leaf_head": False}.items():
        grad = grads[f"model.{name}.bias"]
        assert grad is not None
        assert bool(grad.any()) is taught


def test_mixed_and_smoothed_targets_are_learned_too() -> None:
    np.random.seed(0)  # noqa: NPY002
    objective = made(THREE, mixup=0.8, cutmix=1.0, smoothing=0.1, ema=0.9).train()
    loss = objective(samples.batch(1, THREE, 6)).loss
    loss.backward()
    assert all(p.grad is not None for name, p in objective.named_parameters() if "average" not in name)
    assert loss > 0


def test_with_resnet50_it_is_as_large_as_the_poster_says() -> None:
    living17 = LabelTree((17, 34), (tuple(range(17)) * 2,))
    with torch.device("meta"):
        encoder = samples.SampleEncoder(2048)
        encoder.uses_superpixels = False
        objective = HRN(encoder, living17)
    own = sum(p.numel() for name, p in objective.named_parameters() if not name.startswith("model.encoder"))
    assert round((own + RESNET50) / 1e6, 1) == 70.8


@pytest.mark.parametrize(("options", "output"), [({"scores": "rwa"}, "sigmoid or raw"), ({"leaf": -1}, "-1")])
def test_options_out_of_range_are_refused(options: dict[str, Any], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        made(**options)


def test_a_map_may_have_another_width_than_the_class_token() -> None:
    class Narrow(Cells):
        @property
        def stage_dims(self) -> tuple[int, ...]:
            return (8,)

        def forward(self, view: View) -> Hierarchy:
            found = super().forward(view)
            return found._replace(stages=(found.stages[0]._replace(cls=found.stages[0].cls[..., :5]),))

    encoder = Narrow()
    encoder.dim = 5
    assert HRN(encoder, DEEP)(samples.batch(1, DEEP, 4)).loss.isfinite()


def test_what_serves_the_class_token_alone_gets_a_gradient_of_0() -> None:
    """DDP waits for that of all that is trained, also of the norm behind a ConvNeXt's own pooling."""

    class Pooled(Cells):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(self.dim, self.dim)

        def forward(self, view: View) -> Hierarchy:
            found = super().forward(view)
            last = found.stages[0]
            return found._replace(stages=(last._replace(cls=self.own(last.cls)),))

    encoder = Pooled()
    HRN(encoder, DEEP)(samples.batch(1, DEEP, 4)).loss.backward()
    claim_trained(encoder)
    assert not any(p.grad.any() for p in encoder.own.parameters() if p.grad is not None)
