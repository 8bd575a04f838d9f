"""The picture of a student's attention that TensorBoard shows."""

import torch
from torch import Tensor

from pipeline.distill.data import Split
from pipeline.distill.distillation import Distillation

_N_CLIPS = 8
_FRAME_WIDTH, _ROW_HEIGHT, _GAP = 3, 8, 4  # pixels


@torch.inference_mode()
def attention_picture(distillation: Distillation, split: Split) -> Tensor:
    """Returns a picture of the first clips of a split, (1, height, width) uint8.

    For each clip a row of the rollout on the student's frames and a row of the student's attention, time to the right;
    white is the row's largest weight.
    """
    training = distillation.training
    distillation.eval()
    batch = split.take(range(min(_N_CLIPS, len(split)))).to(next(distillation.parameters()).device)
    output = distillation.student(batch.features.float(), batch.lengths)
    teacher = distillation.on_student_frames(batch.weights, batch, output)
    rows = torch.stack([teacher, distillation.log_attention(output).exp()], dim=1).cpu()  # (clip, 2, T)
    distillation.train(training)
    rows = rows / rows.amax(dim=2, keepdim=True).clamp_min(1e-12)
    picture = rows.repeat_interleave(_FRAME_WIDTH, dim=2).repeat_interleave(_ROW_HEIGHT, dim=1)
    picture = torch.nn.functional.pad(picture, (0, 0, 0, _GAP), value=0.5)  # (clip, 2 * row + gap, width)
    return (255 * picture.flatten(0, 1)[None]).round().to(torch.uint8)
