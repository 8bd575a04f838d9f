"""The recurrent layers' own training on a CPU: the equations and gradients of torch's, by whatever route."""

import pytest
import torch
from torch import Tensor

from students.recurrent import Gru, GruSequence

LENGTHS = (None, [9, 4, 1])


def gru(dtype: torch.dtype, n_layers: int = 2, bidirectional: bool = True) -> Gru:
    return Gru(6, 5, n_layers, batch_first=True, bidirectional=bidirectional, dtype=dtype)


def with_gradients(layer: torch.nn.Module, x: Tensor, lengths: Tensor | None, by_hand: bool) -> list[Tensor]:
    """Outputs, and the gradients of the inputs and of all parameters, of a loss on the valid frames."""
    layer.by_hand = by_hand
    x = x.clone().requires_grad_()
    outputs = layer(x, lengths)
    if lengths is not None:
        outputs = outputs.masked_fill((torch.arange(x.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(2), 0.0)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    loss = (outputs.float() * weights).sum() if outputs.dtype != torch.float64 else (outputs * weights.double()).sum()
    return [outputs, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.mark.parametrize("n_directions", [1, 2])
def test_gru_gradients_are_those_of_its_outputs(n_directions: int) -> None:
    x = torch.randn(n_directions, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    shapes = [(6, 3), (6, 2), (6,), (6,)] * n_directions
    parameters = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GruSequence.apply, (x, *parameters))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gru_equals_torch_s(
    dtype: torch.dtype, tolerance: float, bidirectional: bool, lengths: list[int] | None
) -> None:
    torch.manual_seed(0)
    layer, x = gru(dtype, bidirectional=bidirectional), torch.randn(3, 9, 6, dtype=dtype)
    lengths = None if lengths is None else torch.tensor(lengths)
    for found, expected in zip(
        with_gradients(layer, x, lengths, by_hand=True),
        with_gradients(layer, x, lengths, by_hand=False),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
