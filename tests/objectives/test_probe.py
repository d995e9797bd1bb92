from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from castssl.labels import LabelTree
from castssl.objectives.probe import LinearProbe
from castssl.testing import samples
from castssl.types import Hierarchy, View

DEEP = LabelTree((2, 4), ((0, 0, 1, 1),))


class Moody(samples.SampleEncoder):
    """Answers differently in training mode, and remembers what it saw there."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, view: View) -> Hierarchy:
        return super().forward(view._replace(image=self.drop(self.norm(view.image))))


def test_training_moves_the_head_and_nothing_else() -> None:
    torch.manual_seed(0)
    probe, batch = LinearProbe(Moody(), DEEP).train(), samples.batch(1, DEEP, 8)
    before = {name: value.clone() for name, value in probe.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in probe.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        probe(batch).loss.backward()
        optimizer.step()
        probe.after_step(0.5)
        probe.train()
    moved = {name for name, value in probe.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"model.head.weight", "model.head.bias"}


def test_the_encoder_is_in_evaluation_mode_whatever_the_probe_is_in() -> None:
    torch.manual_seed(0)
    probe, view = LinearProbe(Moody(), DEEP), samples.view(4)
    expected = probe.eval().predict(view)["class"]
    assert torch.equal(probe.train().predict(view)["class"], expected)
    assert not any(part.training for part in probe.encoder.modules())


def test_no_graph_is_kept_through_the_encoder() -> None:
    probe = LinearProbe(samples.SampleEncoder(), DEEP)
    logits = probe.predict(samples.view(2))["class"]
    assert logits.grad_fn is not None
    before = [leaf for leaf, _ in logits.grad_fn.next_functions if leaf is not None]
    # The head's bias and its transposed weight; nothing from the encoder.
    assert sorted(leaf.name() for leaf in before) == ["TBackward0", "torch::autograd::AccumulateGrad"]


def test_the_loss_is_cross_entropy_at_its_level() -> None:
    torch.manual_seed(0)
    probe, batch = LinearProbe(samples.SampleEncoder(), DEEP, level=0), samples.batch(1, DEEP, 8)
    logits = probe.model.head(probe.encoder(batch.views[0]).stages[-1].cls[:, 0])
    torch.testing.assert_close(probe(batch).loss, F.cross_entropy(logits, batch.target[:, 0]))


def test_the_head_begins_small_and_without_bias() -> None:
    torch.manual_seed(0)
    head = LinearProbe(samples.SampleEncoder(256), DEEP).model.head
    assert 0.008 < float(head.weight.detach().std()) < 0.012
    assert not head.bias.any()
