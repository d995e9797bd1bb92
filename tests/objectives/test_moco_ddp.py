"""Two processes through Accelerate see the loss and the gradients of one with the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import forked

SCRIPT = Path(__file__).with_name("ddp_step.py")


def run(path: Path, processes: int) -> dict[str, torch.Tensor]:
    done = forked.run([str(SCRIPT), str(path)], processes=processes, environment={"GLOO_SOCKET_IFNAME": "lo"})
    assert done.returncode == 0, done.stderr[-3000:]
    saved: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return saved


@pytest.mark.distributed
def test_loss_and_gradients_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one.pt", 1), run(tmp_path / "two.pt", 2)
    assert [int(result.pop("world")) for result in (one, two)] == [1, 2]
    assert one.keys() == two.keys()
    assert len(one) > 50
    for name, expected in one.items():
        assert torch.allclose(two[name], expected, atol=1e-6, rtol=1e-4), name
