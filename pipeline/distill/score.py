"""What a student scores, and where it looks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.arithmetic import full_float32
from pipeline.distill.data import Clips, Split
from pipeline.distill.distillation import Distillation
from pipeline.distill.losses import temporal_kd_loss
from pipeline.errors import TkdError
from pipeline.frames import FrameGrid, mean_share, share_in_event, teacher_grid, without_readout
from pipeline.measures import measure
from pipeline.tasks import METRICS, task_score
from students import Student

_BATCH_SIZE = 100


@dataclass(frozen=True)
class Scores:
    """Of one split.

    Attributes:
        metric: accuracy or mAP.
        value: Of the metric, 0 to 1.
        attention: Means over the clips of `measure` (over those whose event is known; None: none is), and, of students,
            `kl_to_teacher`: KL(a_T || a_S) to the rollout.
        logits: (n, n_classes) float32.
        in_event: (n,) float32, each clip's share of the attention inside its event, NaN where that is unknown.
    """

    metric: str
    value: float
    attention: dict[str, float | None]
    logits: Tensor
    in_event: Tensor

    def __str__(self) -> str:
        share = self.attention["in_event"]
        return f"{self.metric} {self.value:.4f}" + ("" if share is None else f", attention in event {share:.2f}")

    def summary(self) -> dict[str, Any]:
        """Returns the numbers, for JSON."""
        return {
            "metric": self.metric,
            "value": self.value,
            "attention_in_event": self.attention["in_event"],
            "attention": self.attention,
        }


def require_heard(split: Split, student: Student) -> None:
    """Checks that every clip has a frame for a student.

    Raises:
        TkdError: some have none.
    """
    short = (split.lengths < student.min_frames).numpy()
    if short.any():
        raise TkdError(
            f"{split.cache.path}: {short.sum()} {split.name} clips have fewer than the {student.min_frames} feature "
            f"frames of {student.name}, {split.clip_id[short][0]} the first. Prepare with --length, or use another "
            "student."
        )


@torch.inference_mode()
def score(distillation: Distillation, split: Split) -> Scores:
    """Returns the scores of a student on a split, in float32."""
    full_float32()
    training = distillation.training
    distillation.eval()
    device = next(distillation.parameters()).device
    logits, measures = [], []
    for batch in split.batches(_BATCH_SIZE):
        batch = batch.to(device)
        output = distillation.student(batch.features.float(), batch.lengths)
        log_attention = distillation.log_attention(output)
        teacher = distillation.on_student_frames(batch.weights, batch, output)
        found = _measured(split, batch, log_attention.exp(), output.lengths, distillation.target)
        measures.append(found | {"kl_to_teacher": temporal_kd_loss(log_attention, teacher)})
        logits.append(output.logits.float().cpu())
    distillation.train(training)
    return _scores(split, logits, measures)


def score_teacher(split: Split) -> tuple[Scores, float | None]:
    """Returns the scores of the cached teacher, and the share of equal weights inside the events."""
    metadata = split.cache.metadata
    readout, grid = metadata["teacher"].get("readout", ""), teacher_grid(metadata)
    logits, measures, uniform = [], [], []
    for batch in split.batches(_BATCH_SIZE):
        logits.append(batch.teacher_logits)
        weights = without_readout(batch.weights, readout)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        measures.append(_measured(split, batch, weights, batch.weight_lengths, grid))
        valid = (torch.arange(batch.weights.shape[1]) < batch.weight_lengths[:, None]).float()
        uniform.append(share_in_event(without_readout(valid, readout), grid, batch.event_start, batch.event_stop))
    return _scores(split, logits, measures), mean_share(torch.cat(uniform))


def _measured(split: Split, batch: Clips, weights: Tensor, lengths: Tensor, grid: FrameGrid) -> dict[str, Tensor]:
    rate = split.cache.metadata["teacher"]["sample_rate"]
    return measure(weights, lengths, grid, batch.event_start, batch.event_stop, rate)


def _scores(split: Split, logits: list[Tensor], measures: list[dict[str, Tensor]]) -> Scores:
    """Returns the scores of all clips of a split, batch by batch in their order."""
    task, joined = split.cache.task, torch.cat(logits)
    clips = {name: torch.cat([of_batch[name].cpu() for of_batch in measures]) for name in measures[0]}
    attention = {name: mean_share(values) for name, values in clips.items()}
    return Scores(METRICS[task], task_score(task, joined, split.labels), attention, joined, clips["in_event"])
