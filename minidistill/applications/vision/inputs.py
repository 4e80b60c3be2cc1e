"""Encode prompts about images, and pair the models that read them.

A LLaVA (arXiv 2304.08485) cuts an image into patches, a vision tower turns each into a vector, a projector
maps those into the language model's space, and there they stand where the prompt has its <image> tokens.
So an image is a part of the prompt, and a response to it is like any other: only `VisionPair` differs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from minidistill.models import Pair, load_complete
from minidistill.runlog import save_folder
from minidistill.tasks import Example, as_example
from minidistill.tasks.vision.images import load_image
from minidistill.tokenization import EncodedPrompt
from minidistill.utils import missing_extra_message, quiet

with quiet():  # transformers imports torchao where that is installed
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import is_vision_available

MAX_CACHED_VALUES = 2**14  # numbers in an image that stays in memory; a larger one is read anew


class ImagePrompt(EncodedPrompt):
    """Hold token ids and, for their <image> tokens, `pixel_values`: (1, channels, height, width)."""

    def __init__(self, ids: Sequence[int], processor, image: str, pixel_values: Tensor):
        super().__init__(ids)
        self.processor, self.image = processor, image
        if pixel_values.numel() <= MAX_CACHED_VALUES:
            self._extra_inputs = {"pixel_values": pixel_values}

    @property
    def extra_inputs(self) -> dict[str, Tensor]:
        return self._extra_inputs or {
            "pixel_values": load_pixel_values(self.processor, self.image),
        }

    @property
    def pixel_values(self) -> Tensor:
        return self.extra_inputs["pixel_values"]

    def with_pixels(self, pixel_values: Tensor) -> "ImagePrompt":
        """Ask the same question about other pixels."""
        other = copy.copy(self)
        other._extra_inputs = {"pixel_values": pixel_values}
        return other


@dataclass
class VisionPair(Pair):
    """Hold a pair of models that read an image and a text, and the processor they share."""

    inputs: ClassVar[str] = "images and text"
    processor: object = None

    @classmethod
    def handles(cls, config) -> bool:
        """Tell whether a config is of a model that reads images."""
        return hasattr(config, "vision_config")

    @classmethod
    def load(cls, source: str | Path) -> tuple:
        """Load (model, processor) in float32."""
        if not is_vision_available():
            raise ModuleNotFoundError(missing_extra_message("pillow", "adapt"))
        processor = AutoProcessor.from_pretrained(source, backend="pil")
        return load_complete(AutoModelForImageTextToText, source), processor

    @classmethod
    def single(cls, model, processor) -> "VisionPair":
        if not is_processor(processor):
            raise ValueError("a model of images and text comes with its processor, not a tokenizer")
        tokenizer = processor.tokenizer
        return cls(None, model, tokenizer, len(tokenizer), processor=processor)

    def check_same_inputs(self, other: Pair) -> None:
        super().check_same_inputs(other)
        check_same_preprocessing(other.processor, self.processor)

    def encode(self, example: Example | str) -> ImagePrompt:
        """Encode an image and its question through the chat template, up to where the answer starts."""
        return encode_image_prompt(self.processor, as_example(example))

    @property
    def forbidden_ids(self) -> list[int]:
        """The <image> token: the next pass would look for pixels that are not there."""
        return [self.processor.image_token_id]

    def save_student(self, folder: str | Path) -> None:
        save_folder(folder, self.student, self.processor)


def is_processor(tokenizer) -> bool:
    """Tell whether this is a processor, for images and text, and not a tokenizer."""
    return hasattr(tokenizer, "image_processor")


def require_text_model(what: str, pair: Pair) -> None:
    """Raise ValueError for multimodal models where only text models are supported."""
    if isinstance(pair, VisionPair):
        raise ValueError(f"{what} reads text alone, and this is a model of pictures and text")


def encode_image_prompt(processor, example: Example) -> ImagePrompt:
    """Encode an image and its question through the chat template, up to where the answer starts.

    ValueError for an example without an image, a text that says <image> itself, a template that has no single
    place for the image, a processor that hands its model more than pixels (tiles, several resolutions).
    """
    if example.image is None:
        raise ValueError(
            f"the models read pictures, and this prompt has none: {example.prompt!r:.120}"
        )
    if example.history:
        raise ValueError(
            f"a prompt with a picture is one turn, and this one has others before it: {example.prompt!r:.80}"
        )
    if processor.image_token in example.prompt:
        raise ValueError(f"the text of {example!r} must not hold {processor.image_token} itself")
    made = apply_processor(processor, example.prompt, load_image(example.image))
    prompt = ImagePrompt(made["input_ids"], processor, example.image, made["pixel_values"])
    if prompt.count(processor.image_token_id) == 0:
        raise ValueError("the processor's chat template leaves no place for the picture")
    return prompt


def apply_processor(processor, text: str, image) -> dict:
    """Make {"input_ids", "pixel_values"} of one image and one question."""
    if processor.chat_template is None:
        prompt = f"{processor.image_token}\n{text}\n"
    else:
        parts = [{"type": "image"}, {"type": "text", "text": text}]
        turn = [{"role": "user", "content": parts}]
        prompt = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    if prompt.count(processor.image_token) != 1:
        raise ValueError(
            f"the processor's chat template says {processor.image_token} "
            f"{prompt.count(processor.image_token)} times for one picture: {prompt!r:.120}"
        )
    first = processor.tokenizer.bos_token
    begins = first is None or prompt.startswith(first)  # else the tokenizer puts it there
    made = processor(images=[image], text=[prompt], add_special_tokens=not begins)
    more = sorted(made.keys() - {"input_ids", "attention_mask", "pixel_values"})
    if more:
        raise ValueError(
            f"the processor {type(processor).__name__} makes {', '.join(more)} besides pixels; only "
            "models that read one picture as one grid of patches are supported (LLaVA 1.5 and its kin)"
        )
    pixels = torch.as_tensor(made["pixel_values"][0])
    return {"input_ids": made["input_ids"][0], "pixel_values": pixels.unsqueeze(0)}


def load_pixel_values(processor, image: str) -> Tensor:
    """Load an image as the vision tower reads it: (1, channels, height, width)."""
    made = processor.image_processor(images=[load_image(image)], return_tensors="pt")
    return made["pixel_values"]


def check_same_preprocessing(teacher, student) -> None:
    """Raise ValueError unless both processors put the same pixels into the same number of tokens.

    One image is laid out once, for both models: other tokens or other pixels would need two batches.
    """
    from PIL import Image

    probe = Image.radial_gradient("L").convert("RGB")
    made = [apply_processor(reader, "what is this ?", probe) for reader in (teacher, student)]
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
