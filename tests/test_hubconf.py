"""torch.hub: what a repository offers, from this one's files."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from castssl import create
from castssl.checkpoints.hub import save_pretrained
from castssl.models.presets import PRESETS
from tests.house import source

ROOT = str(source.ROOT)


def hub(entry: str, *args: Any, **options: Any) -> Any:
    return torch.hub.load(ROOT, entry, *args, source="local", **options)


def test_each_preset_and_what_loads_weights_is_an_entry_with_its_help() -> None:
    # As torch.hub.list and torch.hub.help read them, which take no folder.
    names = runpy.run_path(f"{ROOT}/hubconf.py")
    entries = {name: entry for name, entry in names.items() if callable(entry) and not name.startswith("_")}
    assert entries.keys() == {*PRESETS, "load", "load_encoder"}
    assert all(name in entries[name].__doc__ for name in PRESETS)


def test_a_preset_is_built_with_its_options(tmp_path: Path) -> None:
    encoder = hub("cast_nano", image_size=32, pooling="random")
    assert encoder.config == create("cast_nano", image_size=32, pooling="random").config
    save_pretrained(encoder, tmp_path)
    again = hub("load_encoder", tmp_path)
    assert again.config == encoder.config
    assert all(map(torch.equal, again.state_dict().values(), encoder.state_dict().values()))
    assert hub("load", tmp_path, device="cpu").checkpoint.config == encoder.config


def test_pretrained_weights_are_refused_with_the_entry_that_loads_a_file() -> None:
    with pytest.raises(ValueError, match="cast_nano: got pretrained=True, but castssl comes without weights"):
        hub("cast_nano", pretrained=True)


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_without_an_installation_the_command_is_named(tmp_path: Path) -> None:
    # The packages of this environment, but for the metadata of castssl and its editable finder.
    for path in Path(torch.__file__).parents[1].iterdir():
        if not path.name.startswith(("castssl", "_castssl", "__editable__")):
            (tmp_path / path.name).symlink_to(path)
    code = f"import torch; torch.hub.load({ROOT!r}, 'cast_nano', source='local')"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.append({str(tmp_path)!r}); {code}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert run.returncode == 1
    assert "castssl is not installed" in run.stderr
    assert f"pip install {ROOT}" in run.stderr
