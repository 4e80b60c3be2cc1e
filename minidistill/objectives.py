"""Every distillation method as one short function: what it reads, what it minimises.

The parameters are the description. Positional ones are slots: each is named after the source that fills
it (`sources.py`) unless a run overrides that: tgo, what the teacher wrote; sgo, what the student wrote;
reference; … `state`, if there, says where training stands (for schedules). Keyword-only ones are settings.
A slot holds a `ResponseLogProbs`; the function returns one loss a sample, (batch,) nats.
To add a method, write such a function under `@method`; `distill(..., method="its_name")` finds it.

Sources: DistiLLM-2 (arXiv 2503.07067) and its released code for the baselines, DPKD (2406.19774),
DPO (2305.18290).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from minidistill import curriculum as C
from minidistill import divergences as D
from minidistill.logprobs import ResponseLogProbs
from minidistill.sources import SOURCES
from minidistill.utils import check_positive, unknown_name_message

METHODS: dict[str, "Method"] = {}


@dataclass
class TrainState:
    """Hold where training stands: `epoch` of `epochs`, `progress` in [0, 1], an `AlphaTracker` for each slot.

    `log` is what a method wants recorded at each step (alpha, beta, …); `alphas` are the last mini-batch's, a
    list for each slot.
    """

    epoch: int = 0
    epochs: int = 1
    progress: float = 0.0
    trackers: dict[str, C.AlphaTracker] = field(default_factory=dict)
    log: dict[str, float] = field(default_factory=dict)
    alphas: dict[str, list[float]] = field(default_factory=dict)

    def alpha(self, slot: str, gap: Tensor, alpha0: float, *bounds: float) -> Tensor:
        """α of each sample of a slot, (batch,) → (batch, 1) as `D.skew_kl` wants it; logs the mean."""
        tracker = self.trackers.setdefault(slot, C.AlphaTracker())
        alpha = tracker.update(gap, self.epoch, alpha0, *bounds)
        self.log[f"alpha_{slot}"], self.alphas[slot] = float(alpha.mean()), alpha.tolist()
        return alpha.unsqueeze(-1)

    def state_dict(self) -> dict:
        trackers = {slot: tracker.state_dict() for slot, tracker in self.trackers.items()}
        return {**vars(self), "trackers": trackers}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update({**state, "trackers": {}})
        for slot, saved in state["trackers"].items():
            self.trackers[slot] = C.AlphaTracker()
            self.trackers[slot].load_state_dict(saved)


@dataclass(frozen=True)
class Method:
    """Hold a loss function and what its signature says: the slots it reads and its settings."""

    name: str
    loss: Callable[..., Tensor]
    reads: tuple[str, ...]
    settings: dict[str, object]

    def __call__(self, slots: dict[str, ResponseLogProbs], state: TrainState, **settings) -> Tensor:
        extra = {"state": state} if "state" in inspect.signature(self.loss).parameters else {}
        return self.loss(**{name: slots[name] for name in self.reads}, **extra, **settings)

    def check_settings(self, settings: dict) -> None:
        """TypeError for a setting this method does not have, ValueError for a value it refuses."""
        for name in settings:
            if name not in self.settings:
                known = ", ".join(self.settings) or "none"
                raise TypeError(f"method {self.name!r} has no setting {name!r}; it has: {known}")
        if settings:
            self._try_out(settings)

    def _try_out(self, settings: dict) -> None:
        """The function knows its own ranges: let it speak on one token, before anything is sampled."""
        even = torch.full((1, 1, 2), 0.5).log()
        label, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        token = ResponseLogProbs(label, mask, even, even.clone)
        with torch.random.fork_rng():
            self(dict.fromkeys(self.reads, token), TrainState(), **settings)


def method(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Register a loss function under its own name."""
    parameters = inspect.signature(loss).parameters.values()
    settings = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    reads = tuple(p.name for p in parameters if p.name in SOURCES)
    METHODS[loss.__name__] = Method(loss.__name__, loss, reads, settings)
    return loss


def get_method(name: str) -> Method:
    """The method of that name; ValueError lists all of them and the nearest."""
    if name not in METHODS:
        raise ValueError(unknown_name_message("method", name, METHODS))
    return METHODS[name]


@method
def sft(reference: ResponseLogProbs) -> Tensor:
    """(3.2) SFT: −log q on the reference responses."""
    return reference.mean(-reference.token_log_q)


@method
def seqkd(tgo: ResponseLogProbs) -> Tensor:
    """(3.3) SeqKD: −log q on the teacher's responses (hard labels)."""
    return tgo.mean(-tgo.token_log_q)


