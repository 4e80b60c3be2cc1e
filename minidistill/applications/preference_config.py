"""Settings of preference tuning and their defaults, which the command reads before torch is loaded."""

from dataclasses import asdict, dataclass

from minidistill.config import DistillConfig


@dataclass(frozen=True)
class PreferenceConfig:
    """Hold what `run_dpo` is told: the loss's beta, the pairs, and the settings of training and sampling."""

    beta: float = 0.3
    samples: int = 4
    epochs: int = 1
    lr: float = 1e-4
    batch_size: int = 16
    seed: int = DistillConfig.seed
    temperature: float = DistillConfig.temperature
    top_p: float = DistillConfig.top_p
    max_new_tokens: int = DistillConfig.max_new_tokens

    def config(self) -> DistillConfig:
        """Return those that `distill` knows, checked."""
        known = {k: v for k, v in asdict(self).items() if k not in ("beta", "samples")}
        return DistillConfig("dpo", **known)

    def check(self) -> None:
        """Raise ValueError for what cannot be, before anything is loaded."""
        from minidistill.applications.preference import check_samples
        from minidistill.objectives import get_method

        self.config()
        get_method("dpo").check_settings({"beta": self.beta})
        check_samples(self.samples)
