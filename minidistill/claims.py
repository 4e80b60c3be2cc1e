r"""The paper's claims as data: which runs, which differences over seeds, and the verdict they give.

A claim is a list of contrasts. A contrast is a weighted sum of one metric over arms, seed by seed,
written so that the paper expects it above zero: {"cald": 1, "skl": -1} is CALD minus SKL. One rule
for all: a bootstrap 95 % interval of its mean over the seeds; above zero it holds, below it is
reversed, else this scale does not resolve it. A claim holds if all its contrasts hold; one reversed
contrast reverses it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import torch

from minidistill import divergences as D
from minidistill import toy
from minidistill.checkpoint import read_log, write_log
from minidistill.errors import nearest
from minidistill.experiments import Arm, Job, Protocol, machine, run_grid
from minidistill.toy import interval

SEEDS = 5
TOY_SEEDS = 20


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


@dataclass(frozen=True)
class Result:
    """One contrast's answer: the mean over seeds, its interval, and the verdict."""

    contrast: Contrast
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def verdict(self) -> str:
        margin = self.contrast.margin
        return (
            "holds" if self.low > margin else "reversed" if self.high < margin else "not resolved"
        )


def over(winner: str, rivals: Sequence[str], metric="rouge_l", **more) -> tuple[Contrast, ...]:
    """`winner` above each of `rivals`."""
    says = "{} over {}" + ("" if metric == "rouge_l" else f", {METRIC_NAMES[metric]}")
    return tuple(
        Contrast(says.format(winner, rival), {winner: 1, rival: -1}, metric, **more)
        for rival in rivals
    )


METRIC_NAMES = {
    "rouge_l": "ROUGE-L", "accuracy": "accuracy", "nll_teacher": "NLL on teacher responses",
    "separation": "NLL on student minus on teacher responses", "early": "ROUGE-L on the way",
    "log_seconds": "log seconds", "head": "mass in the head", "tail": "mass in the tail",
}  # fmt: skip

# What is measured on one log. "early" is the mean ROUGE-L over the measurements before the end.
METRICS: dict[str, Callable[[dict], float]] = {
    **{n: lambda log, n=n: log["scores"][n] for n in ("rouge_l", "accuracy", "nll_teacher")},
    **{n: lambda log, n=n: log["scores"][n] for n in ("head", "tail")},
    "separation": lambda log: log["scores"]["nll_student"] - log["scores"]["nll_teacher"],
    "early": lambda log: mean(point["rouge_l"] for point in log["curve"]),
    "log_seconds": lambda log: math.log(log["train_seconds"]),
}


def _by_epoch(*alphas: float) -> Arm:
    return Arm("cald_by_epoch", hyper={"alphas": list(alphas)}, settings={"epochs": len(alphas)})


EPSILONS = (0.3, 1.0)
ALPHAS, BETAS = (0.0, 0.01, 0.1, 0.3), (0.1, 0.3, 0.5, 0.7, 0.9)
ARMS: dict[str, Arm] = {
    **{name: Arm(name) for name in ("sft", "kd", "rkl", "skl", "srkl", "gkd", "dpkd", "distillm")},
    **{name: Arm(name) for name in ("cald", "cald_kl", "distillm2", "distillm2_no_alpha")},
    **{name: Arm(name) for name in ("distillm2_no_beta", "distillm2_paper_beta")},
    # C4: who wrote the responses × which direction
    "skl_on_sgo": Arm("skl", {"tgo": "sgo"}),
    "srkl_on_sgo": Arm("srkl", {"tgo": "sgo"}),
    "cald_swapped": Arm("cald", {"tgo": "sgo", "sgo": "tgo"}),
    "cald_all_tgo": Arm("cald", {"sgo": "tgo"}),
    "cald_all_sgo": Arm("cald", {"tgo": "sgo"}),
    # C5, C6: other responses in one slot
    **{
        f"cald_{slot}_mixed_{epsilon:g}": Arm(
            "cald", {slot: "mixed"}, settings={"epsilon": epsilon}
        )
        for slot in ("tgo", "sgo")
        for epsilon in EPSILONS
    },
    "cald_references": Arm("cald", {"tgo": "reference"}),
    "cald_best_tgo": Arm("cald", {"tgo": "best_tgo"}),
    # C7: alpha in the last of one, two, three epochs
    **{f"alpha_e1_{a:g}": _by_epoch(a) for a in (0.3, 0.1, 0.01)},
    **{f"alpha_e2_{a:g}": _by_epoch(0.1, a) for a in (0.3, 0.1, 0.01)},
    **{f"alpha_e3_{a:g}": _by_epoch(0.1, 0.1, a) for a in (0.3, 0.1, 0.01)},
    # C16: how old the student's responses are
    "distillm2_on_policy": Arm("distillm2", {"sgo": "fresh_sgo"}),
    "distillm2_off_policy": Arm("distillm2", {"sgo": "first_sgo"}),
}
GRID = {
    f"cald_a{a:g}_b{b:g}": Arm("cald", hyper={"alpha": a, "beta": b}) for a in ALPHAS for b in BETAS
}
MAP = {
    f"dpkd_{form}_lam{lam:g}_lr{lr:g}": Arm(
        "dpkd", hyper={"lam": lam, "per_token": form == "token"}, settings={"lr": lr}
    )
    for form in ("sequence", "token")
    for lam in (0.03, 0.1, 0.3, 1.0)
    for lr in (1.5e-4, 5e-4, 1.5e-3)
}

