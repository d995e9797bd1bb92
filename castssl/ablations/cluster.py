"""Runs a study's steps as jobs of a cluster, through submitit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from castssl.ablations.engine import OUTPUT, Job, busy
from castssl.ablations.grid import Step
from castssl.errors import ConfigError, PluginError
from castssl.installer import install


class Cluster:
    """Submits each run as a job.

    Args:
        out: the study's folder, seen by all machines; submitit's own files go to ``out/submitit``.
        kind: "slurm", or "local": processes of this machine, to try it out.
        parameters: submitit's, such as ``timeout_min``, ``slurm_partition``, ``gpus_per_node``.
        launcher: in place of the interpreter, such as ``accelerate launch``.

    Raises:
        PluginError: if submitit is not installed; with the command.
        ConfigError: if the cluster cannot be had, or a parameter is unknown.
    """

    def __init__(
        self, out: Path, kind: str, parameters: Mapping[str, Any], launcher: Sequence[str] = ()
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise PluginError(f"--cluster needs submitit: {install('castssl[ablations]')}") from error
        self._out, self._launcher = out, tuple(launcher)
        try:
            self._executor: Any = submitit.AutoExecutor(folder=out / "submitit", cluster=kind)
            self._executor.update_parameters(name=f"castssl-{out.name}", **parameters)
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise ConfigError(f"--cluster {kind}: {error}") from error

    def __call__(self, step: Step) -> Job:
        """Submit one step."""
        folder = step.folder(self._out)
        folder.mkdir(parents=True, exist_ok=True)
        return _Submitted(self._executor.submit(execute, step.command(self._out, self._launcher), folder))


class _Submitted:
    def __init__(self, job: Any) -> None:
        self._job = job

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        return 1 if self._job.exception() is not None else int(self._job.result())

    def stop(self) -> None:
        self._job.cancel()


def execute(command: Sequence[str], folder: Path) -> int:
    """The exit code of a command whose output goes to the folder; runs on the cluster's machine."""
    if busy(folder):
        raise RuntimeError(f"another process is at work in {folder}")
    with (folder / OUTPUT).open("a", encoding="utf-8") as output:
        environment = {"OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ)
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    return done.returncode
