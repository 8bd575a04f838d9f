"""The recurrent layers' own training on a CPU: outputs and gradients are torch's, by another route."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from students import build_student, fused
from students.networks.lstm_p import PeepholeLstm, PeepholeLstmSequence
from students.recurrent import Gru, GruSequence, has_numba

LAYERS = {
    "gru": lambda dtype: Gru(6, 5, 2, batch_first=True, dtype=dtype),
    "bidirectional": lambda dtype: Gru(6, 5, 2, batch_first=True, bidirectional=True, dtype=dtype),
    "peephole_lstm": lambda dtype: PeepholeLstm(6, 5, 3).to(dtype),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@pytest.fixture(params=["frame by frame", "compiled whole"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both loops over frames of a GRU in bfloat16, of which a CPU without AMX has but the first."""
    whole = request.param == "compiled whole"
    if whole and not fused.HAS_GEMM:
        pytest.skip("needs a CPU with AMX, and a torch with MKL")
    monkeypatch.setattr(fused, "HAS_GEMM", whole)


def with_gradients(layer: nn.Module, x: Tensor, lengths: Tensor | None, by_hand: bool) -> list[Tensor]:
    """The valid outputs, and the gradients of the inputs and of all parameters for a loss of them."""
    layer.by_hand = by_hand
    x = x.clone().requires_grad_()
    outputs = layer(x, lengths) if isinstance(layer, Gru) else layer(x.transpose(1, 2))
    if lengths is not None:
        outputs = outputs.masked_fill((torch.arange(x.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(2), 0.0)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return [outputs.detach(), *torch.autograd.grad((outputs * weights).sum(), [x, *layer.parameters()])]


def worst_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error among tensors, each by its norm."""
    pairs = zip(found, expected, strict=True)
    return max(float((one.float() - other.float()).norm() / other.float().norm()) for one, other in pairs)


@pytest.mark.parametrize("n_frames", [1, 4])
def test_gru_gradients_are_those_of_its_outputs(n_frames: int) -> None:
    shapes = [(n_frames, 2, 3), (6, 3), (6, 2), (6,), (6,)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GruSequence.apply, tensors)


@pytest.mark.parametrize("n_frames", [1, 4])
def test_peephole_lstm_gradients_are_those_of_its_outputs(n_frames: int) -> None:
    shapes = [(n_frames, 2, 3), (8, 5), (8,), (3, 2), (2, 2)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(PeepholeLstmSequence.apply, tensors)


@every_layer
@pytest.mark.parametrize("lengths", [None, [23, 11, 1]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_training_equals_torch_s(
    make: Callable, dtype: torch.dtype, tolerance: float, lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded clips too, where torch's GRU is given packed ones; however the frames fall into blocks."""
    torch.manual_seed(0)
    layer, x = make(dtype), torch.randn(3, 23, 6, dtype=dtype)
    lengths = None if lengths is None else torch.tensor(lengths)
    expected = with_gradients(layer, x, lengths, by_hand=False)
    for block_rows in (1, 12, 1000):
        monkeypatch.setattr("students.recurrent.BLOCK_ROWS", block_rows)
        for found, reference in zip(with_gradients(layer, x, lengths, by_hand=True), expected, strict=True):
            torch.testing.assert_close(found, reference, rtol=tolerance, atol=tolerance)


@every_layer
@pytest.mark.parametrize("bfloat16", [False, True])
def test_without_onednn_it_is_the_same(make: Callable, bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, or with a torch, that lacks it."""
    monkeypatch.setattr(fused, "HAS_GEMM", False)
    torch.manual_seed(0)
    layer, x = make(torch.float32), torch.randn(3, 23, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        expected = with_gradients(layer, x, None, by_hand=True)
        with torch.backends.mkldnn.flags(enabled=False):
            found = with_gradients(layer, x, None, by_hand=True)
    assert worst_error(found, expected) < (0.01 if bfloat16 else 1e-5)


@every_layer
@pytest.mark.usefixtures("loop")
def test_bfloat16_is_no_worse_than_torch_s(make: Callable) -> None:
    """Under autocast: within 1 % of float32, and no further from it than autocast brings torch's own layers."""
    torch.manual_seed(0)
    layer, x = make(torch.float32), torch.randn(8, 50, 6)
    exact = with_gradients(layer, x, None, by_hand=False)
    with torch.autocast("cpu", torch.bfloat16):
        ours, torch_s = (with_gradients(layer, x, None, by_hand) for by_hand in (True, False))
    assert worst_error(ours, exact) < 0.01
    assert worst_error(ours, exact) < 1.1 * worst_error(torch_s, exact)


@pytest.mark.usefixtures("loop")
def test_bfloat16_at_a_student_s_size() -> None:
    """Where products fill the tiles of AMX, and a batch more than one of them."""
    torch.manual_seed(0)
    layer, x = Gru(20, 128, 2, batch_first=True, bidirectional=True), torch.randn(37, 50, 20)
    lengths = torch.randint(1, 51, (37,))
    exact = with_gradients(layer, x, lengths, by_hand=False)
    with torch.autocast("cpu", torch.bfloat16):
        ours = with_gradients(layer, x, lengths, by_hand=True)
    assert worst_error(ours, exact) < 0.01


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", ["lstm_p", "crnn", "att_rnn"])
@pytest.mark.usefixtures("loop")
def test_two_runs_differ_in_no_bit(name: str, bfloat16: bool) -> None:
    torch.manual_seed(0)
    student, features = build_student(name, 12), torch.randn(4, 40, 60)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)  # the same dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = student(features, torch.tensor([60, 31, 60, 7])).logits
        runs.append([logits, *torch.autograd.grad(logits.float().square().sum(), student.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@every_layer
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.usefixtures("loop")
def test_what_is_too_large_saturates_and_what_is_no_number_stays_none(make: Callable, bfloat16: bool) -> None:
    """As in torch: a training whose loss is not finite has to be told."""
    torch.manual_seed(0)
    layer, x = make(torch.float32), 1e5 * torch.randn(3, 23, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        large = with_gradients(layer, x, None, by_hand=True)
        expected = with_gradients(layer, x, None, by_hand=False)
        x[1, 11, 2] = torch.nan
        outputs, *gradients = with_gradients(layer, x, None, by_hand=True)
    assert all(found.isfinite().all() for found in large)
    torch.testing.assert_close(large[0], expected[0].float(), rtol=0.02, atol=0.02)
    assert outputs[1, 11:].isnan().all()
    assert outputs[[0, 2]].isfinite().all()
    assert outputs[1, :11].isfinite().all() or getattr(layer, "bidirectional", False)
    assert all(gradient.isnan().any() for gradient in gradients)


@every_layer
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.usefixtures("loop")
def test_gradients_that_fade_end_at_zero(make: Callable, bfloat16: bool) -> None:
    """Not among subnormal numbers, which for a loss of a long clip's last frame would slow most of its frames."""
    torch.manual_seed(0)
    layer, x = make(torch.float32), torch.randn(3, 6, 400)
    x = (x.transpose(1, 2) if isinstance(layer, Gru) else x).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        outputs = layer(x)
    dx = torch.autograd.grad(outputs[:, -1].sum(), x)[0]
    dx = dx if isinstance(layer, Gru) else dx.transpose(1, 2)
    sizes = dx.abs().amax((0, 2))  # of a frame's gradients
    assert sizes[-1] > 1e-3
    if isinstance(layer, PeepholeLstm) or not layer.bidirectional:
        assert sizes[0] == 0
    assert not ((dx != 0) & (dx.abs() < torch.finfo(torch.float32).tiny)).any()


@every_layer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_left_to_torch(make: Callable, dtype: torch.dtype) -> None:
    """float16 under autocast, which numba does not know, and states in half precision."""
    torch.manual_seed(0)
    layer, x = make(torch.float32), torch.randn(3, 23, 6)
    if dtype == torch.float16:
        with torch.autocast("cpu", dtype):
            found, expected = (with_gradients(layer, x, None, by_hand) for by_hand in (True, False))
    else:
        found, expected = (with_gradients(layer.to(dtype), x.to(dtype), None, by_hand) for by_hand in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@every_layer
def test_numba_that_does_not_compile_is_not_asked(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NUMBA_DISABLE_JIT the loops would be Python's, and parts of them have no body there."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    has_numba.cache_clear()
    try:
        torch.manual_seed(0)
        layer, x = make(torch.float32), torch.randn(2, 4, 6)
        expected = with_gradients(layer, x, None, by_hand=False)
        assert all(map(torch.equal, with_gradients(layer, x, None, by_hand=True), expected))
    finally:
        has_numba.cache_clear()


def test_code_that_cannot_be_kept_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither the package's folder nor the user's can be written to."""

    def nowhere(*_: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.caching.CacheImpl.__init__", nowhere)
    doubled = fused.compiled(lambda x: x + x)
    assert doubled(21) == 42


@every_layer
def test_outputs_need_no_gradient(make: Callable) -> None:
    """Inputs without gradients, and training mode without any, give the same outputs."""
    layer, x = make(torch.float32), torch.randn(3, 23, 6)
    argument = x if isinstance(layer, Gru) else x.transpose(1, 2)
    outputs = layer(argument)
    outputs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    with torch.no_grad():
        assert torch.equal(layer(argument), outputs)
    torch.testing.assert_close(layer.eval()(argument), outputs)


def test_it_is_torch_s_gru_to_who_loads_it() -> None:
    ours, theirs = LAYERS["bidirectional"](torch.float32), nn.GRU(6, 5, 2, batch_first=True, bidirectional=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 7, 6)
    assert isinstance(ours, nn.GRU)
    assert torch.equal(ours.eval()(x), theirs.eval()(x)[0])
