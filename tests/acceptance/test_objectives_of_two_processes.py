"""Every objective on two processes, one of which has no label at a level: one process's gradients."""

from __future__ import annotations

import pytest
import torch

from castssl import registry
from castssl.testing.processes import together
from tests.acceptance import two_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> two_ranks.Found:
    path = tmp_path_factory.mktemp("two") / "found.pt"
    together(two_ranks.work, str(path))
    loaded: two_ranks.Found = torch.load(path, weights_only=True)
    return loaded


def test_every_installed_objective_is_tried() -> None:
    installed = {entry.name for entry in registry.names("objectives")} - {"template"}
    assert installed <= {spec.partition(":")[0] for spec in two_ranks.SPECS.values()}


@pytest.mark.distributed
@pytest.mark.parametrize("hidden", [1, 0])
@pytest.mark.parametrize("name", two_ranks.SPECS)
def test_two_processes_have_the_gradient_of_one(name: str, hidden: int, found: two_ranks.Found) -> None:
    objective = two_ranks.make(two_ranks.SPECS[name])
    loss = objective(two_ranks.both(objective, hidden=hidden)).loss
    torch.autograd.backward(loss)
    got = found[f"{name}-{hidden}"]
    torch.testing.assert_close(got["loss"], loss.detach(), rtol=1e-4, atol=1e-5)
    expected = two_ranks.gradients(objective)
    assert expected.keys() == got["gradients"].keys()
    size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    apart = [(got["gradients"][key] - gradient).norm() for key, gradient in expected.items()]
    assert size > 0
    assert float(torch.stack(apart).norm() / size) < 1e-3
