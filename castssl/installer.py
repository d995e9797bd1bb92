"""Commands that install and remove packages in the environment of this interpreter, for messages."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import metadata, util
from pathlib import Path

OPENCV = "opencv-contrib-python-headless"
"""The OpenCV that castssl depends on; opencv-python writes the same folder ``cv2`` without ``ximgproc``."""


def install(*requirements: str, reinstall: bool = False, options: str = "") -> str:
    """The command that installs packages beside this interpreter.

    Args:
        requirements: as pip takes them, such as ``"torch>=2.6"``.
        reinstall: install them even if they are installed already.
        options: further options, before the requirements.
    """
    words = " ".join([*filter(None, [options]), *map(shlex.quote, requirements)])
    if _uv():
        return f"uv pip install --python {_python()} {'--reinstall ' if reinstall else ''}{words}"
    return f"{_pip()} install {'--force-reinstall ' if reinstall else ''}{words}"


def install_plugin(name: str) -> str:
    """The command that installs a distribution of ``plugins/``: from a checkout where this is one."""
    folder = Path(__file__).parents[1] / "plugins" / name
    return install(str(folder), options="-e") if folder.is_dir() else install(name)


def uninstall(*names: str) -> str:
    """The command that removes packages beside this interpreter without asking."""
    words = " ".join(map(shlex.quote, names))
    return f"uv pip uninstall --python {_python()} {words}" if _uv() else f"{_pip()} uninstall -y {words}"


def installed(name: str) -> str:
    """The version of an installed distribution; "" if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def restore_ximgproc() -> str:
    """The command that writes the folder ``cv2`` anew, with ``cv2.ximgproc``, in the installed version.

    Another distribution of OpenCV stays registered, so that pip does not install it again for a library
    that requires it, such as mmengine.
    """
    version = installed(OPENCV)
    wish = f"{OPENCV}=={version}" if version else OPENCV
    return install(wish, reinstall=True, options="--no-deps")


def _uv() -> bool:
    """True if the environment has no pip and uv is on PATH, as in environments made by ``uv venv``."""
    return not util.find_spec("pip") and shutil.which("uv") is not None


def _pip() -> str:
    if not util.find_spec("pip"):
        return f"{_python()} -m ensurepip && {_python()} -m pip"
    return "pip" if _beside("pip") else f"{_python()} -m pip"


def _python() -> str:
    """``python`` where a shell finds this interpreter under that name; else its path."""
    return "python" if _beside("python") else shlex.quote(sys.executable)


def _beside(name: str) -> bool:
    """True if a shell that is asked for ``name`` takes the one in this interpreter's folder."""
    path = shutil.which(name)
    return path is not None and Path(path).parent == Path(sys.executable).parent