@method
def kd(tgo: ResponseLogProbs) -> Tensor:
    """(3.4) KD: KL(p‖q) on the teacher's responses (soft labels)."""
    return tgo.mean(D.kl(tgo.log_p, tgo.log_q))


@method
def rkl(tgo: ResponseLogProbs) -> Tensor:
    """KL(q‖p) on the teacher's responses: KD with its direction turned round."""
    return tgo.mean(D.reverse_kl(tgo.log_p, tgo.log_q))


@method
def imitkd(sgo: ResponseLogProbs) -> Tensor:
    """(3.5) ImitKD: KL(p‖q) on the student's own responses."""
    return sgo.mean(D.kl(sgo.log_p, sgo.log_q))


@method
def gkd(tgo: ResponseLogProbs, sgo: ResponseLogProbs, *, beta: float = 0.9) -> Tensor:
    """(3.6) GKD: JSD_β on both kinds of responses; the released code fixes β = 0.9."""
    return sum(y.mean(D.jsd(y.log_p, y.log_q, beta)) for y in (tgo, sgo)) / 2


@method
def skl(tgo: ResponseLogProbs, *, alpha: float = 0.1) -> Tensor:
    """SKL_α on the teacher's responses: the pull-up half of CALD alone."""
    return tgo.mean(D.skew_kl(tgo.log_p, tgo.log_q, alpha))


@method
def srkl(tgo: ResponseLogProbs, *, alpha: float = 0.1) -> Tensor:
    """SRKL_α on the teacher's responses: the same data as `skl`, the other direction."""
    return tgo.mean(D.skew_reverse_kl(tgo.log_p, tgo.log_q, alpha))


@method
def distillm(tgo: ResponseLogProbs, replay: ResponseLogProbs, *, alpha: float = 0.1) -> Tensor:
    """(3.7) DistiLLM: SRKL_α on the teacher's responses and on what its adaptive sampler (3.9) serves."""
    return sum(y.mean(D.skew_reverse_kl(y.log_p, y.log_q, alpha)) for y in (tgo, replay)) / 2


@method
def speculative_kd(speculative: ResponseLogProbs) -> Tensor:
    """(3.8) Speculative KD: KL(p‖q) on drafts of the student that the teacher has corrected."""
    return speculative.mean(D.kl(speculative.log_p, speculative.log_q))


@method
def dpkd(
    tgo: ResponseLogProbs,
    initial_sgo: ResponseLogProbs,
    *,
    lam: float = 0.1,
    per_token: bool = False,
) -> Tensor:
    r"""(4.1) DPKD: −log σ(λ log[q(y_t)/p(y_t)] − λ log[q(y_s)/p(y_s)]): DPO with the teacher as judge.

    The pairs are made once, before training, as preference data is. Nothing bounds log q(y_s) from
    below, so it runs away: this is the course's wrong turn.
    Sequence log-probs as in the paper; `per_token=True` takes means as its released code does.
    """
    check_positive(lam=lam)
    return preference_loss(
        tgo, initial_sgo, lam, ResponseLogProbs.mean if per_token else ResponseLogProbs.sum
    )


@method
def dpo(chosen: ResponseLogProbs, rejected: ResponseLogProbs, *, beta: float = 0.1) -> Tensor:
    r"""(10.3) DPO: −log σ(β log[π(y_w)/π_ref(y_w)] − β log[π(y_l)/π_ref(y_l)]), y_w preferred to y_l.

    The student is the policy π; its reference π_ref, a frozen copy of the student before training,
    stands where a teacher stands. (batch,) nats; log 2 where the two agree. Sequence log-probs.
    Source: DPO (arXiv 2305.18290).
    """
    check_positive(beta=beta)
    return preference_loss(chosen, rejected, beta, ResponseLogProbs.sum)


def preference_loss(
    winner: ResponseLogProbs, loser: ResponseLogProbs, weight: float, reduce: Callable
) -> Tensor:
    """−log σ(weight · (winner's log[q/p] − loser's)): all of DPO, and all of DPKD."""
    ratios = [reduce(y, y.token_log_q - y.token_log_p) for y in (winner, loser)]
    return -F.logsigmoid(weight * (ratios[0] - ratios[1]))


@method
def cald(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, *, alpha: float = 0.1, beta: float = 0.5
) -> Tensor:
    r"""(5.1) CALD: ½ [SKL_α(x, y_t) + SRKL_α(x, y_s)]: pull up the teacher's, push down the student's.

    `beta` other than ½ weighs the two: (1−β) SKL + β SRKL.
    """
    D.check_unit_interval("beta", beta)
    pull_up = tgo.mean(D.skew_kl(tgo.log_p, tgo.log_q, alpha))
    push_down = sgo.mean(D.skew_reverse_kl(sgo.log_p, sgo.log_q, alpha))
    return (1 - beta) * pull_up + beta * push_down


