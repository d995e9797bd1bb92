"""Readers that go away, and a system that refuses memory, files or processes: words, and runs that go on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from castssl.config import RunConfig, launch
from castssl.inference.photos import read_photo
from castssl.segmenters.files import Maps
from tests.forked import ENVIRONMENT, ROOT, TIMEOUT, Forked
from tests.small_runs import MOCO


def gone(*arguments: str, stream: str) -> tuple[int, str]:
    """Exit code and the other stream of ``python ARGUMENTS`` if nothing reads ``stream``."""
    read, write = os.pipe()
    os.close(read)
    other = "stderr" if stream == "stdout" else "stdout"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        text=True,
        check=False,
        timeout=TIMEOUT,
        **{stream: write, other: subprocess.PIPE},  # type: ignore[call-overload]
    )
    os.close(write)
    return done.returncode, (done.stderr if stream == "stdout" else done.stdout) or ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "castssl.cli", "--help"),
        ("-m", "castssl.cli", "segment", "--help"),
        ("-m", "castssl.cli", "list"),
        ("recipes/ablations/pooling.py", "--data", "demo", "--dry-run"),
        ("-c", "from castssl.config import RunConfig, launch; launch(print, RunConfig)", "--help"),
    ],
    ids=lambda arguments: " ".join(arguments).replace("-c from castssl.config import RunConfig, ", ""),
)
def test_output_that_nobody_reads_is_no_error(arguments: tuple[str, ...]) -> None:
    assert gone(*arguments, stream="stdout") == (0, "")


def test_a_run_outlives_the_reader_of_its_messages(image_folder: Path, tmp_path: Path) -> None:
    flags = ["--data", f"folder:{image_folder}", *MOCO, "--workers", "1", "--out", str(tmp_path / "run")]
    messages = tmp_path / "messages"
    os.mkfifo(messages)
    reader = os.open(messages, os.O_RDONLY | os.O_NONBLOCK)
    run = Forked(["recipes/moco_in1k.py", *flags], tmp_path / "output.txt", messages)
    while not (tmp_path / "run" / "log.jsonl").exists():
        assert run.poll() is None
        time.sleep(0.01)
    os.close(reader)
    assert run.wait() == 0
    assert (tmp_path / "run" / "results.json").is_file()


@dataclass(frozen=True, kw_only=True)
class Settings(RunConfig):
    """Nothing but what every run has."""


class Faulty(Dataset[torch.Tensor]):
    """Ends, or refuses to load, in the process that loads it."""

    def __init__(self, fault: Callable[[], None]) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        self.fault()
        return torch.zeros(3)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashed() -> None:
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGABRT)


def shared() -> None:
    raise RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)")


def memory() -> None:
    raise OSError(12, "Cannot allocate memory")


@contextmanager
def few_files(room: int = 3) -> Iterator[None]:
    """A limit of open files that leaves room for some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listed = os.listdir("/proc/self/fd")  # The listing is an open file, too.
    used = {int(name) for name in listed if Path("/proc/self/fd", name).exists()}
    free = [number for number in range(soft) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (killed, ("killed the data-loading process", "memory runs out", "--workers", "--batch-size")),
        (crashed, ("signal 'Aborted'", "--workers 0", "--start-method")),
        (shared, ("shared memory in /dev/shm", "--shm-size", "--workers")),
        (memory, ("Cannot allocate memory", "--workers")),
    ],
)
def test_a_fault_of_a_worker_names_its_cause_and_the_flag(
    fault: Callable[[], None], words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    def main(cfg: Settings) -> None:
        list(DataLoader(Faulty(fault), num_workers=1, multiprocessing_context="fork"))

    assert_told(main, words, capfd)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the open files in /proc")
def test_too_few_open_files_are_named_with_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    def main(cfg: Settings) -> None:
        with few_files():
            list(DataLoader(Faulty(lambda: None), num_workers=2, multiprocessing_context="fork"))

    assert_told(main, ("limit of open files", "ulimit -n", "--workers"), capfd)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the open files in /proc")
@pytest.mark.parametrize("kind", ["image", "maps"])
def test_too_few_open_files_are_no_fault_of_the_file_that_is_read(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8), np.int32))
    maps = Maps(str(tmp_path))
    read: dict[str, Callable[[], object]] = {
        "image": lambda: read_photo(image),
        "maps": lambda: maps(np.zeros((8, 8, 3), np.uint8), "a"),
    }
    read[kind]()
    with few_files(0), pytest.raises(OSError, match="Too many open files"):
        read[kind]()


def test_another_error_keeps_its_traceback() -> None:
    def main(cfg: Settings) -> None:
        raise RuntimeError("a fault of this program")

    with pytest.raises(RuntimeError, match="this program"):
        launch(main, Settings, [])


def assert_told(
    main: Callable[[Settings], None], words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(main, Settings, [])
    output = capfd.readouterr().err
    assert stop.value.code == 1
    assert "the same command" in output.lower()
    assert "Traceback" not in output
    for word in words:
        assert word in output
