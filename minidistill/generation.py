"""Responses: the teacher's (TGO), the student's (SGO), and drafts that the teacher corrects."""

import inspect
from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM

from minidistill.models import Pair
from minidistill.scoring import collate

# transformers before 5.24 (Python 3.10 gets no newer one) calls the key–value cache past_key_values.
FORWARD = inspect.signature(LlamaForCausalLM.forward).parameters
CACHE = "cache" if "cache" in FORWARD else "past_key_values"
CACHE_BYTES = 512 * 2**20


def sample(
    model,
    prompts: Sequence[Sequence[int]],
    pair: Pair,
    *,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """One response a prompt, in big batches of similar length; temperature 0 is greedy.

    A response ends with its first stop token, which belongs to it, or after `max_new_tokens`.
    """
    check_sampling(temperature, top_p)
    how = {"do_sample": False, "repetition_penalty": 1.0}  # some models declare another as default
    if temperature > 0:
        how |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    forbidden = list(range(pair.vocab, model.config.vocab_size)) or None
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: list[list[int]] = [[]] * len(prompts)
    rows = _rows(model, max(map(len, prompts), default=0) + max_new_tokens)
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            batch = collate([prompts[i] for i in part], [[]] * len(part), pair.pad_id, pair.device)
            output = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(pair.stop_ids),
                pad_token_id=pair.pad_id,
                suppress_tokens=forbidden,
                logits_processor=[lambda _, logits, part=part: check_logits(logits, part)],
                **how,
            )
            for i, row in zip(part, output[:, batch.input_ids.shape[1] :].tolist(), strict=True):
                responses[i] = cut_at_stop(row, pair.stop_ids)
    model.train(was_training)
    return responses


def cut_at_stop(ids: list[int], stop_ids: set[int]) -> list[int]:
    """Up to and with the first stop token. By position: the pad id may be a stop token itself."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids) - 1)
    return ids[: end + 1]


@torch.no_grad()
def speculative_drafts(
    prompts: Sequence[Sequence[int]], pair: Pair, *, max_new_tokens=48, temperature=1.0, top_p=1.0,
    seed=0, top_k: int = 5,
) -> list[list[int]]:  # fmt: skip
    """Speculative KD: the student drafts; a token outside the teacher's top K is the teacher's to redo.

    Decided token by token, which in distribution is the same as checking drafts of several tokens.
    `top_k` is 25 of some 32,000 tokens in the paper (arXiv 2410.11325); a tiny vocabulary wants less.
    """
    check_sampling(temperature, top_p)
    responses: list[list[int]] = [[] for _ in prompts]
    was_training = pair.student.training
    pair.student.eval()
    rows = _rows(pair.teacher, max(map(len, prompts), default=0) + max_new_tokens)
    rng = torch.Generator(device=pair.device).manual_seed(seed)
    for start in range(0, len(prompts), rows):
        part = range(start, min(start + rows, len(prompts)))
        batch = collate([prompts[i] for i in part], [[]] * len(part), pair.pad_id, pair.device)
        ids, seen = batch.input_ids, batch.attention_mask
        caches, written = [None, None], []
        for _ in range(max_new_tokens):
            probs = []
            for k, model in enumerate((pair.student, pair.teacher)):
                new = ids if caches[k] is None else ids[:, -1:]
                positions = (seen.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
                output = model(new, attention_mask=seen, position_ids=positions, **{CACHE: caches[k]},
                               use_cache=True, logits_to_keep=1)  # fmt: skip
                caches[k] = output[CACHE]
                logits = check_logits(output.logits[:, -1, : pair.vocab].float(), part)
                probs.append(nucleus(logits / (temperature or 1e-4), top_p))
            draft = torch.multinomial(probs[0], 1, generator=rng)
            redo = torch.multinomial(probs[1], 1, generator=rng)
            accepted = (probs[1].topk(min(top_k, pair.vocab)).indices == draft).any(
                -1, keepdim=True
            )
            ids = torch.cat([ids, torch.where(accepted, draft, redo)], dim=1)
            seen = torch.cat([seen, torch.ones_like(draft)], dim=1)
            written.append(ids[:, -1].tolist())
            stopped = [any(t in pair.stop_ids for t in row) for row in zip(*written, strict=True)]
            if all(stopped):
                break
        for i, row in zip(part, zip(*written, strict=True), strict=True):
            responses[i] = cut_at_stop(list(row), pair.stop_ids)
    pair.student.train(was_training)
    return responses


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
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


def _rows(model, width: int) -> int:
    """How many sequences of `width` tokens fit a key–value cache of CACHE_BYTES."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_row = 8 * config.num_hidden_layers * heads * size * width
    return max(1, min(1024, CACHE_BYTES // per_row))
