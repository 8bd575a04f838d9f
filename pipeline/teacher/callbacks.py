"""What happens in a teacher's training at each epoch, update and score."""

import contextlib

from transformers import TrainerCallback

from pipeline.data.clip import SAMPLE_RATE
from pipeline.progress import Progress, say
from pipeline.teacher.clips import TrainingClips
from pipeline.teacher.model import Teacher


class Curriculum(TrainerCallback):
    """Sets the crop length and the mixing of each epoch."""

    def __init__(self, clips: TrainingClips, crops: tuple[tuple[float, int], ...]) -> None:
        self.clips = clips
        self.n_samples = [round(seconds * SAMPLE_RATE) for seconds, epochs in crops for _ in range(epochs)]

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.clips.epoch = round(state.epoch or 0)
        later = self.clips.epoch >= len(self.n_samples)
        self.clips.n_samples = None if later else self.n_samples[self.clips.epoch]


class ClassifierFirst(TrainerCallback):
    """Trains the classifier alone for the first `n_steps` updates (as arXiv 2006.11477, section 4.3)."""

    def __init__(self, teacher: Teacher, n_steps: int) -> None:
        self.teacher, self.n_steps = teacher, n_steps

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.teacher.encoder_frozen = state.global_step < self.n_steps


class EarlyStopping(TrainerCallback):
    """Stops after `patience` epochs of whole clips without a better score; counted anew from the log when resumed."""

    def __init__(self, metric: str, patience: int, n_crop_epochs: int) -> None:
        self.metric, self.patience, self.n_crop_epochs = metric, patience, n_crop_epochs

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        scores = [entry[f"eval_{self.metric}"] for entry in state.log_history if f"eval_{self.metric}" in entry]
        best = max(scores.index(max(scores)), self.n_crop_epochs - 1)
        if len(scores) - 1 - best >= self.patience:
            control.should_training_stop = True


class Report(TrainerCallback):
    """Progress in updates, and one line an epoch, from one process. The Trainer's own bars would print to stdout."""

    def __init__(self, metric: str) -> None:
        self.metric, self.shown = metric, contextlib.ExitStack()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.steps = self.shown.enter_context(Progress("training the teacher", state.max_steps, "steps"))
            self.steps.advance(state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.steps.advance()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.shown.close()

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        if state.is_world_process_zero and f"eval_{self.metric}" in metrics:
            loss = [entry["loss"] for entry in state.log_history if "loss" in entry][-1]
            epoch = f"epoch {round(state.epoch)} of {round(args.num_train_epochs)}"
            score = metrics[f"eval_{self.metric}"]
            say(f"{epoch}: training loss {loss:.3f}, validation {self.metric} {score:.4f}")
