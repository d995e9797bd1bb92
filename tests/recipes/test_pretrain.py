"""The recipe for any objective: a few steps for real, continued; which encoder it keeps, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from castssl import registry
from castssl.errors import ConfigError, UnknownPlugin
from castssl.labels import LabelTree
from castssl.objectives.moco import MoCoV3
from castssl.testing.samples import SampleEncoder
from recipes.pretrain import Config, make_objective, make_views
from tests.recipes.conftest import Runner, keeps_what_it_leaves

pytestmark = pytest.mark.recipe
INSTALLED = {entry.name for entry in registry.names("objectives")}
OBJECTIVE = ("simclr" if "simclr" in INSTALLED else "moco") + ":hidden=16,out=8"
FLAGS = [
    *("--model", "nano", "--image-size", "32", "--sizes", "16", "8", "4"),
    *("--superpixels", "seeds:count=16,bins=5,iterations=2", "--objective", OBJECTIVE),
    *("--batch-size", "16", "--lr", "1e-3", "--epochs", "2", "--warmup-epochs", "1", "--workers", "0"),
]


def test_it_trains_is_continued_and_leaves_results(
    tmp_path: Path, image_folder: Path, recipe: Runner
) -> None:
    flags = ["--data", f"folder:{image_folder}", *FLAGS, "--out", str(tmp_path), "--log-every", "1"]
    for limit in ("2", "4"):
        done = recipe("pretrain", *flags, "--max-steps", limit, "--knn-every", "9")
        assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 2" in done.stderr
    output = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in output if "loss" in line] == [1, 2, 3, 4]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"knn", "match", "object_iou_4"} <= results["trained"].keys() & results["untrained"].keys()
    state = torch.load(max((tmp_path / "checkpoints").iterdir()), weights_only=True)["module"]
    saved = load_file(tmp_path / "encoder.safetensors")
    assert len(saved) == len(state), "projector, predictor and momentum encoder are kept"
    for name, value in saved.items():
        whose = name.removeprefix("extra.") if name.startswith("extra.") else f"encoder.{name}"
        assert torch.equal(state[f"model.{whose}"] if f"model.{whose}" in state else state[whose], value)
    keeps_what_it_leaves(tmp_path)


def test_the_branch_is_the_objective_s() -> None:
    moco = registry.build("objectives", "moco:hidden=16,out=8", SampleEncoder(), LabelTree.none())
    assert moco.branch("base") is moco.encoder
    assert isinstance(moco, MoCoV3)
    assert moco.branch("momentum") is moco.momentum_model.encoder
    template = registry.build("objectives", "template", SampleEncoder(), LabelTree.none())
    with pytest.raises(ConfigError, match=r"TemplateObjective has no branch 'momentum'; .* base"):
        template.branch("momentum")


@pytest.mark.parametrize(("objective", "views"), [("template", 1), ("moco:hidden=16,out=8", 2)])
def test_there_are_as_many_views_as_the_objective_wants(objective: str, views: int) -> None:
    cfg = Config(data="demo", model="nano", image_size=32, objective=objective)
    assert make_views(cfg, make_objective(cfg, LabelTree.none())).views == views


def test_an_unknown_objective_is_refused_with_those_there_are() -> None:
    cfg = Config(data="demo", model="nano", image_size=32, objective="mocco")
    with pytest.raises(UnknownPlugin, match="did you mean 'moco'"):
        make_objective(cfg, LabelTree.none())
