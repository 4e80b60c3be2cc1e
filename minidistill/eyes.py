"""Models that see: how a picture and its question become token ids, and a tiny LLaVA to teach with.

A LLaVA (arXiv 2304.08485) cuts a picture into patches, a vision tower turns each into a vector, a
projector maps those into the language model's space, and there they stand where the prompt has its
<image> tokens. So a picture is a part of the prompt, and a response to it is like any other.
"""

import torch
from torch import Tensor

from minidistill.errors import nearest, needs_extra
from minidistill.tasks.pictures import Seen, picture
from minidistill.tasks.scenes import CELL, GROUND, SIDE

KEPT = 2**14  # numbers in a picture that stays in memory; a larger one is read anew each time
EYES = {  # text: layers × width; vision: layers × width
    name: {"text": (layers, width), "vision": (eye_layers, eye_width)}
    for name, layers, width, eye_layers, eye_width in (
        ("teacher", 4, 96, 3, 64), ("student", 2, 40, 1, 64),
    )
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %} {% endfor %}"
    "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Prompt(list):
    """Token ids with a picture: `pixels`, (1, channels, height, width), for the ids' <image> tokens."""

    def __init__(self, ids, processor, image: str):
        super().__init__(ids)
        self.processor, self.image = processor, image
        self._pixels = None

    @property
    def pixels(self) -> Tensor:
        found = pixels_of(self.processor, self.image) if self._pixels is None else self._pixels
        if found.numel() <= KEPT:
            self._pixels = found
        return found

    def longer(self, ids) -> "Prompt":
        """The same picture, the ids carried on by these."""
        more = Prompt([*self, *ids], self.processor, self.image)
        more._pixels = self._pixels
        return more

    def showing(self, pixels: Tensor) -> "Prompt":
        """The same question about other pixels."""
        other = Prompt(self, self.processor, self.image)
        other._pixels = pixels
        return other


def reads_pictures(reader) -> bool:
    """Whether this is a processor, for pictures and text, and not a tokenizer."""
    return hasattr(reader, "image_processor")


def encode_seen(processor, prompt: Seen) -> Prompt:
    """The picture and the question through the chat template, up to where the answer starts.

    ValueError for a text that says <image> itself, a template that has no single place for the picture,
    a processor that hands its model more than pixels (tiles, several resolutions).
    """
    if processor.image_token in prompt:
        raise ValueError(f"the text of {prompt!r} must not hold {processor.image_token} itself")
    ids = _laid_out(processor, str(prompt), picture(prompt.image))["input_ids"]
    found = Prompt(ids, processor, prompt.image)
    if found.count(processor.image_token_id) == 0:
        raise ValueError("the processor's chat template leaves no place for the picture")
    return found


def _laid_out(processor, text: str, image) -> dict:
    """{"input_ids", "pixel_values"} of one picture and one question."""
    if processor.chat_template is None:
        said = f"{processor.image_token}\n{text}\n"
    else:
        parts = [{"type": "image"}, {"type": "text", "text": text}]
        turn = [{"role": "user", "content": parts}]
        said = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    if said.count(processor.image_token) != 1:
        raise ValueError(
            f"the processor's chat template says {processor.image_token} "
            f"{said.count(processor.image_token)} times for one picture: {said!r:.120}"
        )
    first = processor.tokenizer.bos_token
    begins = first is None or said.startswith(first)  # else the tokenizer puts it there
    made = processor(images=[image], text=[said], add_special_tokens=not begins)
    more = sorted(made.keys() - {"input_ids", "attention_mask", "pixel_values"})
    if more:
        raise ValueError(
            f"the processor {type(processor).__name__} makes {', '.join(more)} besides pixels; only "
            "models that read one picture as one grid of patches are supported (LLaVA 1.5 and its kin)"
        )
    pixels = torch.as_tensor(made["pixel_values"][0])
    return {"input_ids": made["input_ids"][0], "pixel_values": pixels.unsqueeze(0)}


def pixels_of(processor, image: str) -> Tensor:
    """The picture as the vision tower wants it: (1, channels, height, width)."""
    made = processor.image_processor(images=[picture(image)], return_tensors="pt")
    return made["pixel_values"]


def check_same_eyes(teacher, student) -> None:
    """ValueError unless both processors put the same pixels into the same number of tokens.

    One picture is laid out once, for both models: other tokens or other pixels would need two batches.
    """
    found = [reads_pictures(reader) for reader in (teacher, student)]
    if found[0] != found[1]:
        who = ("teacher", "student") if found[0] else ("student", "teacher")
        raise ValueError(f"the {who[0]} reads pictures and the {who[1]} reads text alone")
    if not found[0]:
        return
    from PIL import Image

    probe = Image.radial_gradient("L").convert("RGB")
    made = [_laid_out(reader, "what is this ?", probe) for reader in (teacher, student)]
    places = [
        m["input_ids"].count(r.image_token_id)
        for m, r in zip(made, (teacher, student), strict=True)
    ]
    if places[0] != places[1]:
        raise ValueError(
            f"the teacher's processor lays a picture out in {places[0]} tokens, the student's in "
            f"{places[1]}: distillation needs the same prompt for both"
        )
    shapes = [tuple(m["pixel_values"].shape[1:]) for m in made]
    if shapes[0] != shapes[1] or not torch.allclose(*(m["pixel_values"] for m in made), atol=1e-2):
        raise ValueError(
            f"teacher and student prepare a picture differently ({shapes[0]} and {shapes[1]} numbers, or "
            "another mean and deviation): distillation needs the same pixels for both"
        )
    if made[0]["input_ids"] != made[1]["input_ids"]:
        raise ValueError("the chat templates of teacher and student differ: give both the same one")


def borrow_eyes(student, teacher) -> None:
    """Start the student's vision tower as the first layers of the teacher's; all of it stays trainable.

    As small vision-language models do in earnest: they begin with a tower that already sees (CLIP's), and
    learn to speak about it. ValueError for towers of different widths or patches.
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


def tiny_processor(tokenizer):
    """A LlavaProcessor for scenes: CLIP's, one patch a place, over a word-level tokenizer.

    The mean is that of an empty place, so that what is near 0 is ground and what is not is a thing.
    """
    try:
        from transformers import CLIPImageProcessorPil, LlavaProcessor
    except ImportError:
        raise ModuleNotFoundError(needs_extra("pillow", "adapt")) from None
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    size = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    return LlavaProcessor(
        CLIPImageProcessorPil(
            size=size[0], crop_size=size[1], image_mean=[sum(GROUND) / 510] * 3, image_std=[0.3] * 3
        ),
        tokenizer, patch_size=CELL, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip


def tiny_llava(preset: str, processor, seed: int):
    """A fresh LLaVA of the given preset: a CLIP vision tower, a projector and a Llama."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    from minidistill.models import tiny_config

    if preset not in EYES:
        raise ValueError(nearest("preset", preset, EYES))
    tokenizer, (layers, width) = processor.tokenizer, EYES[preset]["text"]
    eye_layers, eye_width = EYES[preset]["vision"]
    vision = CLIPVisionConfig(
        hidden_size=eye_width, intermediate_size=2 * eye_width, num_hidden_layers=eye_layers,
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