@method
def cald_kl(tgo: ResponseLogProbs, sgo: ResponseLogProbs) -> Tensor:
    """CALD without the skew: ½ [KL on the teacher's responses + RKL on the student's]."""
    return cald(tgo, sgo, alpha=0.0)


@method
def cald_by_epoch(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, *, alphas=(0.1, 0.1, 0.01)
):
    """CALD with an α for each epoch, the last one from then on: how the paper's Table 1 is made."""
    if not isinstance(alphas, list | tuple) or not alphas:
        raise ValueError(f"alphas must be a list with an α for each epoch, but got {alphas!r}")
    for alpha in alphas:
        D.check_unit_interval("alphas", alpha)
    return cald(tgo, sgo, alpha=alphas[min(state.epoch, len(alphas) - 1)])


@method
def distillm2(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, *, alpha0=0.1, low=0.01, high=0.1,
    beta0=0.5, beta_end=0.75,
):  # fmt: skip
    r"""(8.1) DistiLLM-2: ½ [(1−β) SKL_{α_t}(x, y_t) + β SRKL_{α_s}(x, y_s)].

    α_t, α_s: one a sample, (7.1), from the gap p − q on y_t and q − p on y_s; α₀ in the first epoch, then
    between `low` and `high`, which α₀ must be too. β: (7.3), from β₀ to `beta_end`.
    """
    _check_weights(alpha0=alpha0, beta0=beta0, beta_end=beta_end)
    _check_bounds(alpha0, low, high)
    alpha_t = state.alpha("tgo", tgo.confidence_gap(), alpha0, low, high)
    alpha_s = state.alpha("sgo", -sgo.confidence_gap(), alpha0, low, high)
    beta = C.linear_beta(state.progress, start=beta0, end=beta_end)
    return weighted_cald(tgo, sgo, state, alpha_t, alpha_s, beta)


@method
def distillm2_no_alpha(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, *, alpha0=0.1, beta0=0.5, beta_end=0.75
):  # fmt: skip
    """Ablation: DistiLLM-2 with α fixed at α₀; only β moves."""
    _check_weights(alpha0=alpha0, beta0=beta0, beta_end=beta_end)
    beta = C.linear_beta(state.progress, start=beta0, end=beta_end)
    return weighted_cald(tgo, sgo, state, alpha0, alpha0, beta)


@method
def distillm2_paper_beta(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, *, alpha0=0.1, beta0=0.5
):
    """DistiLLM-2 with α fixed and β by the paper's formula (7.4) read literally."""
    _check_weights(alpha0=alpha0, beta0=beta0)
    within = min(1.0, state.progress * state.epochs - state.epoch)
    beta = C.paper_beta(state.epoch + 1, state.epochs, within, 1, start=beta0)
    return weighted_cald(tgo, sgo, state, alpha0, alpha0, beta)


@method
def distillm2_no_beta(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, *, alpha0=0.1, low=0.01, high=0.1,
    beta0=0.5,
):  # fmt: skip
    """Ablation: DistiLLM-2 with β fixed at β₀; only α adapts."""
    _check_weights(alpha0=alpha0, beta0=beta0)
    _check_bounds(alpha0, low, high)
    alpha_t = state.alpha("tgo", tgo.confidence_gap(), alpha0, low, high)
    alpha_s = state.alpha("sgo", -sgo.confidence_gap(), alpha0, low, high)
    return weighted_cald(tgo, sgo, state, alpha_t, alpha_s, beta0)


def _check_weights(**weights: float) -> None:
    for name, value in weights.items():
        D.check_unit_interval(name, value)


def _check_bounds(alpha0: float, low: float, high: float) -> None:
    _check_weights(low=low, high=high)
    if not low <= alpha0 <= high:
        bounds = f"low = {low} and high = {high}, alpha's after the first epoch"
        raise ValueError(f"alpha0 must lie between {bounds}, but got {alpha0}")


def weighted_cald(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, alpha_t, alpha_s, beta: float
) -> Tensor:
    """½ [(1−β) SKL_{α_t} + β SRKL_{α_s}], what (8.1) and its ablations end in; half of CALD at β = ½."""
    state.log["beta"] = beta
    pull_up = tgo.mean(D.skew_kl(tgo.log_p, tgo.log_q, alpha_t))
    push_down = sgo.mean(D.skew_reverse_kl(sgo.log_p, sgo.log_q, alpha_s))
    return ((1 - beta) * pull_up + beta * push_down) / 2
