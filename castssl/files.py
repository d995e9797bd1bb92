"""Files that are complete or absent, whatever happens to the process or the disk.

A file is written under another name in the same folder, flushed to the disk and renamed.  Its mode is the
one that the user's umask gives a new file, whatever the library that wrote it would have chosen.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from castssl.errors import CastError

LFS = b"version https://git-lfs.github.com/spec/"
"""How a pointer of Git LFS begins, which lies in place of a file that was not fetched."""
PARTIAL = ".partial"
"""The end of the names of files that are being written."""
_LONGEST = 255 - len(".12345678") - len(PARTIAL) - 1  # bytes of a name in the usual file systems
_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors reports what the system refused


@contextmanager
def atomic_write(
    path: Path, what: str = "file", *, shared: bool = False, sync: bool = True
) -> Iterator[Path]:
    """Yield the path to write to; at the end it replaces ``path``, unless the body raised an error.

    Args:
        path: the file to make or replace.  Its folder is made if it is missing.
        what: the name of the content in a message, such as ``"checkpoint"``.
        shared: another process may write the same file at the same time.
        sync: flush file and folder to the disk, so that the file outlives a power cut.

    Raises:
        CastError: if the system refuses to write it, for example on a full disk, or ``path`` is a folder or a
            device.  The earlier content of ``path`` is unchanged.
    """
    with translate_os_error(path, what):
        _check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = aside_of(path, secrets.token_hex(4) if shared else "")
        mode = _create(aside)
        try:
            yield aside
            if stat.S_ISREG(os.stat(aside).st_mode):
                os.chmod(aside, mode)
            if sync:
                _sync(aside)
            os.replace(aside, path)
        except BaseException:
            remove(aside)
            raise
        if sync:
            sync_folder(path.parent)


def write_text(path: Path, text: str, what: str = "file", *, shared: bool = False) -> None:
    """Write UTF-8 text by :func:`atomic_write`; bytes of a file name that are not UTF-8 are kept."""
    with atomic_write(path, what, shared=shared) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def aside_of(path: Path, token: str = "") -> Path:
    """The path that ``path`` is written under before it is renamed; with a ``token`` a path of its own."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}{'.' if token else ''}{token}{PARTIAL}")


@contextmanager
def translate_os_error(path: Path, what: str) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` into a message.

    Raises:
        CastError: with the system's reason; other errors pass through.
    """
    try:
        yield
    except CastError:
        raise
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise CastError(
            f"cannot write the {what} {path} ({reason}); earlier files are whole: make room or choose another"
            " place, and run the same command again"
        ) from error


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a renaming in ``folder`` outlive a power cut, where the file system can."""
    with suppress(OSError):  # Windows opens no folder, and some network file systems flush none.
        _sync(folder)


def _check_target(path: Path) -> None:
    """Refuse what a renamed file must not replace: a folder, a device, a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # absent, or a link to nothing; the write itself raises the error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def _create(path: Path) -> int:
    """Make an empty file, and return the mode that the umask and the folder give it."""
    if not path.is_char_device():  # A link to /dev/full stays, and has nothing to lose.
        # A killed process may have left one with another mode; in a stranger's folder it may be a link.
        path.unlink(missing_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal(error: BaseException | None) -> str | None:
    """The system's own words, which torch and safetensors hide behind other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if match := _RUST.search(str(error)):
            return os.strerror(int(match[1]))
        error = error.__cause__ or error.__context__
    return None
