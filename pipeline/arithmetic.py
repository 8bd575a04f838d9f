"""What float32 means on a GPU."""

import torch


def full_float32() -> None:
    """Lets cuDNN's convolutions and recurrent layers, of this process, take float32 as such.

    Its default is TF32, of 10 bits of fraction: caches and scores would say float32 and be of something else.
    """
    torch.backends.cudnn.allow_tf32 = False
