"""castssl with the oldest packages that its dependencies accept: it trains, compiles and exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.slow.environments import ROOT, Environment, uv
from tests.slow.test_wheels import RECIPE

COMPILES = """
import torch, castssl
from castssl import build
encoder = castssl.create("cast_nano", image_size=32, superpixels="grid:cell=8", sizes=(16, 8, 4)).eval()
images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
view = castssl.View(images.float(), build("superpixels", "grid:cell=8")(images))
encoder.compile(fullgraph=True, backend="eager")
print(encoder(view).stages[-1].cls.isfinite().all().item())
"""
VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


def test_castssl_works_with_the_oldest_packages(tmp_path: Path) -> None:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [")[2]
    oldest = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', section.partition("\n]")[0]))
    assert {"torch", "timm", "lightly", "accelerate"} <= oldest.keys()
    environment = Environment(tmp_path)
    options = ("--quiet", "--python", tmp_path / "env", "--resolution", "lowest-direct")
    uv("pip", "install", *options, ROOT)
    installed = json.loads(environment.succeed("python", "-c", VERSIONS, *oldest))
    newer = [name for name, bound in oldest.items() if not f"{installed[name]}.".startswith(f"{bound}.")]
    assert not newer, f"not the oldest that pyproject.toml accepts: {newer} of {installed}"
    assert "nothing that castssl needs is broken" in environment.succeed("castssl", "doctor")
    assert environment.succeed("python", "-c", COMPILES) == "True\n"
    environment.succeed("castssl", "run", "moco_in1k", *RECIPE)
    environment.succeed("castssl", "export", "run", "--to", "torch-export", "--out", "model.pt2")
    assert (tmp_path / "model.pt2").is_file()
