from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.classification import cross_entropy
from castssl.objectives.mixing import Mixing
from castssl.objectives.tree_kl import TreeKL, read_stages, tree_kl, tree_tie
from castssl.testing import samples
from castssl.testing.claims import claim_trained
from castssl.types import Batch

TREE = LabelTree((2, 4), ((0, 0, 1, 1),))
THREE = LabelTree((2, 3, 4), ((0, 0, 1), (0, 1, 2, 2)))
COARSE, FINE = [[0.2, -0.1], [1, 0.5]], [[0.3, 0.1, -0.4, 0], [-0.2, 0.9, 0.4, 0.6]]
COARSE_TARGET = [[0.95, 0.05], [0.285, 0.715]]
FINE_TARGET = [[0.925, 0.025, 0.025, 0.025], [0.025, 0.295, 0.655, 0.025]]


def test_levels_that_leave_out_the_last_stage_give_it_a_gradient_of_0() -> None:
    """DDP waits for that of all parameters."""
    objective = made(stages=(-2, -3))
    objective(samples.batch(1, TREE)).loss.backward()
    claim_trained(objective.model)
    last = objective.encoder.get_submodule("read.2")
    assert not any(p.grad.any() for p in last.parameters() if p.grad is not None)


def wide(rows: list[list[float]]) -> Tensor:
    # The stored numbers are those of float32 inputs.
    return torch.tensor(rows).double()


def made(tree: LabelTree = TREE, **options: object) -> TreeKL:
    torch.manual_seed(0)
    return TreeKL(samples.SampleEncoder(), tree, **options)  # type: ignore[arg-type]


def seeded(objective: TreeKL, batch: Batch, seed: int = 0) -> Tensor:
    np.random.seed(seed)  # noqa: NPY002
    loss: Tensor = objective(batch).loss
    return loss


def test_the_reference_s_numbers() -> None:
    logits, targets = [wide(COARSE), wide(FINE)], [wide(COARSE_TARGET), wide(FINE_TARGET)]
    assert tree_kl(logits, targets).item() == pytest.approx(0.5199572502492147, abs=1e-14)
    assert cross_entropy(logits[1], targets[1]).item() == pytest.approx(1.2477748155815158, abs=1e-14)
    assert cross_entropy(logits[0], targets[0]).item() == pytest.approx(0.7004660968781296, abs=1e-14)


def test_it_is_torch_s_divergence_of_the_joined_levels() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = [torch.randn(5, count, generator=rng) for count in (2, 4, 9)]
    targets = [torch.rand(5, count, generator=rng).softmax(1) for count in (2, 4, 9)]
    joined = F.normalize(torch.cat(targets, 1), p=1, dim=1)
    expected = F.kl_div(torch.cat(logits, 1).log_softmax(1), joined, reduction="batchmean")
    torch.testing.assert_close(tree_kl(logits, targets), expected)


