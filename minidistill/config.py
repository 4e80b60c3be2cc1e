"""The settings of a run and their defaults: `distill`, the commands and the ledger read them from here.

torch is not imported before a config is made, so that a command can say what it will do at once.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DistillConfig:
    """All that decides a run's result, besides the models, the task and the method's own settings.

    `batch_size`: the effective one, split into `gradient_accumulation_steps` parts
    (transformers' per_device_train_batch_size is `batch_size` / that). `temperature`, `top_p`,
    `max_new_tokens`: how both models are sampled. `max_grad_norm`: longer gradients are scaled to it, inf
    for never; the scale of a loss counts only where it is finite. `adam_beta2`: how slowly AdamW forgets
    the size of gradients. `epsilon`: of the source `speculative_mix`.
    `source_overrides`: slot of the method → the source it reads instead of the one it is named after.
    Raises ValueError naming the setting and its value.
    """

    method: str = "distillm2"
    epochs: int = 3
    seed: int = 0
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    lr: float = 1e-3
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.999
    epsilon: float = 0.5
    source_overrides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        from minidistill.divergences import check_unit_interval
        from minidistill.objectives import get_method
        from minidistill.sources import resolve_sources

        for name in ("epochs", "batch_size", "gradient_accumulation_steps", "max_new_tokens"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(
                    f"{name} must be a whole number from 1, but got {getattr(self, name)}"
                )
        for name in ("lr", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, but got {getattr(self, name)}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, but got {self.max_grad_norm}")
        if not 0 <= self.adam_beta2 < 1:
            raise ValueError(f"adam_beta2 must lie in [0, 1), but got {self.adam_beta2}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], but got {self.top_p}")
        check_unit_interval("epsilon", self.epsilon)
        resolve_sources(get_method(self.method).reads, self.source_overrides)

    @property
    def sampling(self) -> dict:
        names = ("temperature", "top_p", "max_new_tokens")
        return {name: getattr(self, name) for name in names}
