"""Score real responses with both models: log ratios, confidences, per-token gradients."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from minidistill import divergences as D
from minidistill.logprobs import ResponseLogProbs, collate, response_log_probs
from minidistill.models import Pair
from minidistill.rollouts import Rollouts


def logit_gradient(divergence: Callable, p, q) -> Tensor:
    """Differentiate a divergence by z on two tokens (this one, all else), where q = sigmoid(z)."""
    p, q = torch.broadcast_tensors(torch.as_tensor(p), torch.as_tensor(q))
    logit = torch.logit(q).requires_grad_()
    log_q = torch.stack([logit, torch.zeros_like(logit)], -1).log_softmax(-1)
    log_p = torch.stack([p, 1 - p], -1).log()
    return torch.autograd.grad(divergence(log_p, log_q).sum(), logit)[0]


@torch.no_grad()
def log_ratios(pair: Pair, prompts: Sequence, responses: Sequence) -> list[Tensor]:
    """log p(y_t | x, y_<t) − log q(y_t | x, y_<t) of each written token: a tensor a response, nats."""
    batch = collate(prompts, responses, pair.pad_token_id, pair.device)
    chosen = [
        response_log_probs(model, batch, pair.vocab_size).gather(-1, batch.labels[..., None])[
            ..., 0
        ]
        for model in (pair.teacher, pair.student)
    ]
    ratios = (chosen[0] - chosen[1]).cpu()
    return [row[: len(y)] for row, y in zip(ratios, responses, strict=True)]


def score_both_sources(pair, task, config) -> dict[str, ResponseLogProbs]:
    """One teacher and one student response to each training prompt, as both models see them, on the CPU."""
    rollouts = Rollouts(pair, task, {"tgo": "tgo", "sgo": "sgo"}, config)
    rollouts.collect(0)
    with torch.no_grad():
        scored = rollouts.score(list(range(len(task.train))))
    return {slot: _on_cpu(y) for slot, y in scored.items()}


def _on_cpu(y: ResponseLogProbs) -> ResponseLogProbs:
    log_p = y.log_p.cpu()
    return ResponseLogProbs(y.labels.cpu(), y.mask.cpu(), y.log_q.cpu(), lambda: log_p)


def token_gradient(
    responses: ResponseLogProbs, divergence: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """−∂/∂z of a divergence at the token that was written, z the student's logits: (tokens,).

    Positive: the token is pulled up. One number a written token, in the order of the mask.
    """
    logits = responses.log_q.detach().clone().requires_grad_()
    value = divergence(responses.log_p, logits.log_softmax(-1))
    (gradient,) = torch.autograd.grad(value[responses.mask].sum(), logits)
    return -gradient.gather(-1, responses.labels.unsqueeze(-1)).squeeze(-1)[responses.mask]


def skl_token_gradient(responses: ResponseLogProbs, alpha: float = 0.1) -> Tensor:
    """`force` of SKL_α (2.2): what CALD's first half does to a written token."""
    return token_gradient(responses, lambda log_p, log_q: D.skew_kl(log_p, log_q, alpha))


def srkl_token_gradient(responses: ResponseLogProbs, alpha: float = 0.1) -> Tensor:
    """`force` of SRKL_α (2.3): what CALD's second half does to a written token."""
    return token_gradient(responses, lambda log_p, log_q: D.skew_reverse_kl(log_p, log_q, alpha))


def confidences(both: Mapping[str, ResponseLogProbs]) -> dict[str, tuple[Tensor, Tensor]]:
    """Slot → (the writer's confidence, the reader's), each exp(mean token log-prob): (batch,) twice.

    The teacher wrote "tgo", the student "sgo"; writer minus reader is the gap that (7.1) reads.
    """
    found = {}
    for slot, y in both.items():
        p, q = (y.mean(x).exp().detach() for x in (y.token_log_p, y.token_log_q))
        found[slot] = (p, q) if slot == "tgo" else (q, p)
    return found


def clip_shares(alpha: Tensor, low: float = 0.01, high: float = 0.1) -> dict[str, float]:
    """Compute the share of samples that have their alpha at `low`, strictly between, at `high`."""
    at_low, at_high = (torch.isclose(alpha, alpha.new_tensor(end)) for end in (low, high))
    parts = {"low": at_low, "between": ~(at_low | at_high), "high": at_high}
    return {name: part.float().mean().item() for name, part in parts.items()}
