from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

from castssl.models.create import create
from castssl.models.reset import reinitialize


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_every_weight_is_drawn_anew_as_for_a_new_model(positions: Any) -> None:
    torch.manual_seed(0)
    encoder, new = (cast(nn.Module, create("nano", image_size=32, positions=positions)) for _ in range(2))
    with torch.no_grad():
        for part in encoder.parameters():
            if part.requires_grad:
                part.fill_(7.0)
    learnt = {name: value.clone() for name, value in encoder.state_dict().items()}
    drawn = cast(nn.Module, reinitialize(cast(Any, encoder))).state_dict()
    for name, expected in new.state_dict().items():
        spread, middle = float(expected.float().std(correction=0)), float(expected.float().mean())
        assert float(drawn[name].float().std(correction=0)) == pytest.approx(spread, rel=0.4, abs=1e-6), name
        assert float(drawn[name].float().mean()) == pytest.approx(middle, abs=0.1), name
    assert all(torch.equal(value, learnt[name]) for name, value in encoder.state_dict().items())
