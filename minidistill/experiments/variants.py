"""Variants of DistiLLM-2 that the paper does not have: arms that could refute an explanation.

Importing this module registers them as methods.
"""

import torch

from minidistill import curriculum as C
from minidistill import divergences as D
from minidistill.logprobs import ResponseLogProbs
from minidistill.objectives import TrainState, method

RULES = ("adaptive", "exact", "shuffled", "reversed", "last_epoch")


@method
def distillm2_variant(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, state: TrainState, *, rule: str = "adaptive",
    alpha0: float = 0.1, low: float = 0.01, high: float = 0.1, beta0: float = 0.5, beta_end: float = 0.75,
    detach_mixture: bool = False, halved: bool = True,
):  # fmt: skip
    r"""(8.1) with another rule for α, another range, another end of β, or the released code's gradient.

    `rule`: of α from the second epoch on. "adaptive" is (7.1); "exact" solves what (7.1) approximates, (7.2);
    "shuffled" deals (7.1)'s values out to other samples of the batch; "reversed" gives low + high − α;
    "last_epoch" takes m of (7.1) from the epoch before, not from the first.
    `detach_mixture`: no gradient through the mixture of SRKL, as in the released code.
    `halved`: the ½ of (8.1).
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, but got {rule!r}")
    alphas = [
        _alpha(state, slot, y, sign, rule, alpha0, low, high)
        for slot, y, sign in (("tgo", tgo, 1.0), ("sgo", sgo, -1.0))
    ]
    beta = state.log["beta"] = C.linear_beta(state.progress, start=beta0, end=beta_end)
    pull_up = tgo.mean(D.skew_kl(tgo.log_p, tgo.log_q, alphas[0]))
    push_down = sgo.mean(D.skew_reverse_kl(sgo.log_p, sgo.log_q, alphas[1], detach_mixture))
    return ((1 - beta) * pull_up + beta * push_down) / (2 if halved else 1)


def _alpha(state: TrainState, slot: str, y, sign: float, rule: str, alpha0, low, high):
    """α of each sample of a slot, (batch, 1); α₀ in the first epoch, by any rule."""
    gap = sign * y.confidence_gap()
    first = state.alpha(slot, gap, alpha0)  # adds the first epoch's gaps up
    if rule == "last_epoch":
        own = state.trackers.setdefault(f"{slot}_{state.epoch}", C.AlphaTracker())
        own.update(gap, 0)  # adds this epoch's up
    if state.epoch == 0:
        return first
    last = f"{slot}_{state.epoch - 1}" if rule == "last_epoch" else slot
    reference = state.trackers[last].reference_gap
    if rule == "exact":
        p, q = (y.mean(log).exp() for log in (y.token_log_p, y.token_log_q))
        wins, loses = (p, q) if sign > 0 else (q, p)
        alpha = C.exact_alpha(wins, loses, (1 - alpha0) * max(reference, 0.0), low, high)
    else:
        alpha = C.adaptive_alpha(gap, reference, alpha0, low, high)
    if rule == "shuffled":
        alpha = alpha[torch.randperm(len(alpha), device=alpha.device)]
    if rule == "reversed":
        alpha = low + high - alpha
    state.log[f"alpha_{slot}"] = float(alpha.mean())
    return alpha.unsqueeze(-1)
