"""From token ids to the log-probabilities of a response. The only shift and the only mask.

A batch is laid out the way a model generates: prompts padded on the left to one width, responses
padded on the right, so that every response starts in the same column.

    input_ids  ⟨pad⟩ ⟨pad⟩ tell a story ⟨assistant⟩ | once upon a time ⟨eos⟩ ⟨pad⟩
    predicts                            once        | upon a time ⟨eos⟩  ·     ·
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from minidistill.tokenization import EncodedPrompt


@dataclass(frozen=True)
class Batch:
    """Hold token ids: input_ids, attention_mask (batch, prompt + tokens); labels, mask (batch, tokens).

    `extra_inputs`: other keyword arguments of the model's forward, (batch, …) each; empty for text.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    mask: Tensor
    extra_inputs: dict[str, Tensor] = field(default_factory=dict)


def collate(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, device="cpu"
) -> Batch:
    """Pad prompts left and responses right. The mask follows positions, never the value of `pad`."""
    width = max(map(len, prompts), default=0)
    tokens = max(map(len, responses), default=0)
    ids = torch.full((len(prompts), width + tokens), pad)
    seen = torch.zeros_like(ids)
    for row, (x, y) in enumerate(zip(prompts, responses, strict=True)):
        ids[row, width - len(x) : width + len(y)] = torch.tensor([*x, *y], dtype=ids.dtype)
        seen[row, width - len(x) : width + len(y)] = 1
    ids, seen = ids.to(device), seen.to(device)
    rows = [x.extra_inputs for x in prompts if isinstance(x, EncodedPrompt)]
    names = rows[0] if rows else ()
    extra = {name: torch.cat([row[name] for row in rows]).to(device) for name in names}
    return Batch(ids, seen, ids[:, width:], seen[:, width:].bool(), extra)


def response_log_probs(model, batch: Batch, vocab_size: int) -> Tensor:
    """log π(· | x, y_<t) for each response token y_t, float32: (batch, tokens, vocab).

    Logits are widened to float32 *before* the softmax and cut to the `vocab` tokens that teacher
    and student share.
    """
    return response_logits(model, batch)[..., :vocab_size].float().log_softmax(-1)


def response_logits(model, batch: Batch) -> Tensor:
    """What the model says about each response token y_t: (batch, tokens, width of its head).

    The shift by one is here and nowhere else: the logits in column t − 1 speak about column t.
    """
    tokens = batch.labels.shape[1]
    positions = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=positions,
        logits_to_keep=tokens + 1,
        use_cache=False,
        **batch.extra_inputs,
    )
    return output.logits[:, -tokens - 1 : -1]


def masked_mean(per_token: Tensor, mask: Tensor) -> Tensor:
    r"""(3.1) Mean over the response tokens: (batch, tokens) → (batch,); 0 for an empty response."""
    return masked_sum(per_token, mask) / mask.sum(-1).clamp(min=1)


def masked_sum(per_token: Tensor, mask: Tensor) -> Tensor:
    """Sum over the response tokens, (batch, tokens) → (batch,). Padding cannot leak a NaN."""
    return torch.where(mask, per_token, 0.0).sum(-1)


class ResponseLogProbs:
    """A batch of responses from one source as teacher and student see it; what a method reads.

    `log_p`, `log_q` (batch, tokens, vocab): teacher and student. The teacher runs only when a method
    asks for `log_p`, without gradient, so SFT and SeqKD never pay for it.
    """

    def __init__(self, labels: Tensor, mask: Tensor, log_q: Tensor, log_p: Callable[[], Tensor]):
        self.labels, self.mask, self.log_q, self._teacher = labels, mask, log_q, log_p

    @cached_property
    def log_p(self) -> Tensor:
        with torch.no_grad():
            return self._teacher()

    @cached_property
    def token_log_q(self) -> Tensor:
        """log q(y_t | x, y_<t) of the tokens that were written, (batch, tokens)."""
        return self.log_q.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def token_log_p(self) -> Tensor:
        """log p(y_t | x, y_<t) of the tokens that were written, (batch, tokens)."""
        return self.log_p.gather(-1, self.labels.unsqueeze(-1)).squeeze(-1)

    def mean(self, per_token: Tensor) -> Tensor:
        """(3.1) the mean over each response, (batch, tokens) → (batch,)."""
        return masked_mean(per_token, self.mask)

    def sum(self, per_token: Tensor) -> Tensor:
        """The sum over each response, (batch, tokens) → (batch,)."""
        return masked_sum(per_token, self.mask)

    def confidence_gap(self) -> Tensor:
        """p − q, each exp(mean token log-prob) of the response: (batch,), detached."""
        p, q = self.mean(self.token_log_p).exp(), self.mean(self.token_log_q).exp()
        return (p - q).detach()
