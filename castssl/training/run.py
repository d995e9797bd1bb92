"""A run: its place in the data, and what happens around the steps of a recipe's loop.

After a kill, a full disk or Ctrl-C the same command goes on from the last checkpoint.  A recipe reads::

    run, accelerator = start(cfg)
    model, optimizer = run.prepare(objective, optimizer)
    for step, raw in run.steps(loader):
        set_rate(optimizer, warmup_cosine(run.progress(step), warmup))
        with accelerator.accumulate(model):
            outcome = model(finish(raw, superpixels, accelerator.device))
            accelerator.backward(run.finite(outcome.loss))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            objective.after_step(run.progress(step + 1))
        run.report(step, outcome.logs)
    run.finish()
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    broadcast_object_list,
    set_seed,
)
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.optim import Optimizer

from castssl import config, distributed
from castssl.config import RunConfig
from castssl.errors import DataError
from castssl.files import atomic_write, write_text
from castssl.objectives.averaged import Averaged
from castssl.objectives.probe import LinearProbe
from castssl.training.accelerator import make_accelerator
from castssl.training.bad_images import BadImages
from castssl.training.batch_norm import has_batch_norm
from castssl.training.describe_batch import describe_batch
from castssl.training.logging import Log, check_tracker, start_trackers
from castssl.training.once import ONCE, read_once
from castssl.training.progress import Report
from castssl.training.protocols import Follows, Loader, Trained
from castssl.training.run_folder import claim, folder_of
from castssl.training.signals import REQUEUE, LossMonitor, requeue, resume_command
from castssl.training.state import TrainState
from castssl.types import Batch

STOPPED = 75
"""The exit code of a run that was stopped, has saved, and is to be continued (EX_TEMPFAIL).

``accelerate launch`` turns every exit code but 0 into 1; the last line of ``log.jsonl`` distinguishes them.
"""
BATCH_NORM = (
    "batch norm is not synchronized between processes without GPUs: each of the {world} processes normalizes"
    " by the statistics of its own images, so results differ from those of one process"
)
RESULTS = "results.json"
F = TypeVar("F", bound=Follows)
W = TypeVar("W", bound=Trained)
synchronize: Callable[[nn.Module], nn.Module] = convert_sync_batchnorm  # torch's drops timm's activations.


class Picture(Protocol):
    """An image that can be written, such as PIL's."""

    def save(self, fp: IO[bytes], /, format: str) -> object: ...


