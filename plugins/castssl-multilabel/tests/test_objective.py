"""The objective `multilabel`: its contract, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castssl import build
from castssl.errors import ConfigError
from castssl.labels import LabelTree
from castssl.testing import Check, Subject, parametrize, samples
from castssl.testing import objectives as room
from castssl_multilabel.objective import MultiLabel

LABELS = LabelTree((2, 3), (), (("animal", "thing"), ("cat", "dog", "car")), exclusive=False)
SPECS = ("multilabel", "multilabel:head=plain,loss=asl,reduction=sum,ema=0.9")


@parametrize(room.checks, SPECS)
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


def test_levels_are_parts_of_one_row_of_logits() -> None:
    objective = MultiLabel(samples.SampleEncoder(), LABELS).eval()
    view = samples.view(2)
    found = objective.predict(view)
    assert {name: logits.shape[1] for name, logits in found.items()} == {"level0": 2, "level1": 3}
    assert torch.equal(torch.cat(list(found.values()), 1), objective.model.logits(view))
    flat = MultiLabel(samples.SampleEncoder(), LabelTree((5,), exclusive=False))
    assert set(flat.predict(view)) == {"class"}


@pytest.mark.parametrize("options", [{"head_weights": "shared"}, {"head": "plain"}])
def test_predictions_are_float32_under_autocast(options: dict[str, Any]) -> None:
    objective = MultiLabel(samples.SampleEncoder(), LABELS, **options).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.predict(samples.view(2))
    assert {logits.dtype for logits in found.values()} == {torch.float32}


def test_the_average_is_a_branch_of_its_own() -> None:
    objective = MultiLabel(samples.SampleEncoder(), LABELS, ema=0.5).eval()
    view = samples.view(2)
    with torch.no_grad():
        before = objective.predict(view)["level1"]
        for parameter in objective.model.parameters():
            parameter.add_(0.1)
    assert torch.equal(objective.predict(view, branch="ema")["level1"], before)
    objective.after_step(0.5)
    assert not torch.equal(objective.predict(view, branch="ema")["level1"], before)


def test_learned_embeddings_are_trained_and_others_are_not(tmp_path: Path) -> None:
    learned = MultiLabel(samples.SampleEncoder(), LABELS)
    assert dict(learned.named_parameters())["model.vectors"].shape == (5, 256)
    np.save(tmp_path / "names.npy", np.eye(5, 7, dtype=np.float32))
    (tmp_path / "names.txt").write_text("animal\nthing\ncat\ndog\ncar\n")
    options: dict[str, Any] = {
        "text": f"file:{tmp_path / 'names.npy'}",
        "store": str(tmp_path / "kept.safetensors"),
    }
    fixed = MultiLabel(samples.SampleEncoder(), LABELS, **options)
    assert torch.equal(fixed.state_dict()["model.vectors"], torch.eye(5, 7))
    assert "model.vectors" not in dict(fixed.named_parameters())
    (tmp_path / "names.npy").unlink()  # From here on the file that was kept is all there is.
    again = MultiLabel(samples.SampleEncoder(), LABELS, **options)
    assert torch.equal(again.state_dict()["model.vectors"], torch.eye(5, 7))


def test_saved_weights_need_no_text_encoder() -> None:
    torch.manual_seed(0)
    trained = MultiLabel(samples.SampleEncoder(), LABELS, text="learned:32", heads=2).eval()
    options: dict[str, Any] = {"text": "learned:32", "heads": 2, **trained.to_load}
    empty = MultiLabel(samples.SampleEncoder(), LABELS, **options).eval()
    assert not empty.state_dict()["model.vectors"].any()
    empty.load_state_dict(trained.state_dict())
    assert torch.equal(empty.predict(samples.view())["level1"], trained.predict(samples.view())["level1"])


@pytest.mark.parametrize("spec", ["multilabel:norm=pre", "multilabel:head=plain,loss=asl"])
def test_it_is_one_compiled_graph(spec: str) -> None:
    objective = build("objectives", spec, samples.SamplePyramid(), LABELS)
    batch = samples.batch(1, LABELS)
    expected = objective(batch).loss
    compiled = torch.compile(objective, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch).loss, expected)


def test_labels_attend_unless_the_head_is_plain() -> None:
    objective = MultiLabel(samples.SampleEncoder(), LABELS)
    found = objective.label_attention(samples.view(2))
    assert found is not None
    assert [tuple(weights.shape) for weights in found.weights] == [(2, 5, 16), (2, 5, 8), (2, 5, 4)]
    assert MultiLabel(samples.SampleEncoder(), LABELS, head="plain").label_attention(samples.view(2)) is None


def test_the_average_has_attention_of_its_own() -> None:
    objective = MultiLabel(samples.SampleEncoder(), LABELS, ema=0.5).eval()
    for value in objective.model.parameters():
        value.data.mul_(1.5)
    before, after = (objective.label_attention(samples.view(2), branch) for branch in ("ema", "base"))
    assert before is not None
    assert after is not None
    assert not torch.equal(before.weights[0], after.weights[0])
    objective.after_step(0.5)
    average = objective.label_attention(samples.view(2), "ema")
    assert average is not None
    assert not torch.equal(average.weights[0], before.weights[0])


def test_a_text_encoder_needs_names() -> None:
    with pytest.raises(ConfigError, match="5 labels have none; take text=learned:256"):
        MultiLabel(samples.SampleEncoder(), LabelTree((5,), exclusive=False), text="bert:bert-base-uncased")


@pytest.mark.parametrize("other", [["dog", "cat"], ["dog"]])
def test_other_names_are_scored_by_shared_weights(other: list[str]) -> None:
    objective = MultiLabel(samples.SampleEncoder(), LABELS, head_weights="shared").eval()
    view = samples.view(3)
    own = objective.predict(view)["level1"][:, [["cat", "dog", "car"].index(name) for name in other]]
    torch.testing.assert_close(objective.scorer(other)(view), own)
    with pytest.raises(ConfigError, match="no vector of boat"):
        objective.scorer(["boat"])
    with pytest.raises(ConfigError, match="head_weights=shared"):
        MultiLabel(samples.SampleEncoder(), LABELS, head="plain").scorer(other)


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (LabelTree.flat(("cat", "dog")), "", "2.*exclude each other"),
        (LabelTree.none(), "", "0 levels"),
        (LABELS, ":head=deep", "head"),
        (LABELS, ":loss=hinge", "loss"),
        (LABELS, ":reduction=none", "reduction"),
        (LABELS, ":clip=1.0", "clip"),
        (LABELS, ":gamma_neg=0.5", "not finite"),
        (LABELS, ":ema=1.0", "ema"),
    ],
)
def test_what_does_not_fit_is_refused(labels: LabelTree, options: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("objectives", f"multilabel{options}", samples.SampleEncoder(), labels)