def drawn(images: int = 5) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and soft targets of three levels, float64."""
    rng = torch.Generator().manual_seed(0)
    logits = [torch.randn(images, count, generator=rng).double() for count in (2, 4, 9)]
    targets = [torch.rand(images, count, generator=rng).double().softmax(1) for count in (2, 4, 9)]
    return logits, targets


def entropies(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """The cross entropy of each level, each a mean over the images."""
    return torch.stack([cross_entropy(*pair) for pair in zip(logits, targets, strict=True)])


def bracket(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """What the divergence is beyond the mean of the cross entropies and the entropy of the targets."""
    count = len(targets)
    shares = torch.cat(targets, 1) / count
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(1).mean()
    return tree_kl(logits, targets) - entropies(logits, targets).mean() + entropy


def test_it_is_the_mean_cross_entropy_a_bracket_of_partition_sums_and_a_constant() -> None:
    """So nothing in it says which fine class belongs to which coarse one, though its name promises that."""
    logits, targets = drawn()
    sums = torch.stack([each.logsumexp(1) for each in logits], 1)
    torch.testing.assert_close(bracket(logits, targets), (sums.logsumexp(1) - sums.mean(1)).mean())


def test_the_bracket_is_a_gauge() -> None:
    """A constant for each level and image moves it to its minimum, and moves no prediction."""
    logits, targets = drawn()
    before = bracket(logits, targets)
    shifts = [(-each.logsumexp(1, keepdim=True)).requires_grad_() for each in logits]
    even = [each + shift for each, shift in zip(logits, shifts, strict=True)]  # All partition sums are 1.
    torch.testing.assert_close(entropies(even, targets), entropies(logits, targets))
    least = bracket(even, targets)
    torch.testing.assert_close(least, torch.tensor(3.0).double().log())
    assert before > least + 0.1
    tree_kl(even, targets).backward()
    for shift in shifts:
        assert shift.grad is not None
        torch.testing.assert_close(shift.grad, torch.zeros_like(shift))
    rng = torch.Generator().manual_seed(1)
    for _ in range(20):
        moved = [each + torch.randn(5, 1, generator=rng) for each in even]
        torch.testing.assert_close(entropies(moved, targets), entropies(logits, targets))
        assert bracket(moved, targets) > least + 1e-3


def test_adamw_is_nearly_blind_to_the_factor_that_is_left() -> None:
    logits, targets = drawn()
    ways = []
    for factor in (1.0, 1 + 0.5 / 3):
        weights = [each.clone().requires_grad_() for each in logits]
        optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            (factor * entropies(weights, targets).sum()).backward()
            optimizer.step()
        ways.append(torch.cat([each.detach() for each in weights], 1))
    start = torch.cat(logits, 1)
    assert (ways[0] - start).abs().median() > 0.05
    torch.testing.assert_close(ways[1], ways[0], atol=1e-5, rtol=0)


def test_an_image_whose_path_is_not_wholly_known_adds_nothing() -> None:
    logits, targets = [wide(COARSE), wide(FINE)], [wide(COARSE_TARGET), wide(FINE_TARGET)]
    alone = tree_kl([each[:1] for each in logits], [each[:1] for each in targets])
    targets[1][1] = 0
    assert tree_kl(logits, targets).item() == pytest.approx(alone.item() / 2)


def test_the_loss_is_the_sum_of_the_levels_and_the_weighted_divergence() -> None:
    objective, batch = made(weight=0.5).eval(), samples.batch(1, TREE, 6)
    outcome = objective(batch)
    logits = list(objective.predict(batch.views[0]).values())
    hard = [F.one_hot(batch.target[:, i], each.shape[1]).float() for i, each in enumerate(logits)]
    both = sum(F.cross_entropy(each, batch.target[:, i]) for i, each in enumerate(logits))
    torch.testing.assert_close(outcome.loss, both + 0.5 * tree_kl(logits, hard))
    torch.testing.assert_close(outcome.logs["kl"], tree_kl(logits, hard).detach())
    assert set(outcome.logs) == {"loss", "kl", "accuracy_level0", "accuracy_level1"}


def test_one_draw_mixes_images_and_the_targets_of_all_levels() -> None:
    objective, batch = made(), samples.batch(1, TREE, 6)
    found = seeded(objective, batch, 3)
    np.random.seed(3)  # noqa: NPY002
    view, targets = Mixing((2, 4))(batch.views[0], batch.target)
    logits = list(objective.predict(view).values())
    losses = [cross_entropy(each, target) for each, target in zip(logits, targets, strict=True)]
    torch.testing.assert_close(found, sum(losses) + 0.5 * tree_kl(logits, targets))


def test_without_mixing_it_trains_too() -> None:
    objective, batch = made(mixup=0.0, cutmix=0.0, smoothing=0.0), samples.batch(1, TREE, 5)
    torch.testing.assert_close(seeded(objective, batch), objective.eval()(batch).loss)


def test_a_missing_fine_label_leaves_the_coarse_one_alone() -> None:
    objective, batch = made().eval(), samples.batch(1, TREE, 6)
    target = batch.target.clone()
    target[2:, 1] = -1
    logits = list(objective.predict(batch.views[0]).values())
    found = objective(batch._replace(target=target))
    coarse = F.cross_entropy(logits[0], target[:, 0])
    fine = F.cross_entropy(logits[1][:2], target[:2, 1]) * 2 / 6
    known = [F.one_hot(target[:2, i], each.shape[1]).float() for i, each in enumerate(logits)]
    both = tree_kl([each[:2] for each in logits], known) * 2 / 6
    torch.testing.assert_close(found.loss, coarse + fine + 0.5 * both)
    right = (logits[1][:2].argmax(1) == target[:2, 1]).float().mean()
    torch.testing.assert_close(found.logs["accuracy_level1"], right)


def test_the_tie_is_the_divergence_from_the_sums_over_children_both_ways() -> None:
    coarse, fine = wide(COARSE), wide(FINE)
    p = coarse.softmax(1)
    q = torch.stack([fine.softmax(1)[:, :2].sum(1), fine.softmax(1)[:, 2:].sum(1)], 1)
    expected = (F.kl_div(q.log(), p, reduction="batchmean") + F.kl_div(p.log(), q, reduction="batchmean")) / 2
    torch.testing.assert_close(tree_tie([coarse, fine], [torch.tensor([0, 0, 1, 1])]), expected)
    torch.testing.assert_close(
        tree_tie([q.log(), fine], [torch.tensor([0, 0, 1, 1])]), torch.tensor(0.0).double()
    )
    assert tree_tie([coarse], []) == 0


def test_the_tie_comes_on_top() -> None:
    free, tied, batch = made().eval(), made(tie=2.0).eval(), samples.batch(1, TREE, 6)
    logits = list(free.predict(batch.views[0]).values())
    apart = tree_tie(logits, [torch.tensor([0, 0, 1, 1])])
    torch.testing.assert_close(tied(batch).loss, free(batch).loss + 2 * apart)
    torch.testing.assert_close(tied(batch).logs["tie"], apart.detach())
    assert free.state_dict().keys() == tied.state_dict().keys()


@pytest.mark.parametrize(
    ("levels", "options", "expected"),
    [
        (2, {}, (-1, -2)),
        (3, {}, (-1, -2, -3)),
        (2, {"order": "fine-last"}, (-2, -1)),
        (3, {"order": "all-last"}, (-1, -1, -1)),
        (2, {"stages": (-1, -3)}, (-1, -3)),
    ],
)
def test_which_stage_a_level_reads(
    levels: int, options: dict[str, object], expected: tuple[int, ...]
) -> None:
    class Three:
        stages_with_cls, sizes = 3, (8, 4, 2, 1)

    assert read_stages(Three(), levels, **options) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("levels", "options", "output"),
    [
        (4, {}, "has 3 with a class token"),
        (2, {"order": "last"}, "coarse-last, fine-last, all-last"),
        (2, {"stages": (-1,)}, "got 1 for 2 label levels"),
        (2, {"stages": (-1, 0)}, "has 3 with a class token"),
    ],
)
def test_a_level_without_a_stage_is_refused(levels: int, options: dict[str, object], output: str) -> None:
    class Three:
        stages_with_cls, sizes = 3, (8, 4, 2, 1)

    with pytest.raises(ConfigError, match=output):
        read_stages(Three(), levels, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tree", "options", "output"),
    [
        (LabelTree.none(), {}, "no labels"),
        (TREE, {"weight": -1.0}, "0 or above"),
        (TREE, {"norm": "none"}, "last, each or shared"),
        (TREE, {"norm": "shared"}, "last norm of its own"),
    ],
)
def test_misfits_are_refused(tree: LabelTree, options: dict[str, object], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        made(tree, **options)


def test_a_norm_of_its_own_for_all_but_the_last_stage() -> None:
    objective = made(norm="each")
    names = [name for name in objective.heads() if name.startswith("norms.")]
    assert names == ["norms.1.weight", "norms.1.bias"]


def test_the_average_predicts_by_itself() -> None:
    objective, batch = made(ema=0.5), samples.batch(1, TREE, 4)
    before = objective.predict(batch.views[0], "ema")["level0"]
    with torch.no_grad():
        for head in objective.model.level_heads:
            cast(nn.Linear, head).bias.add_(1)
    objective.after_step(0.5)
    after = objective.predict(batch.views[0], "ema")["level0"]
    torch.testing.assert_close(after, before + 0.5)


def test_each_level_reads_a_class_token_of_its_own_width() -> None:
    torch.manual_seed(0)
    encoder, batch = samples.SamplePyramid((4, 6, 10)), samples.batch(1, THREE, 4)
    objective = TreeKL(encoder, THREE, norm="each")
    state = objective.model.state_dict()
    assert [state[f"level_heads.{level}.weight"].shape[1] for level in range(3)] == [10, 6, 4]
    assert [tuple(state[f"norms.{level}.weight"].shape) for level in (1, 2)] == [(6,), (4,)]
    assert objective(batch).loss.isfinite()
    TreeKL(encoder, THREE, order="all-last")


def test_a_shared_norm_needs_class_tokens_of_one_width() -> None:
    class Normed(samples.SamplePyramid):
        @property
        def last_norm(self) -> nn.Module:
            return nn.LayerNorm(10)

    with pytest.raises(ConfigError, match=r"as wide as the last, 10, but .* have the widths \(10, 6, 4\)"):
        TreeKL(Normed((4, 6, 10)), THREE, norm="shared")
