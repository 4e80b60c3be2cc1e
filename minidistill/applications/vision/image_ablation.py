"""Ask whether a model reads its image: take the image away, and compare.

Nothing of a method changes for images: they are part of the prompt, so every divergence conditions on them.
What is new is what can be asked of a student: is it right because of the image?
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minidistill.applications.vision.inputs import ImagePrompt
from minidistill.generation import decode, sample
from minidistill.logprobs import collate, masked_mean, response_log_probs
from minidistill.models import Pair
from minidistill.tasks import Example
from minidistill.tokenization import max_batch_size
from minidistill.utils import unknown_name_message

IMAGE_ABLATIONS = ("grey", "shuffled")


def patches(pixels: Tensor, side: int) -> Tensor:
    r"""(11.1) Cut an image into squares: v ∈ R^{C×H×W} → N = (H/P)(W/P) rows of C·P·P numbers.

    pixels (channels, height, width), `side` = P → (N, channels · P · P), row by row from the top left. A
    patch embedding is a matrix times these rows: what a vision tower calls a convolution of stride P.
    ValueError where the sides are no multiples of P. Source: ViT (arXiv 2010.11929).
    """
    channels, height, width = pixels.shape
    if height % side or width % side:
        raise ValueError(f"{height} × {width} pixels cannot be cut into squares of {side}")
    cut = pixels.reshape(channels, height // side, side, width // side, side)
    return cut.permute(1, 3, 0, 2, 4).reshape(-1, channels * side * side)


def ablate_image(prompts: Sequence[ImagePrompt], how: str, shift: int = 1) -> list[ImagePrompt]:
    """Ask the same questions about an empty background ('grey') or about another's image ('shuffled').

    Shuffled images move on by `shift` places: each is a real one, only not the one that was asked about.
    """
    if how not in IMAGE_ABLATIONS:
        raise ValueError(unknown_name_message("image ablation", how, IMAGE_ABLATIONS))
    if how == "grey":
        return [x.with_pixels(torch.zeros_like(x.pixel_values)) for x in prompts]
    pixels = [x.pixel_values for x in prompts]
    others = pixels[-shift % len(pixels) :] + pixels[: -shift % len(pixels)] if pixels else []
    return [x.with_pixels(v) for x, v in zip(prompts, others, strict=True)]


def encode_prompts(
    pair: Pair, examples: Sequence[Example], ablation: str = ""
) -> list[ImagePrompt]:
    """Encode prompts with their images or, where `ablation` names one, with what that ablation puts there."""
    prompts = [pair.encode(example) for example in examples]
    return ablate_image(prompts, ablation) if ablation else prompts


def generate_responses(
    model, pair: Pair, examples: Sequence[Example], ablation: str = "", **sampling
) -> list[str]:
    """Sample one response a prompt, greedy unless told otherwise; `ablation` as in `encode_prompts`."""
    prompts = encode_prompts(pair, examples, ablation)
    return decode(pair, sample(model, prompts, pair, **{"temperature": 0.0, **sampling}))


@torch.no_grad()
def image_log_prob_gain(
    model, pair: Pair, prompts: Sequence[ImagePrompt], responses, ablation: str = "grey"
) -> Tensor:
    r"""(11.3) What the image adds: 1/|y| Σ_t [log π(y_t | v, x, y_<t) − log π(y_t | v°, x, y_<t)].

    v is the image, v° what `ablate_image` puts in its place, x the question, y a response as token ids →
    (prompts,) nats per token. About 0 for a model that does not read its image; below 0 where the image
    misleads it. Its mean over y ~ π is a mutual information of response and image only if v° leaves
    the model's average over images, which grey does not promise: compare models, not units.
    """
    rows = [
        _token_log_probs(model, pair, x, responses)
        for x in (prompts, ablate_image(prompts, ablation))
    ]
    return rows[0] - rows[1]


def _token_log_probs(model, pair: Pair, prompts, responses) -> Tensor:
    """Mean log-probability of each response's tokens: (prompts,)."""
    longest = max(map(len, responses), default=0)
    found, rows = [], max_batch_size(prompts, 128, longest * pair.vocab_size)
    for start in range(0, len(prompts), rows):
        part = slice(start, start + rows)
        batch = collate(prompts[part], responses[part], pair.pad_token_id, pair.device)
        log_probs = response_log_probs(model, batch, pair.vocab_size)
        chosen = log_probs.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
        found.append(masked_mean(chosen, batch.mask))
    return torch.cat(found) if found else torch.empty(0)
