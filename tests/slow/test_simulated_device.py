"""Recipes and commands on a simulated GPU: no two devices meet in an operator, and no forward pass waits."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests import forked
from tests.test_simulated_device import FORWARD

RECIPES = {
    "deit": "deit_in1k --data demo:per_class=3",
    "hcast": "hcast --data demo:per_class=3",
    "free-grained": "hcast --free-grain 0.5 --data demo:per_class=6",
    **{method: f"hcast --method {method} --data demo:per_class=3" for method in ("fgn", "hrn", "transhp")},
    **{
        head: f"segment --head {head} --data demo-maps:per_class=2"
        for head in ("linear", "fused", "segmenter")
    },
    "queries": "segment --head queries --data demo-maps:per_class=2",
    "multilabel": "multilabel --preset small --text words:64 --data demo-many:images=32",
    "device-slic": "moco_in1k --superpixels device-slic:count=64 --data demo:per_class=3",
    **{
        pooling: f"deit_in1k --pooling {pooling} --data demo:per_class=3"
        for pooling in ("random", "kmeans", "kmedoids", "finch", "token-pooling", "ctm", "tome")
    },
    **{
        objective: f"pretrain --objective {objective} --data demo:per_class=3"
        for objective in ("barlow-twins", "byol", "dino", "simclr", "vicreg")
    },
}
FLAGS = "--model nano --image-size 64 --epochs 1 --batch-size 8 --workers 0"
WAIT = {
    "queries": {"castssl/objectives/mask_classification.py"},  # The assignment problem is solved by scipy.
    "simclr": {"plugins/castssl-lightly/src/castssl_lightly/siamese.py"},  # lightly's loss indexes by a mask.
    "vicreg": {"plugins/castssl-lightly/src/castssl_lightly/siamese.py"},
}
"""Files of objectives and models that wait for the device, by run."""
COMMANDS = {
    "segment": "segment {photo} --weights {hcast} --out {out}",
    "classes": "segment {photo} --weights {segmenter} --classes --window 64 --out {out}",
    "predict": "predict {photo} --weights {hcast} --out {out}.png",
    "features": "features {photos} --weights {deit} --out {out}.npz",
    "evaluate": "evaluate demo:per_class=3 --weights {deit}",
    "evaluate many labels": "evaluate demo-many:images=32 --weights {multilabel}",
    "adapt": "adapt demo:per_class=3 --weights {hcast}",
    "neighbors": "neighbors demo:per_class=3 --weights {deit} --out {out}.png",
    "attention": "attention {photo} --weights {deit} --out {out}",
    "look": "look {photo} --weights {deit} --html {out}.html",
}
PHOTOS = "castssl/visualization/photographs"


def on_the_device(command: str, report: Path) -> set[str]:
    """The files that waited for the device; the command must succeed."""
    arguments = ["tests/simulated_device.py", str(report), *shlex.split(command)]
    done = forked.run(arguments, environment={"ACCELERATE_USE_CPU": "false"})
    assert done.returncode == 0, done.stderr[-3000:]
    return {line.partition(":")[0] for line in json.loads(report.read_text())}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are, by name."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_evaluates(name: str, runs: Path) -> None:
    recipe, _, flags = RECIPES[name].partition(" ")
    command = f"recipes/{recipe}.py {flags} {FLAGS} --out {runs / name}"
    files = on_the_device(command, runs / f"{name}.json")
    rooms = (*FORWARD, "plugins/")
    assert {file for file in files if file.startswith(rooms)} == WAIT.get(name, set())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_computes_there(name: str, runs: Path, tmp_path: Path) -> None:
    places = {run: runs / run for run in RECIPES}
    command = COMMANDS[name].format(
        photo=f"{PHOTOS}/coffee.jpg", photos=PHOTOS, out=tmp_path / "out", **places
    )
    on_the_device(f"castssl {command} --device simulated", tmp_path / "waits.json")
