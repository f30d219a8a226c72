"""The parts of a block on their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from stiv.layers import gelu


def test_gelu_is_in_place_only_where_no_gradient_needs_its_input() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted, activation = F.gelu(x, approximate="tanh"), gelu()
    learning = x.clone().requires_grad_()
    out = activation(learning * 1)
    torch.testing.assert_close(out, wanted)
    assert torch.autograd.gradcheck(lambda x: activation(x * 1), learning)
    with torch.no_grad():
        given = learning * 1
        assert activation(given).data_ptr() == given.data_ptr()
    given = x.clone()
    assert activation(given) is given
    torch.testing.assert_close(given, wanted)
