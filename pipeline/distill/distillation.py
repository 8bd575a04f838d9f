"""A student with what it is taught with: its losses, and where it looks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache_schema import Cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Clips
from pipeline.distill.frame_weights import FrameWeights
from pipeline.distill.losses import combined_loss, logit_kd_loss, own_attention, student_attention, temporal_kd_loss
from pipeline.frames import align, in_event, student_grid, teacher_grid
from pipeline.tasks import clip_losses
from students import Student, StudentOutput

_MIXTURE_RATE = 10  # times the learning rate: Adam moves a parameter by no more than that a step, too little for logits


@dataclass(frozen=True)
class Losses:
    """Of a batch: `total` is what is minimised, the terms are what is reported; float32 scalars."""

    total: Tensor
    task: Tensor
    temporal: Tensor
    logit: Tensor

    @property
    def terms(self) -> Tensor:
        """task, temporal, logit: (3,), without gradient."""
        return torch.stack([self.task, self.temporal, self.logit]).detach()


class Distillation(nn.Module):
    """A student in training. Everything beside `student` is there in training only, and starts from zeros.

    Zeros draw no random number: with and without KD a student starts and is shuffled the same.

    Attributes:
        student: The network that is deployed.
        query: (n_channels,), q of arXiv 2110.14131; absent where the student's own attention is used.
        mixture: (n_maps,), a tenth of the logits of the stored maps' mixture, where one is learned. The KL itself would
            make it choose what is easy to imitate, such as equal weights. So it is learned (our choice) by `reader`:
            maps gain that point at frames from which the label can be read. Neither changes the student but through
            the KL.
        reader: A linear classifier of the student's frames, averaged with the mixture's weights.
    """

    def __init__(
        self, student: Student, config: TrainConfig, cache: Cache, class_weights: Tensor | None = None
    ) -> None:
        """Puts `student` to be trained as `config` says.

        Args:
            student: Fresh, or trained.
            config: The settings.
            cache: What it is trained from.
            class_weights: As `clip_losses` takes them.

        Raises:
            TkdError: the cache does not hold the frame weights that are asked for.
        """
        super().__init__()
        self.student, self.config, self.task = student, config, cache.task
        self.source, self.target = teacher_grid(cache.metadata), student_grid(cache.metadata, student)
        self.weights = FrameWeights.parse(config.frame_weights)
        self.weights.require(cache)
        if config.attention == "query":
            self.query = nn.Parameter(torch.zeros(student.n_channels))
        if self.weights.kind == "learned":
            self.mixture = nn.Parameter(torch.zeros(self.weights.n_maps(cache)))
            self.reader = nn.utils.skip_init(nn.Linear, student.n_channels, len(cache.labels))
            nn.init.zeros_(self.reader.weight)
            nn.init.zeros_(self.reader.bias)
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, batch: Clips, progress: float = 0.0, n_clips: float | None = None) -> Losses:
        """Returns the losses of a batch.

        Args:
            batch: The clips.
            progress: How much of the training is over, 0 to 1, for the schedule of the weights.
            n_clips: Clips over which the mean is taken; None: those of the batch.
        """
        # Not the Accelerator's mixed precision: that would also wrap the student that is scored.
        with torch.autocast(batch.features.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            output = self.student(batch.features.float(), batch.lengths)
        kd_weight, logit_weight = (
            weight * scheduled(self.config.kd_schedule, progress)
            for weight in (self.config.kd_weight, self.config.logit_kd)
        )
        # Without KD the query learns from detached frames: it only shows where the student could look.
        seen = output if self.config.distils else detached(output)
        teacher = self.on_student_frames(self.teacher_weights(batch), batch, output)
        task = clip_losses(self.task, output.logits, batch.labels, self.class_weights)
        temporal = temporal_kd_loss(self.log_attention(seen), teacher.detach())
        logit = logit_kd_loss(self.task, output.logits, batch.teacher_logits, self.config.temperature)
        terms = [(kd_weight, temporal)] if self.config.distils else []
        if self.config.logit_kd:
            terms.append((logit_weight, logit))
        total = combined_loss(task, terms, self.config.combination)
        if not self.config.distils and self.config.attention == "query":
            total = total + temporal
        if self.weights.kind == "learned":
            read = self.reader((teacher[:, None] @ output.frames.float().detach())[:, 0])  # (batch, n_classes)
            total = total + clip_losses(self.task, read, batch.labels)
        return Losses(*(loss.sum() / (n_clips or len(batch)) for loss in (total, task, temporal, logit)))

    def log_attention(self, output: StudentOutput) -> Tensor:
        """Returns log a_S, (batch, T_student)."""
        if self.config.attention == "own":
            return own_attention(output.attention)
        return student_attention(output.frames.float(), self.query, output.lengths)

    def teacher_weights(self, batch: Clips) -> Tensor:
        """Returns the frame weights that are taught, (batch, T_teacher), on the teacher's frames."""
        weights, kind = batch.weights, self.weights.kind
        if kind == "learned":
            return (self.mixed()[:, None] * weights).sum(dim=1)
        if kind == "shuffled":
            equal = self._equal(weights, batch.weight_lengths)
            # Alone in its batch, a clip would get its own. Of equal weights a trace, for one that ends before the
            # other's event.
            return equal if len(weights) == 1 else weights.roll(1, 0) + 1e-6 * equal
        if kind in ("uniform", "event"):
            equal = self._equal(weights, batch.weight_lengths)
            if kind == "uniform":
                return equal
            inside = equal * in_event(self.source, weights.shape[1], batch.event_start, batch.event_stop)
            return torch.where(inside.any(dim=1, keepdim=True), inside, equal)
        return weights

    def mixed(self) -> Tensor:
        """Returns the shares of the stored maps in a learned mixture, (n_maps,), sum 1."""
        return mixture_shares(self.mixture)

    def on_student_frames(self, weights: Tensor, batch: Clips, output: StudentOutput) -> Tensor:
        """Returns weights (batch, T_teacher) as a_T on the student's frames, (batch, T_student)."""
        return align(
            weights,
            batch.weight_lengths,
            self.source,
            self.target,
            output.lengths,
            output.frames.shape[1],
            self.config.alignment,
        )

    def training_only(self) -> dict[str, Tensor]:
        """Returns the parameters that are not the student's, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("student.")}

    @staticmethod
    def _equal(weights: Tensor, lengths: Tensor) -> Tensor:
        return (torch.arange(weights.shape[-1], device=weights.device) < lengths[:, None]).float()


def mixture_shares(mixture: Tensor) -> Tensor:
    """Returns the shares of the maps, (n_maps,), sum 1, of a learned `mixture` as a run keeps it."""
    return (_MIXTURE_RATE * mixture).softmax(dim=0)


@torch.inference_mode()
def has_attention(student: Student) -> bool:
    """Returns whether a student has attention of its own."""
    training = student.training
    parameter = next(student.parameters())
    output = student.eval()(torch.zeros(1, student.n_mels, student.min_frames, device=parameter.device))
    student.train(training)
    return output.attention is not None


def detached(output: StudentOutput) -> StudentOutput:
    """Returns an output through which no gradient flows."""
    return StudentOutput(*(None if value is None else value.detach() for value in output))


def scheduled(schedule: str, progress: float) -> float:
    """Returns the factor of the distillation weights when `progress` (0 to 1) of the training is over.

    constant: 1. decay: 1 - progress, so that the task alone decides in the end. rise: progress.
    """
    return {"constant": 1.0, "decay": 1.0 - progress, "rise": progress}[schedule]
