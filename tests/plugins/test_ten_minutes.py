"""The commands of plugins/README.md, from a new plugin to its row in a table, as they stand there."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from castssl.cli import main
from tests import forked
from tests.commands.test_scaffold import ROOT, wheel

pytestmark = pytest.mark.recipe


def commands() -> list[list[str]]:
    """The lines of the section's code block."""
    text = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    block = text.partition("in ten minutes")[2].partition("```bash\n")[2].partition("```")[0]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.usefixtures("forked_jobs")
def test_a_new_pooling_gets_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create, install, check, ablate = commands()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    assert install == ["pip", "install", "-e", "castssl-mine"]
    path = [str(tmp_path / "wheel" / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(path)}
    ablate[ablate.index("seed=0,1,2")] = "seed=0"
    ablate[ablate.index("demo")] = "demo:size=32,per_class=8"
    for command in (create, check):
        if command is check:
            wheel(tmp_path / "castssl-mine", tmp_path / "wheel")
        words = ["-m", "castssl.cli", *command[1:]]
        done = forked.run(words, environment=environment, cwd=tmp_path)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.syspath_prepend(path[0])
    assert main([*ablate[1:], "--max-steps", "2"]) == 0
    table = (tmp_path / "mine-or-graph" / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[:4] == ["pooling", "---", "graph", "mine"]
    assert "GFLOPs" in table
    assert table.count("recipes/deit_in1k.py --") == 2
