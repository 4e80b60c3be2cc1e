"""What must hold of a model, or of two, before it is trained; evaluation mode while it is measured."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def eval_mode(*models: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off while something is measured or sampled, and leave each model as it was."""
    were_training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, were_training, strict=True):
            model.train(training)


@torch.no_grad()
def check_causal(model) -> None:
    """Raise ValueError for a model that looks ahead, or that padding on the left changes.

    One text of six tokens goes through it three times: as it is, with another last token, and padded. Half
    precision rounds these three differently, by how much depends on the processor: it is allowed more.
    """
    device = next(model.parameters()).device
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(3 + 7 * i) % size for i in range(6)]], device=device)
    seen = torch.ones_like(ids)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % size
    padding = torch.zeros_like(ids[:, :2])
    behind = {
        "input_ids": torch.cat([padding, ids], 1),
        "attention_mask": torch.cat([padding, seen], 1),
        "position_ids": torch.cat([padding, seen.cumsum(1) - 1], 1),
    }
    with eval_mode(model):
        plain = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
        ahead = model(input_ids=other, attention_mask=seen, use_cache=False).logits[:, :-1]
        padded = model(**behind, use_cache=False).logits[:, 2:]
    allowed = max(1e-2, 32 * torch.finfo(plain.dtype).eps) * float(plain.std().clamp(min=1e-6))
    if float((ahead - plain[:, :-1]).abs().max()) > allowed:
        raise ValueError(
            "the model is not causal: a later token changes what it says of earlier ones"
        )
    if float((padded - plain).abs().max()) > allowed:
        raise ValueError(
            "padding on the left changes what the model says: it cannot be asked in batches"
        )


def check_whole_weights(student) -> None:
    """Raise ValueError for a student whose weights a library keeps in a few bits: they cannot be trained."""
    for name, weight in student.named_parameters():
        if not weight.dtype.is_floating_point or hasattr(weight, "__tensor_flatten__"):
            raise ValueError(
                f"the student is quantized ({name}): give it in full precision; apply quantize breaks a "
                "whole model and heals it by adapters"
            )


def check_no_adapters(model) -> None:
    """Raise ValueError for a model with adapters of peft, which would be taken for layers of its own."""
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError(
            "the model has adapters (LoRA): merge them first, with peft's merge_and_unload"
        )


def widen_trained_weights(student) -> None:
    """Make weights that are trained float32: in half precision small steps are rounded away."""
    half = [
        w
        for w in student.parameters()
        if w.requires_grad and w.dtype in (torch.float16, torch.bfloat16)
    ]
    if half:
        warnings.warn(
            f"the student's {str(half[0].dtype).removeprefix('torch.')} weights are trained in float32: "
            "small steps would be rounded away",
            stacklevel=4,
        )
        student.float()


def check_same_tokens(teacher_tokenizer, student_tokenizer) -> None:
    """Raise ValueError with the first tokens that differ; vocabularies of equal width are not enough."""
    by_id = [
        {i: t for t, i in tok.get_vocab().items()} for tok in (teacher_tokenizer, student_tokenizer)
    ]
    differing = [
        i for i in sorted(by_id[0].keys() | by_id[1].keys()) if by_id[0].get(i) != by_id[1].get(i)
    ]
    if differing:
        shown = ", ".join(
            f"id {i}: {by_id[0].get(i)!r} / {by_id[1].get(i)!r}" for i in differing[:3]
        )
        raise ValueError(
            f"teacher and student tokenize differently ({len(differing)} ids differ; teacher / student "
            f"{shown}): distillation compares their distributions token by token"
        )