class Run:
    """The state of a run; :func:`start` makes one."""

    def __init__(self, cfg: RunConfig, folder: Path, accelerator: Accelerator, lock: IO[Any] | None) -> None:
        self.folder = folder
        self.total = 0
        """Optimizer steps of all epochs; known once :meth:`steps` has a loader."""
        self._cfg, self._accelerator, self._lock = cfg, accelerator, lock
        self._log = Log(folder if accelerator.is_main_process else None)
        self._report = Report(cfg, folder, accelerator, self._log)
        self._state = TrainState(cfg, folder, accelerator, self._log)
        self._unreadable = BadImages(cfg, folder, accelerator, self._log)
        self._monitor = LossMonitor(accelerator.device, self._describe_batch)
        self._loader: Loader | None = None
        self._labels = ""
        self._end = 0
        self._saved = -1
        self._within = self._pausing = False

    @property
    def step(self) -> int:
        """Optimizer steps done; in the loop's body, with the one that this batch completes."""
        return self._state.step + (self._within and self._accelerator.sync_gradients)

    @property
    def epochs_done(self) -> int:
        """Whole epochs done; in the loop's body, with the one that this batch completes."""
        return (self._state.epoch_after if self._within else self._state.epoch)[0]

    @property
    def ends_epoch(self) -> bool:
        """In the loop's body: whether this batch is the last one of its epoch."""
        return self._state.epoch_after[1] == 0

    def follow(self, followed: F) -> F:
        """The argument, whose state becomes a part of checkpoints; call it before :meth:`prepare`.

        Once it is ``stopped``, training ends after the step, and does not go on at another start.
        """
        self._state.followed = followed
        return followed

    def keep(self, weights: W) -> W:
        """The argument, whose weights commands can read from checkpoints; call it before :meth:`steps`."""
        self._state.weights = weights
        return weights

    def prepare(self, objective: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Hand both to Accelerate, and continue from the run's last checkpoint if it has one.

        With several GPUs, batch norms are first made to see the batches of all of them.

        Raises:
            ConfigError: if the checkpoint was made with other settings.
            DataError: if it is damaged, or of another model.
        """
        self._labels = type(objective).__name__ if isinstance(objective, Averaged | LinearProbe) else ""
        apart = distributed.world() > 1 and has_batch_norm(objective)
        if distributed.world() > 1 and self._accelerator.device.type == "cuda":
            objective = synchronize(objective)
        model, optimizer = self._accelerator.prepare(objective, optimizer)
        resumed = self._state.resume(model, optimizer)
        self._saved = self._state.step if resumed else -1
        self._unreadable.begin(self._state.step if resumed else None)
        self._report.begin(self._state.step if resumed else None, objective)
        self._write_notes()
        if apart and self._accelerator.device.type != "cuda":
            self._report.remark("batch norm", BATCH_NORM.format(world=distributed.world()))
        return model, optimizer

    def steps(self, loader: Loader) -> Iterator[tuple[int, Batch]]:
        """Batches of all epochs from where the run is, each with the number of optimizer steps before it.

        After the body of the loop the step is closed: checkpoints are written at the end of each epoch, every
        ``--save-every`` steps and at the end.  On SIGTERM, SIGINT, SIGUSR1 or the end of its launcher the
        run finishes the step on all ranks, saves and exits with :data:`STOPPED`.

        Raises:
            ConfigError: if the loader has another number of batches or other images than the run had before.
            DataError: if the loader has no batch, or another number than it says, or if more of its images
                are unreadable than ``--max-bad`` allows (found at reports and before checkpoints).
            Diverged: if a loss or a weight is not finite; this never reaches a checkpoint.
            SystemExit: :data:`STOPPED`.
        """
        self.total, self._loader = self._state.plan(loader), loader
        self._end = min(self.total, self._cfg.max_steps or self.total)
        if self._stopped():
            self._end = min(self._end, self._state.step)
        if self._state.step < self._end and self._accelerator.is_main_process:
            (self.folder / RESULTS).unlink(missing_ok=True)  # A finished run that goes on is not finished.
        self._write_notes()
        self._unreadable.open(loader, self._state.step)
        self._report.open(loader, self._state.step, self._end)
        try:
            with self._monitor.signals():
                while self._state.step < self._end:
                    yield from self._epoch(loader)
                if self._saved != self._state.step:
                    self.save()
        finally:
            self._report.shut()

    def _write_notes(self) -> None:
        """Write and show the notes on how the run continues."""
        for note in self._state.notes:
            self._report.event("note", step=self._state.step, text=note)
            self._report.shut(note)
        self._state.notes = []

    def _epoch(self, loader: Loader) -> Iterator[tuple[int, Batch]]:
        epoch, begin = self._state.epoch
        labeled = begin > 0 or not self._labels
        loader.set_epoch(epoch, start=begin)
        for batch in self._batches(loader):
            self._report.batch(len(batch.target))
            labeled = labeled or bool((batch.target >= 0).any())
            self._within = True
            yield self._state.step, batch
            self._within = False
            any_label = torch.full((), float(labeled), device=self._accelerator.device)  # A copy would wait.
            if self._ending and self._labels and not distributed.mean(any_label):
                raise DataError(
                    f"no image of epoch {epoch} had a label, and {self._labels} learns nothing else: all were"
                    " -1, which means unknown; nothing of this epoch was saved; label the images, or take"
                    " other data"
                )
            self._close()
            if self._state.step >= self._end or self._state.epoch[0] > epoch:
                return
        # Ranks must not part ways, so a stream that ends early is read again up to the length that it gave.
        if loader.resumable or self._state.epoch == (epoch, begin):
            raise DataError(
                f"the loader says that it has {len(loader)} batches but ended after {self._state.epoch[1]};"
                " expected the same number in every epoch and on every rank"
            )

    def _batches(self, loader: Loader) -> Iterator[Batch]:
        # A loader may draw from torch's generator when it starts its workers, and a run that is resumed in
        # the middle of an epoch starts them once more than one that was never stopped.
        with torch.random.fork_rng(devices=[]):
            batches = iter(loader)
            batch = next(batches, None)
        self._state.restore_random()
        while batch is not None:
            yield batch
            try:
                batch = next(batches, None)
            except RuntimeError:
                if self._monitor.reason and distributed.world() == 1:
                    self._stop()  # The signal has ended the data workers of this process, too.
                raise

    @property
    def _ending(self) -> bool:
        """True in the body of the last batch of an epoch, or of the run."""
        last = self._accelerator.sync_gradients and self._state.step + 1 >= self._end
        return last or self._state.epoch_after[1] == 0

    def _close(self) -> None:
        """Everything that happens between two batches."""
        ended = self._state.advance(self._accelerator.sync_gradients)
        if self._pausing:
            self._report.resume_clock()
            self._pausing = False
        if not self._accelerator.sync_gradients:
            return
        step, every = self._state.step, self._cfg.save_every
        if (reason := self._stopped()) and step < self._end:
            self._end = step
            self._state.notes.append(f"training ends early, after step {step}: {reason}")
            self._write_notes()
        stopping = self._monitor.step(step)
        self._report.step(step)
        if stopping:
            self._stop()
        if ended or step == self._end or (every and step % every == 0):
            self.save()

    def _stopped(self) -> str:
        """Why training ends early; "" if it does not."""
        return self._state.followed.stopped if self._state.followed is not None else ""

    def _stop(self) -> NoReturn:
        reason = self._monitor.reason or "another rank"
        path = self.save()
        goes_on = resume_command(self.folder / config.FILE, config.typed(self._cfg))
        self._report.event("stopped", step=self._state.step, reason=reason)
        self._report.shut(
            f"stopped by {reason} after step {self._state.step}, saved in {path}",
            f"the same command goes on from there, and so does: {goes_on}",
        )
        if reason == REQUEUE and self._accelerator.is_main_process:
            self._report.shut(*filter(None, [requeue()]))
        # A launcher that sees one process end ends the others, in the midst of what they do.
        self._accelerator.wait_for_everyone()
        self._free()
        raise SystemExit(STOPPED)

    def save(self) -> Path:
        """Write a checkpoint.  All ranks call this together, between two optimizer steps.

        Raises:
            DataError: if too many images are unreadable; nothing is written.
            Diverged: if a loss or a weight is not finite; nothing is written.
            CastError: if the disk is full; earlier checkpoints are whole.
        """
        self._monitor.settle()
        self._unreadable.check(self._state.step)
        path = self._state.save(self._describe_batch)
        self._saved = self._state.step
        return path

    def _describe_batch(self, batches: Sequence[int]) -> str:
        return describe_batch(self._loader, batches, self.folder) if self._loader is not None else ""

    def progress(self, step: int) -> float:
        """The share of all epochs' optimizer steps that ``step`` steps are, 0 to 1."""
        return min(1.0, step / max(1, self.total))

    def every(self, epochs: int) -> bool:
        """True in the body of an epoch's last batch, every so many epochs and at the end; 0 is never."""
        number, begin = self._state.epoch_after
        last = self._accelerator.sync_gradients and self._state.step + 1 >= self._end
        due = epochs > 0 and (last or (begin == 0 and number % epochs == 0))
        self._pausing |= due
        return due

    def finite(self, loss: Tensor) -> Tensor:
        """``loss`` itself, noted: if it is not finite, the loop ends with ``Diverged``.

        The device is not waited for: on a GPU the error comes up to two steps later, and before any save.
        """
        self._monitor.add(loss, self._state.batch)
        self._report.loss(loss)
        return loss

    def report(self, step: int, logs: Mapping[str, Tensor]) -> None:
        """Add a batch's scalars; every ``--log-every`` steps write and show means over batches and ranks.

        Args:
            step: as :meth:`steps` gave it.
            logs: detached scalars; the loss need not be among them.
        """
        self._report.add(logs)
        done = step + 1
        if self._accelerator.sync_gradients and (done % self._cfg.log_every == 0 or done == self._end):
            self._report.write(done, self._state)
            self._unreadable.check(done)

    def note(self, **values: float | str) -> None:
        """Write one line to the log and to the tracker, under the current step."""
        self._report.note(self.step, **values)

    def picture(self, picture: Picture) -> None:
        """Write a picture into ``pictures/``, named after the current step.

        Raises:
            CastError: if it cannot be written; checkpoints are whole.
        """
        if self._accelerator.is_main_process:
            path = self.folder / "pictures" / f"step-{self.step:08d}.png"
            with atomic_write(path, "picture") as aside, open(aside, "wb") as file:
                picture.save(file, format="png")

    def once(self, name: str, make: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """What ``make`` first returned for ``name`` and these evaluation settings; kept in ``once.json``."""
        key, path = name + config.measured_with(self._cfg), self.folder / ONCE
        results: dict[str, dict[str, float]] = broadcast_object_list([read_once(path)])[0]
        # The latest entry is the last one.  An empty one is made again: --knn-every may have been 0 then.
        results[key] = results.pop(key, {}) or dict(make())
        if self._accelerator.is_main_process:
            write_text(path, json.dumps(results, indent=2))
        return results[key]

    def finish(self, *results: object, **metrics: Mapping[str, float]) -> None:
        """End the run, as its last call: print ``results`` (text, or what rich shows) and the folder.

        The metrics, such as ``trained={"knn": 37.6}``, are kept in ``results.json``; the file exists once the
        run is finished.
        """
        if self._accelerator.is_main_process:
            config.save(metrics, self.folder / RESULTS, "results")
        lines = (*self._unreadable.summary(), f"everything lies in {self.folder}")
        self._report.conclude(*results, *lines)
        self._free()

    def _free(self) -> None:
        self._accelerator.end_training()
        self._log.close()
        if self._lock is not None:
            self._lock.close()


def start(cfg: RunConfig, *, name: str | None = None) -> tuple[Run, Accelerator]:
    """The run that ``cfg`` asks for, and the Accelerator to train with.

    All processes begin with the same seed, so that they build the same model; from the first batch on each
    has random streams of its own.

    Args:
        cfg: the recipe's settings.
        name: the recipe's name in the folder's default; by default that of the file that defines ``cfg``.

    Raises:
        ConfigError: before any work, if the folder, the tracker or the precision is not available.
    """
    check_tracker(cfg.track)
    if cfg.start_method != "auto":
        # Of every loader, those of evaluations included.
        multiprocessing.set_start_method(cfg.start_method, force=True)
    folder = folder_of(cfg, name)
    accelerator = make_accelerator(cfg, folder)
    lock = claim(folder, cfg) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    set_seed(cfg.seed)
    if cfg.track != "none":
        start_trackers(accelerator, folder.name, config.plain(cfg))
    return Run(cfg, folder, accelerator, lock), accelerator
