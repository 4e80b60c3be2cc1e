"""Make the tiny vision pair: a small LLaVA of transformers' own classes, its processor, its vision tower."""

import torch

from minidistill.tasks.vision.scenes import BACKGROUND, CELL, SIDE
from minidistill.utils import missing_extra_message, unknown_name_message

TINY_LLAVA = {  # text: layers × width; vision: layers × width
    name: {"text": (layers, width), "vision": (vision_layers, vision_width)}
    for name, layers, width, vision_layers, vision_width in (
        ("teacher", 4, 96, 3, 64), ("student", 2, 40, 1, 64), ("width_48", 3, 48, 2, 64),
    )
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %} {% endfor %}"
    "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_processor(tokenizer):
    """Make a LlavaProcessor for scenes: CLIP's, one patch a place, over a word-level tokenizer.

    The mean is that of an empty place, so that what is near 0 is background and what is not is a shape.
    """
    try:
        from transformers import CLIPImageProcessorPil, LlavaProcessor
    except ImportError:
        raise ModuleNotFoundError(missing_extra_message("pillow", "adapt")) from None
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    size = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    return LlavaProcessor(
        CLIPImageProcessorPil(
            size=size[0], crop_size=size[1], image_mean=[sum(BACKGROUND) / 510] * 3, image_std=[0.3] * 3
        ),
        tokenizer, patch_size=CELL, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip


def tiny_llava(preset: str, processor, seed: int):
    """Make a fresh LLaVA of the given preset: a CLIP vision tower, a projector and a Llama."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    from minidistill.models import tiny_config

    if preset not in TINY_LLAVA:
        raise ValueError(unknown_name_message("preset", preset, TINY_LLAVA))
    tokenizer, (layers, width) = processor.tokenizer, TINY_LLAVA[preset]["text"]
    vision_layers, vision_width = TINY_LLAVA[preset]["vision"]
    vision = CLIPVisionConfig(
        hidden_size=vision_width, intermediate_size=2 * vision_width, num_hidden_layers=vision_layers,
        num_attention_heads=4, image_size=SIDE, patch_size=CELL, initializer_range=0.06,
    )  # fmt: skip
    text = tiny_config(tokenizer, width, num_hidden_layers=layers, num_attention_heads=4)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=processor.image_token_id,
        vision_feature_layer=-1, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    # Where a patch stands must weigh as much as what it shows, else no question of place is learnt.
    model.model.vision_tower.embeddings.position_embedding.weight.data.mul_(8)
    return model


def init_vision_tower_from(student, teacher) -> None:
    """Initialise the student's vision tower with the first layers of the teacher's; it stays trainable.

    Small vision-language models do so in earnest: they begin with a tower that is pretrained (CLIP's).
    ValueError for towers of different widths or patches.
    """
    ours, theirs = student.model.vision_tower, teacher.model.vision_tower
    layers = len(ours.encoder.layers)
    parts = [(ours.embeddings, theirs.embeddings), (ours.pre_layrnorm, theirs.pre_layrnorm)]
    parts += zip(ours.encoder.layers, theirs.encoder.layers[:layers], strict=True)
    try:
        for mine, lent in parts:
            mine.load_state_dict(lent.state_dict())
    except RuntimeError:
        raise ValueError(
            f"the towers differ: width {ours.config.hidden_size} and {theirs.config.hidden_size}, patches of "
            f"{ours.config.patch_size} and {theirs.config.patch_size}"
        ) from None
