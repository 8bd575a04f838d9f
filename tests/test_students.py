"""What being a student means, for every student in the registry."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from students import STUDENTS, Student, StudentOutput, build_student, count_parameters
from students.masking import MaskedBatchNorm
from students.networks.ds_tc_resnet import MatchboxNet

N_CLASSES = 12
N_MELS = 40

WITH_ATTENTION = ("att_rnn", "mhatt_rnn", "kwt_1")

every_student = pytest.mark.parametrize("name", list(STUDENTS))


def log_mel(batch: int, n_frames: int) -> torch.Tensor:
    """(batch, N_MELS, n_frames): noise at the level of natural-log mel energies of speech."""
    return 3.0 * torch.randn(batch, N_MELS, n_frames) - 4.0


def has_batch_norm(name: str) -> bool:
    return any("running_mean" in key for key in build_student(name, N_CLASSES).state_dict())


def count_trained(student: Student) -> int:
    return sum(parameter.numel() for parameter in student.parameters())


def settled(name: str) -> Student:
    """A student in evaluation mode whose BatchNorm statistics come from data, not from initialisation."""
    student = build_student(name, N_CLASSES, N_MELS)
    with torch.no_grad():
        student(log_mel(4, 40))
    return student.eval()


@every_student
def test_shapes_are_those_promised(name: str) -> None:
    student = build_student(name, N_CLASSES, N_MELS)
    output = student(log_mel(3, 50))
    n_frames = student.student_lengths(50)
    assert isinstance(output, StudentOutput)
    assert output.logits.shape == (3, N_CLASSES)
    assert output.frames.shape == (3, n_frames, student.n_channels)
    assert output.lengths.tolist() == [n_frames] * 3
    assert output.lengths.dtype == torch.int64
    assert output.logits.dtype == output.frames.dtype == torch.float32
    assert output.logits.isfinite().all()
    assert output.frames.isfinite().all()


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_attention_is_a_distribution_over_valid_frames(name: str) -> None:
    attention = settled(name)(log_mel(3, 50), torch.tensor([50, 20, 1])).attention
    assert attention.shape == (3, 50)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(1), torch.ones(3))
    assert (attention[1, 20:] == 0).all()
    assert attention[2, 0] == 1


@pytest.mark.parametrize("name", [name for name in STUDENTS if name not in WITH_ATTENTION])
def test_students_without_attention_claim_none(name: str) -> None:
    assert build_student(name, N_CLASSES)(log_mel(2, 10)).attention is None


@every_student
@pytest.mark.parametrize("lengths", [None, [30, 30, 30], [30, 17, 9]])
def test_every_parameter_gets_a_gradient(name: str, lengths: list[int] | None) -> None:
    student = build_student(name, N_CLASSES)
    student(log_mel(3, 30), None if lengths is None else torch.tensor(lengths)).logits.square().sum().backward()
    for parameter_name, parameter in student.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@every_student
def test_distilling_reaches_the_frames_alone(name: str) -> None:
    """A loss on `frames` is enough to train whatever stands before them."""
    student = build_student(name, N_CLASSES)
    student(log_mel(3, 30)).frames.square().sum().backward()
    assert next(student.parameters()).grad.abs().sum() > 0


@every_student
def test_same_seed_gives_same_weights(name: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build_student(name, N_CLASSES).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@every_student
def test_saved_weights_restore_the_student_strictly(name: str) -> None:
    student, features = settled(name), log_mel(2, 20)
    restored = build_student(name, N_CLASSES).eval()
    restored.load_state_dict(student.state_dict(), strict=True)
    assert torch.equal(restored(features).logits, student(features).logits)


@every_student
def test_the_front_end_is_neither_trained_nor_saved(name: str) -> None:
    student = build_student(name, N_CLASSES)
    assert not [key for key in student.state_dict() if key.startswith("mfcc")]
    assert not list(student.mfcc.parameters())


@pytest.mark.parametrize(
    ("name", "n_classes", "keras_count", "trainable"),
    [
        ("lstm_p", 12, 545_912, 545_912),
        ("lstm_p", 200, 583_700, 583_700),
        ("tc_resnet", 12, 366_894, 365_274),
        ("tc_resnet", 200, 380_618, 378_998),
        ("crnn", 12, 467_772, 467_772),
        ("crnn", 200, 516_088, 516_088),
        ("att_rnn", 12, 496_519, 496_497),
        ("att_rnn", 200, 502_723, 502_701),
        ("mhatt_rnn", 12, 743_047, 743_025),
        ("mhatt_rnn", 200, 749_251, 749_229),
        ("tc_resnet8", 12, 65_836, 65_180),
        ("tc_resnet14_1.5", 12, 304_620, 303_012),
        ("ds_tc_resnet", 12, 73_220, 71_684),
        ("ds_tc_resnet", 35, 76_187, 74_651),
        ("bc_resnet_1", 12, 11_648, 9_232),
        ("bc_resnet_2", 12, 32_116, 27_284),
        ("bc_resnet_3", 12, 61_416, 54_168),
        ("bc_resnet_6", 12, 202_308, 187_812),
        ("bc_resnet_8", 12, 340_396, 321_068),
    ],
)
def test_sizes_are_the_published_ones(name: str, n_classes: int, keras_count: int, trainable: int) -> None:
    """Exactly where papers state numbers, within their rounding where they round; each class says which it counts."""
    student = build_student(name, n_classes)
    assert count_parameters(student) == keras_count
    assert count_trained(student) == trainable


@pytest.mark.parametrize(
    ("name", "n_classes", "other_convention"),
    [
        ("lstm_p", 12, 547_912),  # one bias vector in Keras and here; torch.nn.LSTM has two of 4 x 500
        ("lstm_p", 200, 585_700),
        ("crnn", 12, 467_004),  # two in Keras (reset_after), torch and here; the GRU that resets before has one
        ("crnn", 200, 515_320),
        ("att_rnn", 12, 494_983),
        ("att_rnn", 200, 501_187),
        ("mhatt_rnn", 12, 741_511),
        ("mhatt_rnn", 200, 747_715),
    ],
)
def test_sizes_under_the_other_convention_of_biases(name: str, n_classes: int, other_convention: int) -> None:
    student = build_student(name, n_classes)
    recurrent = sum(value.numel() for key, value in student.state_dict().items() if "gru.bias_hh" in key)
    second = -recurrent if recurrent else student.lstm.bias.numel()
    assert count_parameters(student) + second == other_convention


def test_matchboxnet_has_its_published_size_on_its_published_features() -> None:
    """93 K (arXiv 2004.08531, table 1) with 64 coefficients and 30 classes; a rate of repeats 1 gives its 77 K."""

    class Published(MatchboxNet):
        n_mfcc = 64

    class Single(Published):
        blocks_table = tuple(size._replace(n_repeats=1) for size in MatchboxNet.blocks_table)

    assert count_trained(Published(30, 64)) == 92_766
    assert count_trained(Single(30, 64)) == 77_214


def test_kwt_has_its_published_size_with_learned_positions() -> None:
    """607 K (arXiv 2104.00769, table 1), of which positions for 98 frames and the class token are not here."""
    assert count_parameters(build_student("kwt_1", 12)) + 99 * 64 == 607_308


@every_student
@settings(max_examples=8, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(7, 40), min_size=1, max_size=4), padding=st.integers(1, 9), data=st.data())
def test_padding_changes_nothing(name: str, lengths: list[int], padding: int, data: st.DataObject) -> None:
    """A clip scores the same alone as in a batch padded with anything, NaN included; its frames are 0 beyond."""
    garbage = data.draw(st.sampled_from([0.0, 1e4, float("inf"), float("nan")]))
    torch.manual_seed(0)
    student = settled(name).double()
    clips = [log_mel(1, length).double() for length in lengths]
    batch = torch.full((len(clips), N_MELS, max(lengths) + padding), garbage, dtype=torch.float64)
    for row, clip in zip(batch, clips, strict=True):
        row[:, : clip.shape[2]] = clip[0]
    with torch.no_grad():
        together = student(batch, torch.tensor(lengths))
        for i, clip in enumerate(clips):
            alone = student(clip)
            n_frames = int(alone.lengths)
            assert together.lengths[i] == n_frames
            torch.testing.assert_close(together.logits[i], alone.logits[0], rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(together.frames[i, :n_frames], alone.frames[0], rtol=1e-9, atol=1e-10)
            assert (together.frames[i, n_frames:] == 0).all()
            if alone.attention is not None:
                torch.testing.assert_close(together.attention[i, :n_frames], alone.attention[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in STUDENTS if has_batch_norm(name)])
def test_padding_does_not_enter_training_statistics(name: str) -> None:
    features = log_mel(2, 24).double()
    longer = torch.cat([features, torch.full((2, N_MELS, 16), 5.0, dtype=torch.float64)], 2)
    short = build_student(name, N_CLASSES).double()
    long = deepcopy(short)
    for student, arguments in ((short, (features,)), (long, (longer, torch.tensor([24, 24])))):
        torch.manual_seed(1)  # the same dropout
        student(*arguments)
    for (key, expected), found in zip(short.state_dict().items(), long.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=key)


def test_moving_statistics_are_plain_means_at_first_then_moving_averages() -> None:
    norm, mean, variance = MaskedBatchNorm(3, momentum=0.25), torch.zeros(3), torch.zeros(3)
    for step in range(1, 9):
        x = torch.randn(4, 3, 5) * step + step
        share = max(0.25, 1 / step)
        mean = (1 - share) * mean + share * x.mean((0, 2))
        variance = (1 - share) * variance + share * x.var((0, 2))
        norm(x)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)


def test_one_value_a_channel_is_normalised_by_the_moving_statistics() -> None:
    norm = MaskedBatchNorm(3)
    norm(torch.randn(4, 3, 5))
    x, state = torch.randn(1, 3, 1), deepcopy(norm.state_dict())
    torch.testing.assert_close(norm(x), deepcopy(norm).eval()(x))
    assert all(torch.equal(value, state[key]) for key, value in norm.state_dict().items())


@every_student
def test_lengths_that_say_nothing_are_padded_change_no_bit(name: str) -> None:
    student, features = settled(name), log_mel(2, 20)
    assert torch.equal(student(features, torch.tensor([20, 20])).logits, student(features).logits)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.gru:UserWarning")  # torch's, about its own nn.GRU
@every_student
def test_exports_without_python(name: str) -> None:
    """Without lengths no branch depends on data: torch.export takes the student whole and agrees with it."""
    student, features = settled(name), log_mel(1, 12)
    exported = torch.export.export(student, (features,)).module()
    torch.testing.assert_close(exported(features).logits, student(features).logits)


def test_shortest_clip_of_each_student_is_accepted_and_a_shorter_one_refused() -> None:
    for student in map(settled, STUDENTS):
        assert student(log_mel(1, student.min_frames)).lengths.tolist() == [1]
    crnn = settled("crnn")
    message = (
        r"^crnn: a clip has 6 feature frames, expected at least 7\. Pad the recording with silence or leave it out\.$"
    )
    with pytest.raises(ValueError, match=message):
        crnn(log_mel(1, 6))
    with pytest.raises(ValueError, match=message):
        crnn(log_mel(2, 20), torch.tensor([20, 6]))


@pytest.mark.parametrize(
    ("features", "lengths", "message"),
    [
        ((2, 9, 40), None, r"features have shape \(2, 9, 40\), expected \(batch, 40, T\)"),
        ((40, 9), None, r"features have shape \(40, 9\), expected \(batch, 40, T\)"),
        ((2, 40, 9), [9], r"lengths have shape \(1,\), expected \(2,\)"),
        ((2, 40, 9), [9, 160], r"claims 160 valid feature frames, the features hold 9"),
        ((2, 40, 9), [9, 0], r"a clip has 0 feature frames, expected at least 1"),
    ],
)
def test_contradictory_shapes_are_named(features: tuple[int, ...], lengths: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_student("lstm_p", N_CLASSES)(torch.zeros(features), None if lengths is None else torch.tensor(lengths))


def test_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ValueError) as error:
        build_student("mhat_rnn", N_CLASSES)
    assert str(error.value) == (
        f"student 'mhat_rnn' is unknown, expected one of {', '.join(STUDENTS)}. Did you mean mhatt_rnn?"
    )


def test_a_student_that_defines_nothing_says_so() -> None:
    class Empty(Student):
        name, n_mfcc, n_channels = "empty", 20, 4

    with pytest.raises(NotImplementedError, match="Empty defines neither encode and read_out nor compute"):
        Empty(N_MELS)(log_mel(1, 9))


@pytest.mark.parametrize("lengths", [None, [9, 4]])
def test_frames_other_than_stated_are_named(lengths: list[int] | None) -> None:
    class Hasty(Student):
        name, n_mfcc, n_channels, stride = "hasty", 20, 20, 2

        def encode(self, mfcc: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
            return mfcc.transpose(1, 2)  # at the full rate, whatever `stride` says

        def read_out(self, frames: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, None]:
            return frames.mean(1), None

    message = r"^hasty: 9 feature frames gave frames of shape \(2, 9, 20\), expected \(batch, 5, 20\) by min_frames, "
    with pytest.raises(ValueError, match=message):
        Hasty(N_MELS)(log_mel(2, 9), None if lengths is None else torch.tensor(lengths))


@pytest.mark.parametrize("n_mels", [41, 39, 32])
def test_bc_resnet_says_which_mel_bins_it_takes(n_mels: int) -> None:
    with pytest.raises(ValueError, match=rf"bc_resnet_1: n_mels is {n_mels}, expected 40 or a multiple of it"):
        build_student("bc_resnet_1", N_CLASSES, n_mels)
    assert build_student("bc_resnet_1", N_CLASSES, 80)(torch.randn(2, 80, 9)).frames.shape == (2, 9, 32)


@every_student
def test_half_a_minute_is_taken(name: str) -> None:
    with torch.no_grad():
        output = settled(name)(log_mel(1, 1499))
    assert output.logits.isfinite().all()
    assert output.attention is None or output.attention.isfinite().all()


def test_too_few_mel_bins_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_mels is 32, expected at least n_mfcc = 40"):
        build_student("tc_resnet", N_CLASSES, n_mels=32)
