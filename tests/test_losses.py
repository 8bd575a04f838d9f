"""The loss terms against other routes."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from pipeline.distill.losses import (
    combined_loss,
    logit_kd_loss,
    own_attention,
    student_attention,
    temporal_kd_loss,
)


def test_student_attention_is_a_softmax_over_the_valid_frames():
    frames, query = torch.randn(2, 6, 4), torch.randn(4)
    attention = student_attention(frames, query, torch.tensor([6, 3])).exp()
    torch.testing.assert_close(attention[0], (frames[0] @ query).softmax(0))
    torch.testing.assert_close(attention[1, :3], (frames[1, :3] @ query).softmax(0))
    assert (attention[1, 3:] == 0).all()


def test_temporal_kd_is_the_kl_divergence_from_teacher_to_student():
    teacher, scores = torch.rand(5, 9).softmax(1), torch.randn(5, 9)
    expected = kl_divergence(Categorical(probs=teacher), Categorical(logits=scores))
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
    padded.sum().backward()
    assert torch.isfinite(frames.grad).all()
    assert torch.isfinite(query.grad).all()


def test_kl_is_zero_only_where_student_and_teacher_agree():
    teacher = torch.rand(4, 7).softmax(1)
    assert temporal_kd_loss(teacher.log(), teacher).abs().max() < 1e-6
    assert (temporal_kd_loss(teacher.roll(1, dims=1).log(), teacher) > 1e-3).all()


def test_own_attention_that_underflows_leaves_the_kl_finite():
    teacher, attention = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    loss = temporal_kd_loss(own_attention(attention), teacher)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(attention.grad).all()
    torch.testing.assert_close(own_attention(teacher).exp(), teacher)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logit_kd_is_the_divergence_of_the_softened_outputs(temperature):
    """Of one distribution over the classes, or of one Bernoulli each, by torch.distributions."""
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Categorical(logits=teacher / temperature), Categorical(logits=student / temperature))
    torch.testing.assert_close(logit_kd_loss("single_label", student, teacher, temperature), temperature**2 * expected)
    expected = kl_divergence(Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature))
    torch.testing.assert_close(
        logit_kd_loss("multi_label", student, teacher, temperature), temperature**2 * expected.mean(1)
    )


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_the_gradient_of_logit_kd_does_not_fade_with_the_temperature(task):
    """Why it is multiplied by the temperature squared: arXiv 1503.02531, section 2.1."""
    teacher, norms = torch.randn(5, 7), []
    for temperature in (20.0, 80.0):
        student = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
        logit_kd_loss(task, student, teacher, temperature).sum().backward()
        norms.append(float(student.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_convex_leaves_the_task_the_rest_and_additive_all():
    task, temporal, logit = torch.tensor(2.0), torch.tensor(10.0), torch.tensor(4.0)
    assert combined_loss(task, [], "convex").item() == combined_loss(task, [], "additive").item() == 2
    terms = [(0.25, temporal), (0.5, logit)]
    assert combined_loss(task, terms, "convex").item() == pytest.approx(0.25 * 2 + 0.25 * 10 + 0.5 * 4)
    assert combined_loss(task, terms, "additive").item() == pytest.approx(2 + 0.25 * 10 + 0.5 * 4)
