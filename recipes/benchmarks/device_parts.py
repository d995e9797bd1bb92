"""Parts of castssl on a device, each compared with a CPU, one process or float32; for device.py.

    python recipes/benchmarks/device_parts.py --part fp16
    python -m torch.distributed.run --standalone --nproc-per-node 2 recipes/benchmarks/device_parts.py \
        --part sync-bn

A part prints its figure as the last line, or ends with what was wrong.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

import castssl
from castssl.config import launch
from castssl.contracts import Encoder
from castssl.devices import check_device
from castssl.errors import CastError
from castssl.models.fuse import masked_batch_norm
from castssl.registry import build

LARGEST = {"fp32": 0.05, "fp16": 0.05, "bf16": 0.1, "compile": 0.05}
"""Largest distance of a class token, or with fp32 of the gradient, from the expected one, as a share of
its length. A centroid that rounding selects in place of another one changes a token by about 0.01."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Run one part."""

    part: Literal["collectives", "sync-bn", "fp32", "fp16", "bf16", "device-slic", "compile"]
    """What to run."""
    device: str = "cuda"
    """What to run it on; a process of several takes the GPU of its number."""
    model: str = "cast_small"
    """The model of fp32, fp16, bf16 and compile."""
    image_size: int = 224
    """Side of the images in pixels."""
    batch: int = 64
    """Images of one pass."""


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The shortest of some rounds, after one that does not count."""
    took = []
    for _ in range(1 + rounds):
        settle(device)
        began = time.perf_counter()
        call()
        settle(device)
        took.append(time.perf_counter() - began)
    return 1e3 * min(took[1:])


def require(holds: bool, message: str) -> None:
    """Raise a :class:`CastError` unless it holds."""
    if not holds:
        raise CastError(message)


def collectives(cfg: Config, device: torch.device) -> str:
    """Sums with gradient, gathering and broadcasting over the processes, and the time of a large sum."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = torch.full((3,), float(rank + 1), device=device, requires_grad=True)
    total = all_reduce(mine * 2)
    total.sum().backward()
    expected = float(world * (world + 1))
    require(total.tolist() == [expected] * 3, f"the sum is {total.tolist()}, expected {expected}")
    assert mine.grad is not None
    # Each process has its own loss, and the sum of a process is a part of all of them.
    require(mine.grad.tolist() == [2.0 * world] * 3, f"its gradient is {mine.grad.tolist()}")
    parts = [torch.empty(2, device=device) for _ in range(world)]
    dist.all_gather(parts, torch.full((2,), float(rank), device=device))
    gathered = torch.stack(parts)[:, 0].tolist()
    require(gathered == list(map(float, range(world))), f"gathered {gathered} of {world} processes")
    first = torch.full((2,), float(rank), device=device)
    dist.broadcast(first, 0)
    require(not first.any(), f"process {rank} got {first.tolist()} from process 0")
    mebibytes = 64 if device.type == "cuda" else 4
    large = torch.zeros(mebibytes * 2**18, device=device)
    took = milliseconds(lambda: dist.all_reduce(large), device)
    name = dist.get_backend()
    version = ".".join(map(str, torch.cuda.nccl.version())) if name == "nccl" else ""
    return f"{name} {version}, {world} processes, sum of {mebibytes} MiB in {took:.2f} ms".replace(" ,", ",")


def sync_bn(cfg: Config, device: torch.device) -> str:
    """SyncBatchNorm over the processes, also with masked rows, against batch norm over all rows in one."""
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(world, 4, 6, 8, generator=generator, dtype=torch.float64) * 3 + 1
    valid = torch.rand(world, 4, 6, generator=generator) < 0.7
    worst = 0.0
    for masked in (False, True):
        whole = nn.BatchNorm1d(8).double().to(device)
        parted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(8).double().to(device))
        assert isinstance(parted, nn.SyncBatchNorm)
        every, own = rows.flatten(0, 1).to(device), rows[rank].to(device).requires_grad_()
        if masked:
            expected = masked_batch_norm(every, valid.flatten(0, 1).to(device), whole)
            found = masked_batch_norm(own, valid[rank].to(device), parted)
        else:
            expected = whole(every.transpose(1, 2)).transpose(1, 2)
            found = parted(own.transpose(1, 2)).transpose(1, 2)
        found.square().sum().backward()
        pairs = [
            (found, expected.view(world, 4, 6, 8)[rank]),
            *zip(parted.buffers(), whole.buffers(), strict=True),
        ]
        apart = max(float((one - other).detach().abs().max()) for one, other in pairs)
        require(apart < 1e-6, f"{'masked ' * masked}batch norm of {world} processes is {apart:.2g} off")
        require(own.grad is not None and bool(own.grad.isfinite().all()), "the gradient is not finite")
        worst = max(worst, apart)
    return f"{world} processes, largest difference {worst:.1g}"


