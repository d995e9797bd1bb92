"""The device that a command computes on, and the machine as a table of measurements names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from castssl.errors import ConfigError


def check_device(name: str) -> str:
    """The device's name, if this machine has it.

    Raises:
        ConfigError: if it has not.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device: got {name!r}, expected cpu, cuda or cuda:0") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        why = f"{count} GPUs are visible" if torch.version.cuda else "torch is for CPUs"
        raise ConfigError(f"--device {name}: there is none ({why}); leave it out, or see `castssl doctor`")
    if device.type == "meta":
        raise ConfigError("--device meta: it computes nothing; give cpu or cuda")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(f"--device {name}: there is none; give cpu or cuda") from error
    return name


def machine(device: str = "cpu") -> str:
    """What a table of measurements says of where it was made: processor, cores, threads, torch."""
    import torch

    named = [
        line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    processor = named[0] if named else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    words = [processor, f"{os.cpu_count()} cores", f"{threads} thread{'s' * (threads != 1)}"]
    if torch.device(device).type == "cuda":
        words.append(torch.cuda.get_device_name(device))
    return ", ".join([*words, f"torch {torch.__version__}"])


def _lines(path: str) -> list[str]:
    """The lines of a file; none if there is no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
