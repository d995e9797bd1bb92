from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from castssl.checkpoints.classifier import load_classifier, save_classifier
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.objectives.mixing import Mixing
from castssl.objectives.text_attributes import TextHead, text_losses, text_pairs
from castssl.objectives.tree_kl import TreeKL
from castssl.testing import samples
from castssl.types import Batch, Hierarchy, Tokens

TREE = LabelTree((2, 4), ((0, 0, 1, 1),))
E = 8


def made(**options: object) -> TreeKL:
    torch.manual_seed(0)
    chosen: dict[str, object] = {"text_dim": E, "mixup": 0.0, "cutmix": 0.0} | options
    return TreeKL(samples.SampleEncoder(), TREE, **chosen)  # type: ignore[arg-type]


def batch(size: int = 6, seed: int = 0) -> Batch:
    return samples.batch(1, TREE, size, seed=seed, text_dim=E)


def text_of(given: Batch) -> Tensor:
    assert given.text is not None
    return given.text


def mean(losses: tuple[Tensor, Tensor], known: tuple[Tensor, Tensor]) -> float:
    return sum(float(a.detach().sum() / b.sum()) for a, b in zip(losses, known, strict=True)) / 2


def test_without_a_temperature_perfect_pairs_leave_a_loss() -> None:
    """256 orthogonal texts: ln(1 + 255 / e) = 4.55, of ln 256 = 5.55 at the start."""
    text = torch.eye(256)
    pairs = text_pairs(text)
    assert mean(*text_losses(text * 3, text, pairs)) == pytest.approx(math.log(1 + 255 / math.e), abs=1e-5)
    assert mean(*text_losses(text * 3, text, pairs, 0.01)) == pytest.approx(0, abs=1e-5)


def test_with_all_texts_it_is_the_loss_of_clip() -> None:
    rng = torch.Generator().manual_seed(0)
    image, text = torch.randn(5, E, generator=rng), torch.randn(5, E, generator=rng)
    cosines = torch.stack([F.cosine_similarity(each[None], text) for each in image]) / 0.5
    expected = (F.cross_entropy(cosines, torch.arange(5)) + F.cross_entropy(cosines.T, torch.arange(5))) / 2
    losses, known = text_losses(image, text, text_pairs(text), 0.5)
    assert mean(losses, known) == pytest.approx(float(expected), abs=1e-6)
    assert all(torch.equal(each, torch.ones(5)) for each in known)


def test_images_without_a_text_have_no_part_in_it() -> None:
    rng = torch.Generator().manual_seed(0)
    image, text = torch.randn(6, E, generator=rng).requires_grad_(), torch.randn(6, E, generator=rng)
    text[[1, 4]] = 0
    losses, known = text_losses(image, text, text_pairs(text))
    rest = [0, 2, 3, 5]
    alone, _ = text_losses(image[rest], text[rest], text_pairs(text[rest]))
    for one, other, weight in zip(losses, alone, known, strict=True):
        torch.testing.assert_close(one[rest], other)
        assert not one[[1, 4]].any()
        assert weight.tolist() == [1, 0, 1, 1, 0, 1]
    torch.autograd.backward([losses[0].sum() + losses[1].sum()])
    assert image.grad is not None
    assert image.grad[rest].any(1).all()
    assert not image.grad[[1, 4]].any()


def test_a_mixture_has_the_texts_of_both_images() -> None:
    """The loss is linear in the targets: the shares of the losses with the own texts and the mirrors'."""
    rng = torch.Generator().manual_seed(0)
    image, text = torch.randn(4, E, generator=rng), torch.randn(4, E, generator=rng)
    found, known = text_losses(image, text, text_pairs(text, 0.7))
    own, _ = text_losses(image, text, text_pairs(text))
    mirrored, _ = text_losses(image, text, text_pairs(text, 0.0))
    for whole, first, second, weight in zip(found, own, mirrored, known, strict=True):
        torch.testing.assert_close(whole, 0.7 * first + 0.3 * second)
        torch.testing.assert_close(weight, torch.ones(4))
    text[0] = 0  # The mirror of the last one.
    _, (of_images, of_texts) = text_losses(image, text, text_pairs(text, 0.7))
    torch.testing.assert_close(of_images, torch.tensor([0.3, 1.0, 1.0, 0.7]))
    torch.testing.assert_close(of_texts, torch.tensor([0.0, 1.0, 1.0, 1.0]))


