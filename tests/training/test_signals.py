from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch

from castssl import superpixel_labels
from castssl.errors import ContractError, Diverged
from castssl.training import signals as watching
from castssl.training.signals import LAG, LossMonitor

CPU = torch.device("cpu")


def _step(watch: LossMonitor, step: int, *losses: float) -> bool:
    for loss in losses:
        watch.add(torch.tensor(loss, requires_grad=True))
    return watch.step(step)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_told_with_its_step_and_the_ones_before(bad: float) -> None:
    watch = LossMonitor(CPU)
    for step in range(1, 8):
        assert not _step(watch, step, step / 2, step / 2 + 1)
    with pytest.raises(Diverged) as caught:
        _step(watch, 8, 1.0, bad)
    output = str(caught.value)
    assert f"step 8 is {bad}" in output
    assert "2 (step 3), 2.5 (step 4), 3 (step 5), 3.5 (step 6), 4 (step 7)" in output
    assert "(step 2)" not in output


def test_steps_without_a_loss_are_fine() -> None:
    watch = LossMonitor(CPU)
    assert not watch.step(1)
    watch.settle()


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    watch = LossMonitor(CPU)
    with watch.signals():
        assert not _step(watch, 1, 1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert _step(watch, 2, 1.0)
    assert watch.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_came_first_is_the_reason_and_images_are_asked_for_by_batch() -> None:
    watch = LossMonitor(CPU, lambda batches: f"Blame {list(batches)}.")
    with watch.signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        watch.add(torch.tensor(1.0), 6)
        assert watch.step(3)
    assert watch.reason == "SIGUSR1"
    for batch, loss in enumerate([float("nan"), 2.0, float("inf")], start=7):
        watch.add(torch.tensor(loss), batch)
    with pytest.raises(Diverged, match=r"Blame \[7, 9\]\."):
        watch.step(4)


def test_a_second_ctrl_c_interrupts_unless_it_is_an_echo_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "APART", 0.2)
    watch = LossMonitor(CPU)
    with watch.signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.reason == "SIGINT"
        time.sleep(0.3)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_within_a_thread_signals_are_left_alone() -> None:
    seen: list[object] = []

    def body() -> None:
        with LossMonitor(CPU).signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]


def test_without_a_launcher_no_parent_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LossMonitor(CPU)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not _step(watch, 1, 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_loss_is_looked_at_later_but_before_a_save() -> None:
    watch = LossMonitor(torch.device("cuda"))
    watch.add(torch.tensor(float("nan"), device="cuda"))
    for step in range(1, LAG + 1):
        assert not watch.step(step)
    with pytest.raises(Diverged, match="step 1 is nan"):
        watch.step(LAG + 1)
    watch.add(torch.tensor(float("nan"), device="cuda"))
    assert not watch.step(LAG + 2)
    with pytest.raises(Diverged):
        watch.settle()


def test_a_label_beyond_capacity_on_a_device_ends_the_run_with_the_loss_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The processor is treated as a device, on which the labels are not read at once."""
    monkeypatch.setattr(superpixel_labels, "_at_once", lambda _: False)
    superpixel_labels.take_strays(CPU)
    watch = LossMonitor(CPU)
    superpixel_labels.bounded(torch.zeros(1, 4, 4, dtype=torch.int32), 4, "the size")
    assert not _step(watch, 1, 1.0)
    superpixel_labels.bounded(torch.full((1, 4, 4), 4, dtype=torch.int32), 4, "the size")
    with pytest.raises(ContractError, match=r"16 pixels of the images of step 2 .*castssl check superpixels"):
        _step(watch, 2, 1.0)
    assert not _step(watch, 3, 1.0)
