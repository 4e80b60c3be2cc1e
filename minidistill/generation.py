"""Responses: the teacher's (TGO), the student's (SGO), and drafts that the teacher corrects."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig

from minidistill.divergences import check_unit_interval
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import Pair, eval_mode
from minidistill.tokenization import max_batch_size
from minidistill.utils import derive_seed

CACHE_BYTES = 512 * 2**20


def sample(
    model, prompts: Sequence[Sequence[int]], pair: Pair, *,
    max_new_tokens: int = 48, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0,
) -> list[list[int]]:  # fmt: skip
    """One response a prompt, in big batches of similar length; temperature 0 is greedy.

    A response ends with its first stop token, which belongs to it, or after `max_new_tokens`. The model's own
    generation_config has no say. ValueError for a prompt that leaves no room for a response.
    """
    prompts = pair.prompts_for(model, prompts)
    pair.check_length(prompts, max_new_tokens)
    how, stops = _decoding(temperature, top_p), pair.eos_token_ids
    width = model.config.get_text_config().vocab_size
    how |= {
        "max_new_tokens": max_new_tokens, "eos_token_id": sorted(stops), "pad_token_id": pair.pad_token_id,
        "suppress_tokens": [*pair.forbidden_ids, *range(pair.vocab_size, width)] or None,
    }  # fmt: skip
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: list[list[int]] = [[]] * len(prompts)
    longest = max(map(len, prompts), default=0) + max_new_tokens
    rows = max_batch_size(prompts, _max_batch_size(model, longest), width)
    with torch.no_grad(), torch.random.fork_rng(), eval_mode(model), plain_generation(model):
        torch.manual_seed(seed)
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            batch = collate(
                [prompts[i] for i in part], [[]] * len(part), pair.pad_token_id, pair.device
            )
            output = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                logits_processor=[lambda _, logits, part=part: check_logits(logits, part)],
                **batch.extra_inputs,
                **how,
            )
            for i, row in zip(part, output[:, batch.input_ids.shape[1] :].tolist(), strict=True):
                responses[i] = truncate_at_eos(row, stops)
    return responses


@contextmanager
def plain_generation(model) -> Iterator[None]:
    """Put transformers' defaults in place of the model's generation_config, and that back afterwards.

    Beams, penalties, forbidden words and limits that a model declares would decide who writes what; fields
    that a call leaves unset are filled from there. peft hands its config to the model beneath.
    """
    models = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]
    own = [m.generation_config for m in models]
    for m in models:
        m.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for m, config in zip(models, own, strict=True):
            m.generation_config = config


def _decoding(temperature: float, top_p: float) -> dict:
    """Collect what `generate` is told of decoding: greedy at temperature 0."""
    check_sampling(temperature, top_p)
    how = {"do_sample": False}
    if temperature > 0:
        how |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return how


def truncate_at_eos(ids: list[int], eos_token_ids: set[int]) -> list[int]:
    """Up to and with the first stop token. By position: the pad id may be a stop token itself."""
    end = next((i for i, token in enumerate(ids) if token in eos_token_ids), len(ids) - 1)
    return ids[: end + 1]


AcceptanceRule = Callable[
    [torch.Tensor], torch.Tensor
]  # teacher's probabilities → which tokens may stay


def top_k_acceptance(k: int) -> AcceptanceRule:
    """Speculative KD's rule: a drafted token stays if it is among the teacher's k likeliest.

    25 of some 32,000 tokens in the paper (arXiv 2410.11325); a tiny vocabulary wants less.
    """

    def accept(p: torch.Tensor) -> torch.Tensor:
        likeliest = p.topk(min(k, p.shape[-1])).indices
        return torch.zeros_like(p, dtype=torch.bool).scatter(-1, likeliest, True)

    return accept


def typical_acceptance(epsilon: float) -> AcceptanceRule:
    r"""(6.1) Typical acceptance: a drafted token v stays if p(v) > min(ε², ε·exp(−H(p))).

    p is the teacher and H its entropy, as in Medusa (arXiv 2401.10774), which DistiLLM-2 follows for
    its Fig 2. ε = 0 keeps all that the teacher does not forbid: the student's own response, exactly.
    ε = 1 keeps what is likelier than exp(−H); that is *not* the teacher's distribution, see (6.2).
    Raises ValueError for ε outside [0, 1].
    """
    check_unit_interval("epsilon", epsilon)

    def accept(p: torch.Tensor) -> torch.Tensor:
        entropy = torch.special.entr(p).sum(-1, keepdim=True)
        return p > (epsilon * (-entropy).exp()).clamp(max=epsilon**2)

    return accept


def speculative_mixture(p: torch.Tensor, q: torch.Tensor, accept: AcceptanceRule) -> torch.Tensor:
    r"""(6.2) What a corrected draft says next: π(v) = q(v)·1[v ∈ A] + (1 − q(A))·p(v), A what is accepted.

    (..., vocab) probabilities twice → (..., vocab). q where everything is accepted, p where nothing is.
    """
    kept = torch.where(accept(p), q, 0.0)
    return kept + (1 - kept.sum(-1, keepdim=True)) * p


@torch.no_grad()
def speculative_drafts(
    prompts: Sequence[Sequence[int]], pair: Pair, accept: AcceptanceRule, *, draft: int = 4,
    max_new_tokens: int = 48, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0,
) -> list[list[int]]:  # fmt: skip
    """Student and teacher write together; each token has the distribution (6.2), whatever `draft` is.

    The student drafts `draft` tokens, the teacher reads them all in one pass, the accepted ones up to
    the first rejected stay, and that one the teacher draws itself. `accept` sees the teacher at the
    sampling temperature, without the nucleus. Response by response finished ones leave the batch.
    """
    check_sampling(temperature, top_p)
    pair.check_length(prompts, max_new_tokens)
    how = {"temperature": temperature, "top_p": top_p}
    responses: list[list[int]] = [[] for _ in prompts]
    rng = torch.Generator(device=pair.device).manual_seed(derive_seed(seed, "teacher"))
    unfinished, rounds = list(range(len(prompts))), 0
    while unfinished:
        seen = [prompts[i] + responses[i] for i in unfinished]
        length = min(draft, (pair.context_length or math.inf) - max(map(len, seen)))
        drafts = sample(pair.student, seen, pair, max_new_tokens=length, **how,
                        seed=derive_seed(seed, "student", rounds))  # fmt: skip
        rows = _max_batch_size(pair.teacher, max(map(len, seen)) + draft)
        rows = max_batch_size(seen, rows, draft * pair.vocab_size)
        for start in range(0, len(unfinished), rows):
            part = slice(start, start + rows)
            checked = _verify_drafts(
                seen[part], drafts[part], unfinished[part], pair, accept, how, rng
            )
            for i, tokens in zip(unfinished[part], checked, strict=True):
                responses[i] = [*responses[i], *tokens][:max_new_tokens]
        open_ended = lambda y: len(y) < max_new_tokens and y[-1] not in pair.eos_token_ids  # noqa: E731
        unfinished, rounds = [i for i in unfinished if open_ended(responses[i])], rounds + 1
    return responses


def _verify_drafts(
    seen, drafts, names, pair: Pair, accept: AcceptanceRule, how: dict, rng
) -> list[list[int]]:
    """Each draft up to its first rejected token, which the teacher replaces by one of its own."""
    batch = collate(pair.prompts_for(pair.teacher, seen), drafts, pair.pad_token_id, pair.device)
    log_p = response_log_probs(pair.teacher, batch, pair.vocab_size)
    check_logits(log_p.flatten(1), names)
    log_p[..., pair.forbidden_ids] = float("-inf")
    logits = log_p / (how["temperature"] or 1e-4)
    kept = accept(logits.softmax(-1)).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    lengths = (kept & batch.mask).int().cumprod(-1).sum(-1)
    first_rejected = lengths.clamp(max=batch.labels.shape[1] - 1)
    own = top_p_filter(
        logits[torch.arange(len(seen), device=pair.device), first_rejected], how["top_p"]
    )
    redone = torch.multinomial(own, 1, generator=rng).squeeze(-1)
    rows = zip(drafts, lengths.tolist(), redone.tolist(), strict=True)
    return [y if n == len(y) else [*y[:n], token] for y, n, token in rows]


def top_p_filter(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities of the smallest set of tokens that holds `top_p` of the mass, renormalised."""
    probs = logits.softmax(-1)
    if top_p >= 1:
        return probs
    ranked, index = probs.sort(-1, descending=True)
    ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0.0)
    return torch.zeros_like(probs).scatter(-1, index, ranked / ranked.sum(-1, keepdim=True))


def decode(pair: Pair, responses: Sequence[Sequence[int]]) -> list[str]:
    """Responses as text, without the token that ends them."""
    return [pair.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]


def check_sampling(temperature: float, top_p: float) -> None:
    """ValueError naming the argument, its value and its range."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or positive, but got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], but got {top_p}")


def check_logits(logits: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """The logits (batch, vocab) as they are; FloatingPointError names the prompt of a NaN or +inf."""
    bad = (logits.isnan() | (logits == float("inf"))).any(-1)
    if bad.any():
        raise FloatingPointError(
            f"the logits after prompt {indices[int(bad.nonzero()[0])]} are not finite"
        )
    return logits


def _max_batch_size(model, width: int) -> int:
    """Count the sequences of `width` tokens that fit a key–value cache of CACHE_BYTES."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_row = 8 * config.num_hidden_layers * heads * size * width
    return max(1, min(1024, CACHE_BYTES // per_row))
