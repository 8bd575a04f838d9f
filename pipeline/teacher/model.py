"""The teacher: an encoder of the wav2vec 2.0 family and one linear layer on its readout (arXiv 2110.14131, section 2).

On disk a teacher is a folder in Hugging Face layout (config.json, model.safetensors, preprocessor_config.json) plus
`tkd_teacher.json`. transformers' AutoModel opens its encoder; weights are safetensors, and no code in the folder runs.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, Wav2Vec2FeatureExtractor

from pipeline.data.clip import SAMPLE_RATE
from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError, nearest
from pipeline.tasks import task_loss
from pipeline.teacher.checkpoint import DAMAGE, check_family, read_do_normalize, reason
from pipeline.teacher.config import READOUTS

BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class TeacherInfo:
    """What a teacher is; the content of `tkd_teacher.json`."""

    base: str  # checkpoint or config it was trained from
    labels: tuple[str, ...]
    task: str
    readout: str  # first_token: the paper's c_1; mean: over valid frames
    dataset: str
    manifest_sha256: str
    metric: str  # of validation and test
    validation: float
    test: float
    training: dict  # every setting it was trained with


class Teacher(nn.Module):
    """Encoder and linear classifier."""

    def __init__(
        self,
        encoder: PreTrainedModel,
        n_classes: int,
        readout: str = "first_token",
        task: str = "single_label",
        do_normalize: bool = True,
    ) -> None:
        """`do_normalize`: whether the encoder was trained on waveforms of mean 0 and variance 1; see `normalise`."""
        super().__init__()
        self.encoder = encoder
        for module in encoder.modules():
            if isinstance(module, nn.Conv1d) and 1 < module.in_channels // module.groups < 16 and module.groups > 1:
                module.forward = MethodType(_conv_in_float32, module)
        self.classifier = nn.Linear(encoder.config.hidden_size, n_classes)
        self.readout = readout
        self.task = task
        self.do_normalize = do_normalize
        self.encoder_frozen = False  # set while the classifier is trained alone

    @property
    def hop_length(self) -> int:
        """Samples from one encoder frame to the next."""
        return int(np.prod(self.encoder.config.conv_stride))

    @property
    def frame_offset(self) -> float:
        """Sample at the centre of encoder frame 0's receptive field in the convolutions."""
        return (self.min_samples - 1) / 2

    @property
    def min_samples(self) -> int:
        """Samples that make one frame: the receptive field of the convolutions."""
        field, jump = 1, 1
        for kernel, stride in zip(self.encoder.config.conv_kernel, self.encoder.config.conv_stride, strict=True):
            field, jump = field + (kernel - 1) * jump, jump * stride
        return field

    def n_frames(self, n_samples: int) -> int:
        """Returns how many frames the encoder makes of `n_samples` samples."""
        for kernel, stride in zip(self.encoder.config.conv_kernel, self.encoder.config.conv_stride, strict=True):
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples

    @property
    def needs_equal_lengths(self) -> bool:
        """Whether padding a batch changes what the encoder hears, so that only clips of one length go together.

        With feat_extract_norm "group" (wav2vec 2.0 BASE) the first layer normalises over time, and no mask mends it.
        data2vec-audio has no such setting, but several positional convolutions, which see what the first made of
        padding.
        """
        return getattr(self.encoder.config, "feat_extract_norm", "group") == "group"

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns `logits` (batch, n_classes) float32, and `loss` when labels are given.

        Args:
            input_values: Waveforms (batch, n_samples) at 16 kHz as `collate` makes them, zeros beyond each clip's end.
            attention_mask: (batch, n_samples), 1 = valid; None when all clips are of one length.
            labels: As `task_loss` takes them.
        """
        # Not by requires_grad: what is frozen when DistributedDataParallel wraps it is never kept equal between GPUs.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            hidden = self.encoder(input_values, attention_mask=attention_mask).last_hidden_state  # (batch, T, hidden)
        logits = self.classifier(self._read(hidden, attention_mask)).float()
        if labels is None:
            return {"logits": logits}
        return {"loss": task_loss(self.task, logits, labels), "logits": logits}

    def _read(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        if self.readout == "first_token":
            return hidden[:, 0]
        if attention_mask is None:
            return hidden.mean(dim=1)
        lengths = torch.tensor([self.n_frames(int(n)) for n in attention_mask.sum(dim=1)], device=hidden.device)
        valid = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return (hidden * valid[..., None]).sum(dim=1) / lengths[:, None]


def _conv_in_float32(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """`conv` on a CPU without autocast.

    In bfloat16 oneDNN 3.10, which torch 2.11 has, gives something else altogether for thin groups of channels and
    kernels of 8 and more, where the processor has AMX; the built-in teacher's positional convolution is one.
    """
    if x.device.type != "cpu":
        return type(conv).forward(conv, x)
    with torch.autocast("cpu", enabled=False):
        return type(conv).forward(conv, x.float())


def normalise(waveform: np.ndarray) -> np.ndarray:
    """Returns the waveform (n_samples,) with mean 0 and variance 1, as wav2vec 2.0 is fed; per clip, before padding."""
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)


def save_teacher(teacher: Teacher, info: TeacherInfo, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the teacher into the existing, empty `folder`."""
    prefix = teacher.encoder.base_model_prefix
    state = {f"{prefix}.{key}": value for key, value in teacher.encoder.state_dict().items()}
    state |= {f"classifier.{key}": value for key, value in teacher.classifier.state_dict().items()}
    state = {key: value.to("cpu", dtype).contiguous() for key, value in state.items()}
    teacher.encoder.config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    weights.chmod((folder / "config.json").stat().st_mode)  # safetensors makes it readable by its owner only
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLE_RATE,
        do_normalize=teacher.do_normalize,
        return_attention_mask=not teacher.needs_equal_lengths,
    )
    extractor.save_pretrained(folder)
    text = json.dumps(dataclasses.asdict(info), indent=2, ensure_ascii=False)
    (folder / "tkd_teacher.json").write_text(text + "\n", encoding="utf-8")