CLAIMS: dict[str, Claim] = {
    "C1": Claim(
        "KL pulls up where the teacher is high, RKL pushes down where it is low",
        "Fig 1(a)",
        "80 tokens, curves after 1, 5, 10 steps",
        (
            Contrast("KL's head over RKL's", {"toy_kl": 1, "toy_rkl": -1}, "head"),
            Contrast("RKL's tail under KL's", {"toy_kl": 1, "toy_rkl": -1}, "tail"),
        ),
    ),
    "C2": Claim(
        "DPKD collapses; CALD separates teacher's and student's responses",
        "Fig 1(b)",
        "NLL on teacher/student responses: DPKD 20.29/91.25, CALD 2.06/2.18, KL 2.50/1.61",
        (
            Contrast("DPKD 2 nats above CALD", {"dpkd": 1, "cald": -1}, "nll_teacher", 2.0),
            *over("cald", ("kd", "skl", "srkl"), "separation"),
        ),
    ),
    "C3": Claim(
        "CALD beats KL, RKL, SKL, SRKL and CALD without the skew, and is faster",
        "Fig 1(c)",
        "ROUGE-L by step: CALD(SKL) highest throughout",
        over("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"))
        + over("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"), "early"),
    ),
    "C4": Claim(
        "The pairing matters: SKL on the teacher's responses, SRKL on the student's",
        "Sec 3.1",
        "no table; the paper's central argument",
        (
            *over("cald", ("cald_swapped", "cald_all_tgo", "cald_all_sgo")),
            Contrast(
                "each direction on its own source over on the other",
                {"skl": 0.5, "srkl_on_sgo": 0.5, "skl_on_sgo": -0.5, "srkl": -0.5},
            ),
        ),
    ),
    "C5": Claim(
        "Responses written by both models hurt, in either slot",
        "Fig 2(a)",
        "SKL best at ε = 1 (the teacher's own), SRKL best at ε = 0 (the student's own)",
        over("cald", [f"cald_{slot}_mixed_{e:g}" for slot in ("tgo", "sgo") for e in EPSILONS]),
    ),
    "C6": Claim(
        "Better responses than the teacher's do not make a better student",
        "Fig 2(b)",
        "y_t from stronger models: below the teacher's own",
        over("cald", ("cald_references", "cald_best_tgo"))
        + over("cald", ("cald_references", "cald_best_tgo"), "accuracy"),
    ),
    "C7": Claim(
        "The best α falls from epoch to epoch",
        "Table 1",
        "Mistral, Evol: epoch 1 .3/.1/.01 76.2/79.8/76.4; epoch 3 .1/.01 82.9/84.7",
        tuple(
            Contrast(
                f"α = {small:g} gains on {large:g} from epoch 1 to 3",
                {
                    f"alpha_e3_{small:g}": 1,
                    f"alpha_e3_{large:g}": -1,
                    f"alpha_e1_{small:g}": -1,
                    f"alpha_e1_{large:g}": 1,
                },
            )
            for small, large in ((0.01, 0.1), (0.1, 0.3))
        ),
    ),
    "C8": Claim(
        "Each component of DistiLLM-2 adds: contrast, β, α",
        "Table 5",
        "v1 41.55, contrastive 43.61, + β 44.80, + α 45.22, all 46.50",
        (
            *over("cald", ("distillm",)),
            *over("distillm2_no_alpha", ("cald",)),
            *over("distillm2_no_beta", ("cald",)),
            *over("distillm2", ("distillm2_no_alpha", "distillm2_no_beta")),
        ),
    ),
    "C16": Claim(
        "Sampling once an epoch is nearly on-policy, at a fraction of the cost",
        "Table 12",
        "ROUGE-L on-policy 26.37, batched 26.20, off-policy 26.13",
        (
            Contrast(
                "batched within .01 of on-policy",
                {"distillm2": 1, "distillm2_on_policy": -1},
                margin=-0.01,
            ),
            Contrast(
                "on-policy costs 1.5 times as much or more",
                {"distillm2_on_policy": 1, "distillm2": -1},
                "log_seconds",
                math.log(1.5),
            ),
        ),
    ),
}


