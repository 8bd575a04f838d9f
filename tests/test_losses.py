"""The loss terms against other routes."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from pipeline.distill.losses import combined_loss, student_attention, temporal_kd_loss


def test_student_attention_is_a_softmax_over_the_valid_frames():
    frames, query = torch.randn(2, 6, 4), torch.randn(4)
    attention = student_attention(frames, query, torch.tensor([6, 3])).exp()
    torch.testing.assert_close(attention[0], (frames[0] @ query).softmax(0))
    torch.testing.assert_close(attention[1, :3], (frames[1, :3] @ query).softmax(0))
    assert (attention[1, 3:] == 0).all()


def test_temporal_kd_is_the_kl_divergence_from_teacher_to_student():
    teacher, scores = torch.rand(5, 9).softmax(1), torch.randn(5, 9)
    expected = kl_divergence(Categorical(probs=teacher), Categorical(logits=scores)).mean()
    torch.testing.assert_close(temporal_kd_loss(scores.log_softmax(1), teacher), expected)


def test_padding_and_zero_weights_leave_kl_and_gradients_finite_and_unchanged():
    """A clip padded to a longer batch has the same KL; frames the teacher gives nothing cost nothing infinite."""
    frames, query = torch.randn(1, 5, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    teacher = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]])
    alone = temporal_kd_loss(student_attention(frames, query, torch.tensor([5])), teacher)
    padded_frames = torch.cat([frames, torch.full((1, 4, 3), 7.0)], dim=1)
    padded = temporal_kd_loss(
        student_attention(padded_frames, query, torch.tensor([5])), torch.nn.functional.pad(teacher, (0, 4))
    )
    torch.testing.assert_close(padded, alone)
    padded.backward()
    assert torch.isfinite(frames.grad).all()
    assert torch.isfinite(query.grad).all()


def test_kl_is_zero_only_where_student_and_teacher_agree():
    teacher = torch.rand(4, 7).softmax(1)
    assert temporal_kd_loss(teacher.log(), teacher).item() == pytest.approx(0, abs=1e-6)
    assert temporal_kd_loss(teacher.roll(1, dims=1).log(), teacher).item() > 1e-3


def test_the_combination_is_convex():
    task, temporal = torch.tensor(2.0), torch.tensor(10.0)
    assert combined_loss(task, temporal, 0).item() == 2
    assert combined_loss(task, temporal, 0.25).item() == pytest.approx(0.75 * 2 + 0.25 * 10)
