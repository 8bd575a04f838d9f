"""How many bytes the teacher's targets take in a cache, beside other published ways of keeping a teacher."""

import tempfile
from pathlib import Path

from cache_schema import convert_cache, describe_cache, open_cache
from pipeline.bench.results import Measured, Row, Table
from pipeline.bench.sections.spoken import spoken
from pipeline.bench.sections.stage_two import SECONDS
from pipeline.distill.config import TrainConfig
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig

CODEBOOK_BYTES = 8.0  # a frame at 50 Hz: 8 codebook indexes of a byte (arXiv 2211.00508)
LOGIT_BYTES = 84.0  # a clip and epoch: the 20 largest logits, and the seed of the augmentation (arXiv 2308.11957)


def measure(quick: bool) -> Measured:
    """Builds a cache with the bundled teacher, and counts its bytes on disk."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        heads, layers = folder / "heads.zarr", folder / "layers.zarr"
        build_cache(spoken(folder, 48 if quick else 488), "bundled", heads, BuildConfig())
        convert_cache(heads, layers, keep="layers")
        described = {path.stem: describe_cache(path) for path in (heads, layers)}
        n_frames = int(open_cache(heads).read("n_frames").sum())
    whole = described["heads"]
    n_clips = sum(whole["splits"].values())
    on_disk = {name: array["bytes"] for name, array in whole["arrays"].items()}
    on_disk["layer_weights"] = described["layers"]["arrays"]["layer_weights"]["bytes"]
    teacher = whole["teacher"]
    n_layers, n_maps = teacher["n_layers"], teacher["n_layers"] * teacher["n_heads"]

    def a_frame(what: str, *names: str) -> Row:
        n_bytes = sum(on_disk[name] for name in names) / n_frames
        return Row(what, n_bytes / CODEBOOK_BYTES, n_bytes, CODEBOOK_BYTES)

    n_epochs = TrainConfig().epochs
    a_clip = (on_disk["rollout"] + on_disk["logits"]) / n_clips
    return Measured(
        [
            Table(
                "targets of a frame",
                "codebook indexes (8 B a frame)",
                [
                    a_frame("rollout", "rollout"),
                    a_frame(f"rollout and {n_layers} layers", "rollout", "layer_weights"),
                    a_frame(f"rollout and {n_maps} heads", "rollout", "head_weights"),
                ],
                "B a frame",
            ),
            Table(
                f"targets of a clip, {n_epochs} epochs",
                "top-20 logits (84 B an epoch)",
                [
                    Row(
                        "rollout and logits, stored once",
                        a_clip / (n_epochs * LOGIT_BYTES),
                        a_clip,
                        n_epochs * LOGIT_BYTES,
                    )
                ],
                "B a clip",
            ),
        ],
        [
            f"Bytes on disk of {n_clips} clips of {SECONDS} s ({teacher['name']} teacher, {n_layers} layers of "
            f"{teacher['n_heads']} heads; weights of layers and heads grow with the teacher). The students' features "
            f"take {on_disk['features'] / n_frames:.0f} B a frame more; with them no recordings are needed.",
            "What is kept is not the same: codebook indexes (arXiv 2211.00508) and logits of augmented clips (arXiv "
            "2308.11957, another set in each epoch) as published; here weights of frames, the same in every epoch.",
        ],
    )
