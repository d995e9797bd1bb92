"""Files that a command will write, or add to: what may be in their place."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from castssl.errors import ConfigError


def check_outputs(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write over files that are there; to be called before the first write.

    An input is a file that is there, so it is covered, by whatever name it was given.

    Args:
        paths: all files that will be written.
        overwrite: the user's ``--overwrite``: replace what is there.

    Raises:
        ConfigError: if two outputs have the same path, a folder of one is a file, or a path exists and may
            not be replaced.
    """
    outputs = [Path(os.path.abspath(path)) for path in paths]
    twice = sorted(str(path) for path, count in Counter(outputs).items() if count > 1)
    if twice:
        raise ConfigError(
            f"two outputs would have the same path: {_some(twice)}; give one input a call of its own, with"
            " another --out, or rename it"
        )
    for path in outputs:
        above = next((one for one in path.parents if os.path.lexists(one)), path.parent)
        if not above.is_dir():
            raise ConfigError(f"{above} is a file, expected a folder for {path.name}; choose another --out")
    existing = sorted(str(path) for path in outputs if os.path.lexists(path))
    if existing and not overwrite:
        raise ConfigError(
            f"these files exist and would be replaced: {_some(existing)}; choose another place, or give"
            " --overwrite"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def no_link(path: str, flags: int) -> int:
    """An ``opener`` of :func:`open` for a file that is added to, in whose place may be a link.

    Raises:
        OSError: if it is a link, a pipe or a device, or the system refuses it.
    """
    # A pipe would wait for its other end.
    own = 0 if sys.platform == "win32" else os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(path, flags | own, 0o666)
    except OSError as error:
        raise OSError(errno.ELOOP, "it is a link", path) if error.errno == errno.ELOOP else error from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return handle
