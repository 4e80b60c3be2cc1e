"""What a claim is made of: contrasts of arms, written so that the paper expects them above zero.

{"cald": 1, "skl": -1} is CALD minus SKL. `paper.py` and `paper_applications.py` hold the claims,
`claims.py` runs and judges them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contrast:
    """Σ weight · metric over arms, above `margin` if the paper is right (nats, or shares of 1)."""

    says: str
    weights: dict[str, float]
    metric: str = "rouge_l"
    margin: float = 0.0


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, with which figures; the contrasts that test it here."""

    says: str
    where: str
    figures: str
    contrasts: tuple[Contrast, ...]
    why: str = ""
    arms: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        names = [name for c in self.contrasts for name in c.weights]
        object.__setattr__(self, "arms", tuple(dict.fromkeys(names)))


def over(winner: str, rivals: Sequence[str], metric="rouge_l", **more) -> tuple[Contrast, ...]:
    """`winner` above each of `rivals`."""
    says = "{} over {}" + ("" if metric == "rouge_l" else f", {METRIC_NAMES[metric]}")
    return tuple(
        Contrast(says.format(winner, rival), {winner: 1, rival: -1}, metric, **more)
        for rival in rivals
    )


METRIC_NAMES = {
    "rouge_l": "ROUGE-L", "accuracy": "accuracy", "win_rate": "win rate",
    "acceptance": "share of drafted tokens accepted", "nll_teacher": "NLL on teacher responses",
    "separation": "NLL on student minus on teacher responses", "early": "ROUGE-L on the way",
    "log_seconds": "log seconds", "head": "mass in the head", "tail": "mass in the tail",
}  # fmt: skip
