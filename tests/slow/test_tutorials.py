"""Every command of the tutorials, in order, in a folder and an environment of its own, without network."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from tests.house import source, tutorials
from tests.slow.slurm_commands import write_commands

COMMAND = f'#!/bin/bash\nexec "{sys.executable}" -m castssl.cli "$@"\n'


def environment(folder: Path) -> dict[str, str]:
    """An environment that has this one's packages, takes more, and finds nothing on a network."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "own")], check=True)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "own")}))
    packages = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in packages]
    (libraries / "shared.pth").write_text("\n".join(lines) + "\n")
    programs = folder / "own" / "bin"
    (programs / "castssl").write_text(COMMAND.replace(sys.executable, str(programs / "python")))
    (programs / "pip").write_text(f'#!/bin/bash\nexec "{programs}/python" -m pip "$@"\n')
    (programs / "accelerate").write_text(
        f'#!/bin/bash\nexec "{programs}/python" -m accelerate.commands.accelerate_cli "$@"\n'
    )
    write_commands(programs)
    for program in ("castssl", "pip", "accelerate"):
        (programs / program).chmod(0o755)
    paths = [str(source.ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CASTSSL_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as its flag's value: no isolation.
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
    }


@pytest.mark.parametrize("path", tutorials.PAGES, ids=str)
def test_the_page_does_what_it_promises(path: Path, tmp_path: Path) -> None:
    if path.stem == "slurm" and torch.accelerator.is_available():
        pytest.skip("the launch file would take the GPUs")
    work = tmp_path / "work"
    work.mkdir()
    page = (source.ROOT / path).read_text(encoding="utf-8")
    done = list(tutorials.run(page, work, environment(tmp_path)))
    assert len(done) == len(tutorials.steps(page))
