"""The simulated device refuses and counts what it is there for, and a recipe trains on it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests import forked
from tests.small_runs import MOCO

FAULTY = """
import sys
import torch
from castssl.models.create import create
from castssl.pooling.sample import RandomSampling
from castssl.types import View
from tests.simulated_device import Mixed, Simulated, register, waits


class Faulty(RandomSampling):
    fault = ""

    def forward(self, tokens, size):
        x = tokens.x
        if self.fault == "tensor":
            x = x + torch.zeros(x.shape[-1])
        elif self.fault == "index":
            x = torch.zeros(x.shape).gather(1, (x > 0).long())
        elif self.fault == "row":
            x = x + torch.zeros(9, x.shape[-1])[(x > 9).long()[..., 0]]
        elif self.fault == "generator":
            x = x + torch.randn(x.shape, device=x.device, generator=torch.Generator())
        elif self.fault == "number":
            x = x + float(x.sum())
        elif self.fault == "shape":
            x = x + x[x > 0].sum()
        elif self.fault == "copy":
            x = x + x.cpu().mean()
        return super().forward(tokens._replace(x=x), size)


register()
model = create("nano")
with Simulated():
    model.to("simulated")
    segments = torch.zeros(2, 64, 64, dtype=torch.int32, device="simulated")
    image = View(torch.randn(2, 3, 64, 64, device="simulated"), segments)
    for Faulty.fault in sys.argv[1:]:
        waits.clear()
        model.poolings[0] = Faulty(model.dim)
        try:
            loss = model.segment(image).stages[-1].x.sum()
            loss.backward()
            print(Faulty.fault, "waits", sum(waits.values()))
        except Mixed as error:
            print(Faulty.fault, "refused")
"""
REFUSED = ("tensor", "index", "row", "generator")
WAITED = {"number": 1, "shape": 2, "copy": 2}  # The gradients of the last two wait, too.
FORWARD = tuple(f"castssl/{room}/" for room in ("data", "models", "objectives", "pooling", "tokens"))
"""Where no line may wait."""


def test_faults_are_refused_or_counted(tmp_path: Path) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    done = forked.run([str(script), "none", *REFUSED, *WAITED])
    lines = [f"{fault} refused" for fault in REFUSED] + [
        f"{fault} waits {times}" for fault, times in WAITED.items()
    ]
    assert done.stdout.splitlines() == ["none waits 0", *lines], done.stderr


def test_moco_trains_on_it_as_on_the_processor(image_folder: Path, tmp_path: Path) -> None:
    recipe = ["recipes/moco_in1k.py", "--data", f"folder:{image_folder}", *MOCO, "--workers", "0"]
    report = tmp_path / "waits.json"
    runs = {"cpu": recipe, "simulated": ["tests/simulated_device.py", str(report), *recipe]}
    for device, command in runs.items():
        environment = {"ACCELERATE_USE_CPU": "false"}
        done = forked.run([*command, "--out", str(tmp_path / device)], environment=environment)
        assert done.returncode == 0, done.stderr
    weights, expected = (
        load_file(tmp_path / device / "encoder.safetensors") for device in ("simulated", "cpu")
    )
    # Two steps move a weight by 1e-3; AdamW makes more of rounding where a gradient is small.
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)
    waits = {line.partition(":")[0]: times for line, times in json.loads(report.read_text()).items()}
    assert not [file for file in waits if file.startswith(FORWARD)]
    # A step waits for the losses of the step before it.
    assert waits["castssl/training/signals.py"] == 2
