"""Models that see: how a picture and its question become token ids.

A LLaVA (arXiv 2304.08485) cuts a picture into patches, a vision tower turns each into a vector, a
projector maps those into the language model's space, and there they stand where the prompt has its
<image> tokens. So a picture is a part of the prompt, and a response to it is like any other.
"""

import torch
from torch import Tensor

from minidistill.tasks.pictures import Seen, picture

KEPT = 2**14  # numbers in a picture that stays in memory; a larger one is read anew each time
AT_ONCE = 2**24  # numbers in the pictures that a vision tower reads together


class Prompt(list):
    """Token ids with a picture: `pixels`, (1, channels, height, width), for the ids' <image> tokens."""

    def __init__(self, ids, processor, image: str):
        super().__init__(ids)
        self.processor, self.image = processor, image
        self._pixels = None

    @property
    def pixels(self) -> Tensor:
        if self._pixels is not None:
            return self._pixels
        return self.keep(pixels_of(self.processor, self.image))

    def keep(self, pixels: Tensor) -> Tensor:
        """Remember them, if they are few."""
        if pixels.numel() <= KEPT:
            self._pixels = pixels
        return pixels

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


def texts_only(what: str, *readers) -> None:
    """ValueError where a model of pictures and text is given to what reads text alone."""
    if any(map(reads_pictures, readers)):
        raise ValueError(f"{what} reads text alone, and this is a model of pictures and text")


def at_once(prompts, most: int) -> int:
    """How many of these prompts go through a model together: `most`, fewer where pictures are large."""
    size = next((x.pixels.numel() for x in prompts if isinstance(x, Prompt)), 0)
    return max(1, min(most, AT_ONCE // size)) if size else most


def encode_seen(processor, prompt: Seen) -> Prompt:
    """The picture and the question through the chat template, up to where the answer starts.

    ValueError for a text that says <image> itself, a template that has no single place for the picture,
    a processor that hands its model more than pixels (tiles, several resolutions).
    """
    if processor.image_token in prompt:
        raise ValueError(f"the text of {prompt!r} must not hold {processor.image_token} itself")
    made = _laid_out(processor, str(prompt), picture(prompt.image))
    found = Prompt(made["input_ids"], processor, prompt.image)
    found.keep(made["pixel_values"])
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