def load_teacher(name: str) -> tuple[Teacher, TeacherInfo, str]:
    """Returns the teacher in eval mode (float32), its description, and the sha256 of what decides its outputs.

    Args:
        name: "bundled", or the folder of a trained teacher.

    Raises:
        TkdError: no such folder, or not a whole teacher.
    """
    folder = BUNDLED if name == "bundled" else Path(name)
    if not folder.is_dir():
        if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not folder.parent.is_dir():
            raise TkdError(
                f"{name}: no such teacher folder. If it is a model of the Hugging Face hub, fine-tune it first: "
                f"tkd teacher train --base {name}."
            )
        siblings = [path.name for path in folder.parent.glob("*") if (path / "tkd_teacher.json").exists()]
        raise TkdError(f"{name}: no such teacher folder. {nearest(folder.name, ['bundled', *siblings])}")
    files = [folder / file for file in ("config.json", "model.safetensors", "tkd_teacher.json")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise TkdError(f"{name}: not a teacher: {', '.join(missing)} missing. Make one with tkd teacher train.")
    try:
        described = json.loads(files[2].read_text(encoding="utf-8"))
        info = TeacherInfo(**{**described, "labels": tuple(described["labels"])})
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_family(name, config)
        if info.readout not in READOUTS:
            raise ValueError(f"readout {info.readout}")
        state = {key: value.float() for key, value in load_file(files[1]).items()}
        if not all_finite(state):
            raise ValueError("weights that are NaN or infinite")
        encoder = AutoModel.from_config(config, dtype=torch.float32)
        teacher = Teacher(encoder, len(info.labels), info.readout, info.task, read_do_normalize(str(folder)))
        prefix = teacher.encoder.base_model_prefix
        teacher.load_state_dict({key.replace(f"{prefix}.", "encoder.", 1): value for key, value in state.items()})
    except DAMAGE as error:
        raise TkdError(
            f"{name}: damaged teacher ({reason(error)}). Copy it again, or train it with tkd teacher train."
        ) from error
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files[:2]))
    if not teacher.do_normalize:  # said only where it is so: the digests of the others were there first
        digest.update(b"do_normalize false")
    return teacher.eval(), info, digest.hexdigest()


def best_device() -> torch.device:
    """Returns the accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def require_labels(info: TeacherInfo, manifest: Manifest, name: str) -> None:
    """Checks that a teacher was trained for the labels of a dataset.

    Raises:
        TkdError: it was not.
    """
    if info.labels != manifest.info.labels:
        raise TkdError(
            f"teacher {name} knows {', '.join(info.labels)}; dataset {manifest.root} has "
            f"{', '.join(manifest.info.labels)}. Give its own with --teacher, or train one: "
            f"tkd teacher train --data {manifest.root} --out DIR."
        )


def require_lengths(manifest: Manifest, shortest: int) -> None:
    """Checks that every clip of a dataset has at least `shortest` samples, as many as make one frame.

    Raises:
        TkdError: some do not; the first five are named.
    """
    short = [f"{clip.clip_id} ({clip.n_samples})" for clip in manifest.clips if clip.n_samples < shortest]
    if short:
        raise TkdError(
            f"{manifest.root}: {len(short)} clips are shorter than the {shortest} samples needed: "
            f"{', '.join(short[:5])}{', ...' if len(short) > 5 else ''}. Remove them, or prepare with --length."
        )


def all_finite(state: dict[str, Tensor]) -> bool:
    """Returns whether no weight is NaN or infinite."""
    return all(bool(value.isfinite().all()) for value in state.values())
