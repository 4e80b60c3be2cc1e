r"""Divergences from hidden states: the logits of a few tokens at a time, never those of a whole batch.

A model ends in logits z = H Wᵀ, as wide as the vocabulary: by far the largest tensors of a training step.
A divergence needs them of two models, and several more of their size on the way to the gradient. Here a chunk
of tokens gets its logits, its values and its gradient, which is multiplied by W and H at once and forgotten:

    ∂D/∂z = u − q Σ_v u(v) with u(v) = ∂D/∂log q(v),      ∂D/∂H = ∂D/∂z W,      ∂D/∂W = (∂D/∂z)ᵀ H.

    divergence("skew_kl", hidden_p, head_p, hidden_q, head_q, alpha=0.1)            # (tokens,) nats
    weighted_sum("skew_kl", hidden_p, head_p, hidden_q, head_q, weight, alpha=0.1)  # Σ_t w_t D_t

The second knows what each token counts, and makes the gradient with the value: four matrix products, where
cross-entropy has three. The first can be used in any way, and for a head that is trained makes each chunk
twice: six. Names and settings are those of `divergences`. Logits must be finite; the teacher has no gradient.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidistill.divergences import check_unit_interval
from minidistill.utils import unknown_name_message

CHUNK = 128  # tokens whose logits exist at a time
CACHED = 2**18  # logits that a processor's cache holds with what is made of them


def divergence(
    name: str, hidden_p: Tensor, head_p: Tensor, hidden_q: Tensor, head_q: Tensor, *,
    chunk: int = CHUNK, **settings,
) -> Tensor:  # fmt: skip
    """Compute `divergences.NAME` of the teacher p and the student q at each token, (tokens,) nats.

    `hidden` (tokens, width of the model), `head` (vocab, width of the model): logits are hidden @ head.T, in
    float32 or better. `settings` as in `divergences`, α or β one number or one a token, (tokens,). Raises
    ValueError for an unknown name, settings out of range, shapes that do not fit.
    """
    judge = _judge(name, hidden_p, head_p, settings)
    _check_shapes(hidden_p, head_p, hidden_q, head_q)
    return _PerToken.apply(judge, hidden_q, head_q, chunk)


def weighted_sum(
    name: str, hidden_p: Tensor, head_p: Tensor, hidden_q: Tensor, head_q: Tensor, weight: Tensor,
    *, chunk: int = CHUNK, **settings,
) -> Tensor:  # fmt: skip
    """Compute Σ_t weight_t · D_t, a scalar, and its gradient in the same pass. `weight` (tokens,), detached.

    The loss of a batch has the weights 1 / (responses · length of the token's response), and 0 for padding.
    Everything else as in `divergence`.
    """
    judge = _judge(name, hidden_p, head_p, settings)
    _check_shapes(hidden_p, head_p, hidden_q, head_q, weight)
    return _WeightedSum.apply(judge, hidden_q, head_q, weight.detach(), chunk)


def token_log_probs(hidden: Tensor, head: Tensor, labels: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Compute log q(label) at each token, (tokens,): what SFT, SeqKD, DPO and confidence gaps read."""

    def judge(part: slice) -> Callable:
        def rule(rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
            label = labels[part][rows].unsqueeze(-1)
            return log_q.gather(-1, label).squeeze(-1), torch.zeros_like(log_q).scatter_(
                -1, label, 1
            )

        return rule

    return _PerToken.apply(judge, hidden, head, chunk)


# --- D and u, but for multiples of q, which fall out of ∂D/∂z ---------------------------------------------
def kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """(1.1): u = −p."""
    p = log_p.exp()
    return (p * (log_p - log_q)).sum(-1), -p


def reverse_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """(1.2): u = q log[q/p]."""
    u = log_q.exp() * (log_q - log_p)
    return u.sum(-1), u


def total_variation(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """(1.4): u = ½ q sign(q − p)."""
    q = log_q.exp()
    excess = q - log_p.exp()
    return excess.abs().sum(-1) / 2, q * excess.sign() / 2


def skew_kl(log_p: Tensor, log_q: Tensor, alpha=0.1) -> tuple[Tensor, Tensor]:
    """(2.2): u = −p (1−α) q/m with m = α p + (1−α) q."""
    p, q = log_p.exp(), log_q.exp()
    m, log_m = _mixture(p, q, log_p, log_q, alpha)
    share = (
        (1 - alpha) * q.clamp_(min=torch.finfo(q.dtype).tiny) / m
    )  # 1 for α = 0, however small q
    return (p * (log_p - log_m)).sum(-1), -p * share


def skew_reverse_kl(
    log_p: Tensor, log_q: Tensor, alpha=0.1, detach_mixture: bool = False
) -> tuple[Tensor, Tensor]:
    """(2.3): u = q log[q/m] − q α q/m with m = (1−α) p + α q, the last term only if m is not detached."""
    p, q = log_p.exp(), log_q.exp()
    m, log_m = _mixture(q, p, log_q, log_p, alpha)
    terms = q * (log_q - log_m)
    return terms.sum(-1), terms if detach_mixture else terms - q * (alpha * q / m)


def jsd(log_p: Tensor, log_q: Tensor, beta=0.5) -> tuple[Tensor, Tensor]:
    """(1.3): u = (1−β) q log[q/m] with m = β p + (1−β) q; what m's own derivative adds falls out."""
    p, q = log_p.exp(), log_q.exp()
    _, log_m = _mixture(p, q, log_p, log_q, beta)
    down = q * (log_q - log_m)
    return beta * (p * (log_p - log_m)).sum(-1) + (1 - beta) * down.sum(-1), (1 - beta) * down


def _mixture(a: Tensor, b: Tensor, log_a: Tensor, log_b: Tensor, alpha) -> tuple[Tensor, Tensor]:
    """m = α a + (1−α) b and log m, which also holds where m is too small for its number format."""
    m = alpha * a + (1 - alpha) * b
    alpha = torch.as_tensor(alpha, dtype=m.dtype, device=m.device)
    floor = torch.maximum(log_a + alpha.log(), log_b + (-alpha).log1p())
    tiny = torch.finfo(m.dtype).tiny
    log_m = torch.where(m < tiny, floor, m.log())
    return m.clamp_(min=tiny), log_m


RULES = {f.__name__: f for f in (kl, reverse_kl, jsd, total_variation, skew_kl, skew_reverse_kl)}


# --- chunk by chunk -----------------------------------------------------------------------------------
def _judge(name: str, hidden_p: Tensor, head_p: Tensor, settings: dict) -> Callable:
    """What turns a chunk of tokens into a rule for log q, with the teacher's log p for them."""
    if name not in RULES:
        raise ValueError(unknown_name_message("divergence", name, RULES))
    settings = dict(settings)
    for key in settings.keys() & {"alpha", "beta"}:
        check_unit_interval(key, settings[key])
        if isinstance(settings[key], Tensor) and settings[key].ndim:
            settings[key] = settings[key].detach().expand(len(hidden_p)).unsqueeze(-1)
    if name == "jsd" and settings.get("beta", 0.5) in (0, 1):  # by the field's convention
        name = "reverse_kl" if settings.pop("beta") else "kl"
    rule, hidden_p, head_p = RULES[name], hidden_p.detach(), head_p.detach()

    def of_chunk(part: slice) -> Callable:
        logits = _logits(hidden_p[part], head_p)
        own = {k: v[part] if isinstance(v, Tensor) and v.ndim else v for k, v in settings.items()}

        def of_rows(rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
            here = {k: v[rows] if isinstance(v, Tensor) and v.ndim else v for k, v in own.items()}
            return rule(logits[rows].log_softmax(-1), log_q, **here)

        return of_rows

    return of_chunk


@torch.no_grad()
def _in_chunks(
    judge: Callable, hidden: Tensor, head: Tensor, chunk: int, weight: Tensor | None, for_head: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """D (tokens,); and where a weight is given the gradients of Σ_t w_t D_t by hidden and, if asked, head."""
    values, by_hidden = [hidden.new_zeros(0, dtype=_wide(hidden))], [hidden[:0]]
    by_head = None
    if weight is not None and for_head:
        by_head = torch.zeros(head.shape, dtype=_wide(head), device=head.device)
    for part in _slices(len(hidden), chunk):
        logits, rule = _logits(hidden[part], head), judge(part)
        rows_at_once = max(1, CACHED // logits.shape[1]) if logits.device.type == "cpu" else chunk
        for rows in _slices(len(logits), rows_at_once):
            log_q = logits[rows].log_softmax(-1)
            value, u = rule(rows, log_q)
            values.append(value)
            if weight is not None:
                u *= weight[part][rows].unsqueeze(-1)
                logits[rows] = u.addcmul_(log_q.exp_(), u.sum(-1, keepdim=True), value=-1)  # ∂/∂z
        if weight is not None:
            by_hidden.append(logits.to(hidden.dtype) @ head)
        if by_head is not None:
            by_head.addmm_(logits.T, hidden[part].to(by_head.dtype))
    if weight is None:
        return torch.cat(values), None, None
    return (
        torch.cat(values),
        torch.cat(by_hidden),
        by_head if by_head is None else by_head.to(head.dtype),
    )


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, judge, hidden, head, weight, chunk):
        trained, for_head = any(ctx.needs_input_grad), ctx.needs_input_grad[2]
        found = _in_chunks(judge, hidden, head, chunk, weight if trained else None, for_head)
        values, *ctx.gradients = found
        return values @ weight.to(values.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        by_hidden, by_head = (g if g is None or grad == 1 else g * grad for g in ctx.gradients)
        return None, by_hidden, by_head, None, None


class _PerToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, judge, hidden, head, chunk):
        """The gradient by hidden is a row a token, so that it can wait; that by head is a sum over them."""
        ctx.judge, ctx.chunk, ctx.for_head = judge, chunk, ctx.needs_input_grad[2]
        ctx.save_for_backward(hidden, head)
        once = ctx.needs_input_grad[1] and not ctx.for_head
        ones = hidden.new_ones(len(hidden), dtype=_wide(hidden)) if once else None
        values, ctx.by_hidden, _ = _in_chunks(judge, hidden, head, chunk, ones, False)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        if ctx.by_hidden is not None:
            return None, (ctx.by_hidden * grad.unsqueeze(-1)).to(ctx.by_hidden.dtype), None, None
        found = _in_chunks(ctx.judge, *ctx.saved_tensors, ctx.chunk, grad, ctx.for_head)
        return None, found[1] if ctx.needs_input_grad[1] else None, found[2], None


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden @ head.T, in float32 at least from here on: sums over a vocabulary want it."""
    return (hidden @ head.T).to(_wide(hidden))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _check_shapes(hidden_p, head_p, hidden_q, head_q, weight: Tensor | None = None) -> None:
    tokens, vocab = len(hidden_q), len(head_q)
    shapes = {
        "hidden_p": (hidden_p, (tokens, *head_p.shape[1:])),
        "head_p": (head_p, (vocab, *hidden_p.shape[1:])),
        "hidden_q": (hidden_q, (tokens, *head_q.shape[1:])),
    }
    if weight is not None:
        shapes["weight"] = (weight, (tokens,))
    for name, (tensor, wanted) in shapes.items():
        if tuple(tensor.shape) != wanted or (name != "weight" and tensor.ndim != 2):
            raise ValueError(f"{name} must have the shape {wanted}, but has {tuple(tensor.shape)}")
