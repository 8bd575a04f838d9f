"""The optimiser, its learning rate, and the moving average of the weights."""

import math

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.distill.config import TrainConfig


def build_optimizer(module: nn.Module, config: TrainConfig) -> Optimizer:
    """Returns the optimiser of `config` over a module's parameters: AdamW, or SGD with Nesterov momentum 0.9."""
    if config.optimizer == "sgd":
        return SGD(
            module.parameters(),
            config.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return AdamW(module.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, step: int, warmup: int) -> float:
    """Returns the learning rate of a step: linear for `warmup` steps, an epoch, then a cosine to a hundredth."""
    peak, n_steps = config.learning_rate, config.epochs * warmup
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """Returns the exponential moving average of a module's parameters and BatchNorm statistics, starting with them.

    After n steps the decay is at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage: an average over
    more steps than there were would still be mostly the untrained network.
    """

    def average(averages: list[Tensor], values: list[Tensor], n_averaged: Tensor) -> None:
        n = int(n_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, values, n_averaged)

    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)