def encode(cfg: Config, device: torch.device) -> tuple[Encoder, castssl.View]:
    """A model with new weights in evaluation mode, and random images with a grid for superpixels."""
    torch.manual_seed(0)
    encoder = castssl.create(cfg.model, image_size=cfg.image_size).eval().to(device)
    side = math.isqrt(encoder.sizes[0])
    cell = torch.arange(cfg.image_size) * side // cfg.image_size
    segments = (cell[:, None] * side + cell).int().repeat(cfg.batch, 1, 1)
    images = torch.randn(cfg.batch, 3, cfg.image_size, cfg.image_size)
    return encoder, castssl.View(images.to(device), segments.to(device))


def last(encoder: Encoder, view: castssl.View) -> Tensor:
    """Class tokens of the last stage that has them, float32 (B, D)."""
    return encoder(view).stages[encoder.stages_with_cls - 1].cls.float().flatten(1)


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest distance of a row, as a share of its length."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def loss(rows: Tensor) -> Tensor:
    """A scalar with gradients: the mean square of all that the last layer norm returns would always be 1."""
    return rows[:, ::2].square().mean()


def gradient(encoder: Encoder) -> Tensor:
    """The gradient of all parameters that have one, on a processor (1, N)."""
    return torch.cat([p.grad.flatten().cpu() for p in encoder.parameters() if p.grad is not None])[None]


def single(cfg: Config, device: torch.device) -> str:
    """Class tokens and gradients in float32 against those of a processor, for at most eight images."""
    encoder, view = encode(replace(cfg, batch=min(cfg.batch, 8)), torch.device("cpu"))
    copied = deepcopy(encoder).to(device)
    there = castssl.View(view.image.to(device), view.segments.to(device))
    rows, expected = last(copied, there), last(encoder, view)
    (loss(rows).cpu() + loss(expected)).backward()
    error = distance(rows.detach().cpu(), expected.detach())
    slope = distance(gradient(copied), gradient(encoder))
    apart = f"class tokens are {error:.2g}, the gradient is {slope:.2g} off"
    require(max(error, slope) <= LARGEST["fp32"], f"{apart} those of a processor")
    return f"{cfg.model}: error {error:.1g}, of the gradient {slope:.1g}"


def half(cfg: Config, device: torch.device) -> str:
    """Class tokens in half precision against float32, finite gradients, and the gain in time."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[cfg.part]
    encoder, view = encode(cfg, device)

    def run() -> Tensor:
        with torch.autocast(device.type, dtype):
            return last(encoder, view)

    with torch.no_grad():
        error = distance(run(), last(encoder, view))
        ratio = milliseconds(run, device, 2) / milliseconds(lambda: last(encoder, view), device, 2)
    require(error <= LARGEST[cfg.part], f"class tokens are {error:.2g} off float32")
    encoder.train()
    (loss(run()) * 1024).backward()  # As a scaler would, so that fp16 keeps small gradients.
    require(bool(gradient(encoder).isfinite().all()), "a gradient is not finite")
    return f"{cfg.model}: error {error:.1g}, {ratio:.2f} of the time in fp32"


def compiled(cfg: Config, device: torch.device) -> str:
    """Class tokens of the compiled model against eager ones, and the gain in time."""
    encoder, view = encode(cfg, device)
    fast: Any = torch.compile(encoder)
    at = encoder.stages_with_cls - 1
    with torch.no_grad():
        eager = last(encoder, view)
        error = distance(fast(view).stages[at].cls.float().flatten(1), eager)
        ratio = milliseconds(lambda: fast(view), device, 2) / milliseconds(lambda: encoder(view), device, 2)
    require(error <= LARGEST["compile"], f"class tokens are {error:.2g} off eager ones")
    return f"{cfg.model}: error {error:.1g}, {ratio:.2f} of the eager time"


def device_slic(cfg: Config, device: torch.device) -> str:
    """Superpixels of smooth random images on the device against those on a processor."""
    slic = build("superpixels", "device-slic:count=196")
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(cfg.batch, 3, 14, 14, generator=generator)
    smooth = nn.functional.interpolate(small, size=(cfg.image_size,) * 2, mode="bicubic").clamp(0, 1)
    images = (smooth * 255).to(torch.uint8)
    there = images.to(device)
    found = slic(there)
    require(bool((found == slic(there)).all()), "the same images have other superpixels the second time")
    few = min(cfg.batch, 8)
    same = float((slic(images[:few]) == found[:few].cpu()).float().mean())
    require(same > 0.99, f"{1 - same:.1%} of the pixels have another superpixel than on a processor")
    took = milliseconds(lambda: slic(there), device) / cfg.batch
    return f"{took:.3f} ms per image, {same:.2%} of the pixels as on a processor"


PARTS = {"collectives": collectives, "sync-bn": sync_bn, "fp32": single, "fp16": half, "bf16": half}
PARTS |= {"device-slic": device_slic, "compile": compiled}


def main(cfg: Config) -> None:
    """Run the part, and print its figure."""
    device = torch.device(check_device(cfg.device))
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    together = cfg.part in ("collectives", "sync-bn")
    if together:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    figure = PARTS[cfg.part](cfg, device)
    if not together or dist.get_rank() == 0:
        print(figure)
    if together:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    launch(main, Config)