def test_tree_kl_adds_the_weighted_loss_of_the_images_with_a_text() -> None:
    given = batch()
    plain, objective = made(text_dim=0, smoothing=0.0), made(smoothing=0.0, text_weight=2.0)
    outcome = objective(given)
    head = objective.model.text_head
    image = head(objective.encoder(given.views[0]))
    few = text_of(given).any(1)
    expected, _ = text_losses(image[few], text_of(given)[few], text_pairs(text_of(given)[few]))
    share = float(few.float().mean())
    compared = share * float((expected[0].mean() + expected[1].mean()).detach()) / 2
    assert float(outcome.logs["text"]) == pytest.approx(compared, abs=1e-6)
    assert float(outcome.loss.detach()) == pytest.approx(
        float(plain(given).loss.detach()) + 2 * compared, abs=1e-5
    )
    labeled = made(smoothing=0.0, level_mean="labeled")(given).logs["text"]
    assert float(labeled) == pytest.approx(compared / share, abs=1e-6)


def test_mixed_batches_mix_their_texts_by_the_same_draw() -> None:
    given, objective = batch(), made(mixup=0.8, cutmix=1.0, level_mean="labeled")
    np.random.seed(3)  # noqa: NPY002
    found = objective(given).logs["text"]
    np.random.seed(3)  # noqa: NPY002
    view, share = Mixing((2, 4)).mix(given.views[0])
    assert 0 < share < 1
    image = objective.model.text_head(objective.encoder(view))
    expected = mean(*text_losses(image, text_of(given), text_pairs(text_of(given), share)))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_batch_without_a_text_trains() -> None:
    given = batch()
    bare = given._replace(text=torch.zeros_like(text_of(given)))
    for level_mean in ("batch", "labeled", "rank"):
        objective = made(level_mean=level_mean)
        outcome = objective(bare)
        assert float(outcome.logs["text"]) == 0
        torch.autograd.backward(outcome.loss)
        assert not any(p.grad is None or p.grad.any() for p in objective.model.text_head.parameters())


def test_predictions_need_no_text() -> None:
    objective = made().eval()
    with torch.no_grad():
        assert set(objective.predict(batch().views[0])) == {"level0", "level1"}
        outcome = objective(batch()._replace(text=None))
    assert "text" not in outcome.logs


def test_a_saved_classifier_has_no_text_head(tmp_path: object) -> None:
    from castssl.encoder_config import EncoderConfig
    from castssl.models.create import create

    encoder = create(EncoderConfig("nano", image_size=32, superpixels="grid:16"), advance=True)
    objective = TreeKL(encoder, TREE, text_dim=E, ema=0.5)
    path = f"{tmp_path}/encoder.safetensors"
    save_classifier(objective, path, spec="tree-kl:level_mean=labeled", labels=TREE, branch="ema")
    assert not any("text" in name for name in objective.heads("ema"))
    found = load_classifier(path).objective
    assert isinstance(found, TreeKL)
    assert (found.text_dim, found.level_mean) == (0, "labeled")


def test_features_of_a_stage() -> None:
    encoder = samples.SampleEncoder()
    hierarchy = encoder(batch().views[0])
    x, mass = hierarchy.stages[1].x, hierarchy.stages[1].mass
    read = {"flattened": (x * (mass > 0)[..., None]).flatten(1), "class": hierarchy.stages[1].cls[:, 0]}
    read["mean"] = torch.stack([(m[:, None] * t).sum(0) / m.sum() for m, t in zip(mass, x, strict=True)])
    for feature, value in read.items():
        head = TextHead(encoder, -2, feature, E)  # type: ignore[arg-type]
        torch.testing.assert_close(head(hierarchy), head.linear(value), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="got 'mass', expected one of flattened, mean, class"):
        TextHead(encoder, -2, "mass", E)  # type: ignore[arg-type]


def test_padding_is_read_as_nothing() -> None:
    """Whatever a pooling leaves in rows of mass 0."""
    encoder = samples.SampleEncoder()
    x, mass = torch.randn(2, 16, encoder.dim), torch.ones(2, 16)
    mass[1, 5:] = 0
    other = x.clone()
    other[1, 5:] = 1e3
    for feature in ("flattened", "mean"):
        head = TextHead(encoder, -3, feature, E)
        found = [
            head(Hierarchy(torch.zeros(2, 1, 1), (Tokens(t, t[:, :1], mass),) * 3, ())) for t in (x, other)
        ]
        assert torch.equal(found[0], found[1])


def test_the_stage_is_that_of_the_finest_level() -> None:
    """As released: of H-CAST's three levels block 2, of H-ViT's the last block."""
    assert made().model.text_head.stage == -2
    assert made(order="fine-last").model.text_head.stage == -1


@pytest.mark.parametrize("option", [{"text_weight": -1}, {"text_temperature": 0}, {"text_dim": -2}])
def test_numbers_out_of_range_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="text_temperature is above 0"):
        made(**option)


def test_a_weight_of_zero_has_no_head_and_reads_no_text() -> None:
    objective = made(text_weight=0.0)
    assert objective.text_dim == 0
    assert "text" not in objective(batch()._replace(text=None)).logs