def get_claim(name: str) -> Claim:
    """The claim of that name; ValueError lists all of them and the nearest."""
    if name.upper() not in CLAIMS:
        raise ValueError(nearest("claim", name, CLAIMS))
    return CLAIMS[name.upper()]


def run(names: Sequence[str], folder: Path, seeds: int = SEEDS, protocol: Protocol | None = None):
    """Run what these claims need and `folder` lacks; seeds outermost, so that all grow together."""
    arms = [name for claim in map(get_claim, names) for name in claim.arms]
    run_arms(arms, folder, seeds, protocol)


def run_arms(names: Sequence[str], folder: Path, seeds: int, protocol: Protocol | None = None):
    known = ARMS | GRID | MAP
    real = [name for name in dict.fromkeys(names) if name in known]
    if {"toy_kl", "toy_rkl"} & set(names):
        run_toy(folder)
    jobs = [
        Job(protocol or Protocol(), name, known[name], seed)
        for seed in range(seeds)
        for name in real
    ]
    if jobs:
        run_grid(jobs, folder)


def run_toy(folder: Path, seeds: int = TOY_SEEDS) -> None:
    """C1: mass in the head (first 10 of 80 tokens) and in the tail (from 46) after five steps."""
    log_p, start = toy.half_gaussian(seeds), toy.random_logits(seeds)
    for name, loss in (("toy_kl", D.kl), ("toy_rkl", D.reverse_kl)):
        after = toy.descend(loss, log_p, start, steps=5)[-1].exp()
        for seed in range(seeds):
            head, tail = after[seed, :10].sum().item(), after[seed, 46:].sum().item()
            job = {"name": name, "seed": seed, "protocol": {"task": "toy", "steps": 5}}
            content = {"job": job, "scores": {"head": head, "tail": tail}, "seconds": 0.0}
            write_log(folder / f"toy-{name}-{seed}.json", {**content, **machine()})


def logs_of(name: str, folder: Path) -> dict[int, dict]:
    """Seed → log of an arm."""
    task = "toy" if name.startswith("toy_") else "instruct"
    files = sorted(folder.glob(f"{task}-{name}-*.json"))
    logs = filter(None, map(read_log, files))
    return {log["job"]["seed"]: log for log in logs if log["job"]["name"] == name}


def judge(contrast: Contrast, folder: Path) -> Result:
    """The contrast over the seeds that all its arms have; ValueError where there are fewer than two."""
    logs = {name: logs_of(name, folder) for name in contrast.weights}
    seeds = sorted(set.intersection(*(set(found) for found in logs.values())))
    if len(seeds) < 2:
        short = [name for name, found in logs.items() if len(found) < 2]
        raise ValueError(
            f"fewer than two seeds of {', '.join(short)} in {folder}: run the claim first"
        )
    measure = METRICS[contrast.metric]
    values = [
        sum(weight * measure(logs[name][seed]) for name, weight in contrast.weights.items())
        for seed in seeds
    ]
    return Result(contrast, tuple(values), *interval(torch.tensor(values, dtype=torch.float64)))


def verdict(results: Sequence[Result]) -> str:
    """holds: every contrast does. reversed: one is. Else not resolved."""
    found = {result.verdict for result in results}
    return "holds" if found == {"holds"} else "reversed" if "reversed" in found else "not resolved"


def weakest(results: Sequence[Result]) -> Result:
    """The contrast that decides: the one whose interval, in units of its width, lies lowest."""
    return min(
        results,
        key=lambda r: (r.mean - r.contrast.margin) / max(r.high - r.low, 1e-12),
    )
