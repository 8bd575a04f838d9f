"""A cache as batches of clips: shuffled, verified, in bounded memory."""

from pipeline.distill.data.clips import Clips
from pipeline.distill.data.dataset import CacheDataset
from pipeline.distill.data.load import load_splits
from pipeline.distill.data.splits import Split

__all__ = ["CacheDataset", "Clips", "Split", "load_splits"]
