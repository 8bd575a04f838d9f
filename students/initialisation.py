"""Where training starts: Keras's defaults."""

from torch import nn


def keras_init(module: nn.Module) -> None:
    """Initialises one layer as Keras would; pass to `nn.Module.apply`.

    Kernels Glorot-uniform, recurrent kernels orthogonal, biases 0. torch's own defaults draw
    narrower kernels and random biases; kws_streaming (arXiv 2005.06720) trains from Keras's.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GRU):
        for name, parameter in module.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
