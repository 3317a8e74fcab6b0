"""How networks are called: leading dimensions, precision, and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pp_simve.models import apply_network, network_precision


class Recorder(nn.Module):
    """Knows exactly one batch dimension, as a user's own network does, and what precision it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.seen: tuple[int, ...] = ()
        self.ran_in: torch.dtype | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        batch, width = inputs.shape
        self.seen = (batch, width)
        outputs: Tensor = self.linear(inputs)
        self.ran_in = outputs.dtype
        return outputs.view(batch, 2, 3)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (3, 2, 5), (3, 1, 5)])
def test_leading_dimensions_are_flattened_for_the_network_and_put_back(leading: tuple[int, ...]) -> None:
    network = Recorder()
    inputs = torch.randn(*leading, 4)
    outputs = apply_network(network, inputs, event_dim=1)
    assert network.seen == (torch.Size(leading).numel(), 4)
    assert torch.equal(outputs, network(inputs.reshape(-1, 4)).view(*leading, 2, 3))


def test_without_a_precision_the_result_is_that_of_a_plain_call_bit_for_bit() -> None:
    network, inputs = Recorder(), torch.randn(7, 4)
    plain = network(inputs)
    assert torch.equal(apply_network(network, inputs, event_dim=1), plain)
    with network_precision(None):
        assert torch.equal(apply_network(network, inputs, event_dim=1), plain)


def test_networks_run_in_the_ambient_precision_and_answer_in_the_inputs() -> None:
    network, inputs = Recorder(), torch.randn(2, 7, 4)
    with network_precision(torch.bfloat16):
        outputs = apply_network(network, inputs, event_dim=1)
        assert network.ran_in == torch.bfloat16
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, apply_network(network, inputs, event_dim=1), rtol=0.03, atol=0.03)
    assert network.ran_in == torch.float32


def test_precision_contexts_nest_and_end_with_an_error() -> None:
    network, inputs = Recorder(), torch.randn(7, 4)
    with network_precision(torch.bfloat16):
        with network_precision(None):
            apply_network(network, inputs, event_dim=1)
            assert network.ran_in == torch.float32
        apply_network(network, inputs, event_dim=1)
        assert network.ran_in == torch.bfloat16
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), network_precision(torch.bfloat16):
        apply_network(network, inputs[:, :3], event_dim=1)
    apply_network(network, inputs, event_dim=1)
    assert network.ran_in == torch.float32


def test_gradients_through_low_precision_networks_are_float32() -> None:
    network, inputs = Recorder(), torch.randn(7, 4)
    with network_precision(torch.bfloat16):
        apply_network(network, inputs, event_dim=1).square().sum().backward()
    gradient = network.linear.weight.grad
    assert gradient.dtype == torch.float32
    assert bool(torch.isfinite(gradient).all())
