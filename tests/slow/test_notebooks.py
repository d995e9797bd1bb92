"""The notebooks run from their first cell to the last, and leave nothing beside the folder of their run."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT
from tests.house.test_documents import NOTEBOOKS

LIMIT = 360.0
"""Seconds of processor time: three minutes on two cores."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_no_cell_raises(path: Path, tmp_path: Path) -> None:
    """By nbmake, on a copy that keeps what the cells print."""
    work = tmp_path / "work"
    work.mkdir()
    copy = Path(shutil.copy(ROOT / path, work))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(work)]
    command += ["--nbmake", "--nbmake-timeout=1200", "--overwrite", str(copy)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "CASTSSL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT
    assert sorted(path.name for path in work.iterdir()) == [copy.name, "runs"]
    assert copy.read_text(encoding="utf-8").count('"image/png"') == 3
