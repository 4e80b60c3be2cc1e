"""A teacher, a student and the tokenizer they share: how they are loaded, asked and saved."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from minidistill.models.checks import check_same_tokens, widen_trained_weights
from minidistill.runlog import save_folder
from minidistill.tasks import Example, as_example
from minidistill.tokenization import EncodedPrompt, encode_prompt, encode_references, end_of_turn
from minidistill.utils import missing_extra_message, pick_device, quiet

with quiet():  # transformers imports torchao where that is installed
    from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENIZER_PACKAGES = ("sentencepiece", "tiktoken", "protobuf")  # of slow tokenizers


@dataclass
class Pair:
    """Hold a teacher, a student, the tokenizer they share, and how many tokens of it both know.

    For text. A subclass is for models that read more: it says which it `handles`, and how those are
    loaded, given prompts and saved.
    """

    inputs: ClassVar[str] = "text"
    teacher: torch.nn.Module | None
    student: torch.nn.Module
    tokenizer: object
    vocab_size: int
    template_options: dict = field(default_factory=dict)  # handed to the chat template
    teacher_tokenizer: object = None  # where the teacher is asked in its own template's words

    def __post_init__(self):
        device = pick_device()
        for model in filter(None, (self.teacher, self.student)):
            model.to(device)
        if self.teacher is self.student:
            raise ValueError("teacher and student are the same object: nothing to distil")
        if self.teacher is not None:
            self.teacher.eval().requires_grad_(False)
            widen_trained_weights(self.student)

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device

    @property
    def eos_token_ids(self) -> set[int]:
        """Every token id that ends a response; ValueError if there is none."""
        ids = {self.tokenizer.eos_token_id}
        ids |= {end_of_turn(t) for t in (self.tokenizer, self.teacher_tokenizer) if t is not None}
        for model in filter(None, (self.teacher, self.student)):
            declared = model.generation_config.eos_token_id
            ids |= set(declared if isinstance(declared, list) else [declared])
        if not ids - {None}:
            raise ValueError("no token ends a response: set tokenizer.eos_token")
        return ids - {None}

    @property
    def context_length(self) -> int | None:
        """How many tokens both models can read at once, prompt and response; None where no config says so."""
        models = filter(None, (self.teacher, self.student))
        found = [
            getattr(m.config.get_text_config(), "max_position_embeddings", None) for m in models
        ]
        return min(filter(None, found), default=None)

    def check_length(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Raise ValueError for the first prompt that leaves no room for `max_new_tokens` more."""
        limit = self.context_length
        for number, prompt in enumerate(prompts, start=1):
            if limit is not None and len(prompt) + max_new_tokens > limit:
                raise ValueError(
                    f"prompt {number} has {len(prompt)} tokens, with {max_new_tokens} of a response "
                    f"more than the {limit} that the models read: "
                    f"{self.tokenizer.decode(prompt[:20])!r:.80} …"
                )

    def prompts_for(self, model, prompts: Sequence[EncodedPrompt]) -> list:
        """Give the prompts in the words of the model that is asked."""
        if model is not self.teacher or self.teacher_tokenizer is None:
            return list(prompts)
        return [getattr(prompt, "for_teacher", None) or prompt for prompt in prompts]

    @property
    def pad_token_id(self) -> int:
        """Any id that has an embedding will do: padding is masked by position."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(i for i in ids if i is not None and i < self.embedding_rows)

    @property
    def embedding_rows(self) -> int:
        """How many tokens, from 0, all models have an embedding for."""
        models = filter(None, (self.teacher, self.student))
        return min(m.get_input_embeddings().weight.shape[0] for m in models)

    # --- what a subclass overrides ------------------------------------------------------------------
    @classmethod
    def handles(cls, config) -> bool:
        """Tell whether models of this config are paired by this class; `Pair` takes what no other does."""
        return cls is Pair

    @classmethod
    def load(cls, source: str | Path, **options) -> tuple:
        """Load (model, tokenizer) in float32."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = load_complete(AutoModelForCausalLM, source, **options)
        except ImportError as error:
            said = str(error).strip()
            own = next((name for name in TOKENIZER_PACKAGES if name in said), None)
            message = said.partition("\n")[0]  # a quantizer's own package is named in it
            if options or "gguf" in said:
                message = missing_extra_message("gguf and accelerate", "scale")
            if own:
                message = f"the tokenizer of {source} needs {own}: pip install {own}"
            raise ModuleNotFoundError(message) from error
        return (_dequantized(model) if options else model), tokenizer

    @classmethod
    def single(cls, model, tokenizer) -> "Pair":
        """Pair a model with no teacher."""
        return cls(None, model, tokenizer, shared_tokens(tokenizer, model))

    def check_same_inputs(self, other: "Pair") -> None:
        """Raise ValueError unless the models of `other` (the teacher's) are given prompts as these are."""
        if type(self) is not type(other):
            raise ValueError(f"the teacher reads {other.inputs} and the student {self.inputs}")
        check_same_tokens(other.tokenizer, self.tokenizer)

    def encode(self, example: Example | str) -> EncodedPrompt:
        """Encode a prompt through the chat template, up to where its answer starts.

        ValueError for an example with an image: a text model cannot read it.
        """
        example = as_example(example)
        if example.image is not None:
            raise ValueError(
                f"the models read text alone, and this prompt has an image: {example.prompt!r:.120}"
            )
        ids = [
            encode_prompt(tokenizer, example, self.template_options)
            for tokenizer in filter(None, (self.tokenizer, self.teacher_tokenizer))
        ]
        rows = self.embedding_rows
        if (highest := max(map(max, filter(None, ids)), default=0)) >= rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise ValueError(
                f"the prompt {example.prompt!r:.80} has the token {token!r} (id {highest}), for which the "
                f"model has no embedding ({rows} rows): call resize_token_embeddings"
            )
        return EncodedPrompt(ids[0], for_teacher=ids[1] if len(ids) > 1 else None)

    def held_out_responses(self, prompts: Sequence, examples: Sequence[Example]) -> list[list[int]]:
        """What takes the place of a teacher's responses where there is no teacher: the references."""
        return encode_references(self.tokenizer, examples, 0, self.embedding_rows)

    def content(self) -> list:
        """What decides a run beside its models, tokenizers and settings."""
        return []

    @property
    def forbidden_ids(self) -> list[int]:
        """Tokens that no response may hold."""
        return []

    def save_student(self, folder: str | Path) -> None:
        """Save the student and what encodes its prompts, for `load_model` to read."""
        save_folder(folder, self.student, self.tokenizer)


def shared_tokens(tokenizer, *models) -> int:
    """Count the tokens, from 0, that the tokenizer may name and each model gives a logit."""
    widths = [model.get_output_embeddings().weight.shape[0] for model in models]
    return min(max(tokenizer.get_vocab().values()) + 1, *widths)


def pair_class(config) -> type[Pair]:
    """Find the class that pairs models of this config: the one place where kinds of models are told apart.

    A subclass counts once it is imported; `minidistill.load_pair` and `load_model` see to that.
    """
    return next((kind for kind in Pair.__subclasses__() if kind.handles(config)), Pair)


def load_complete(auto, source, **options):
    """Load a model all of whose weights are there: what is missing, transformers would draw at random."""
    options |= {"dtype": torch.float32, "output_loading_info": True, "return_dict": True}
    model, info = auto.from_pretrained(source, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} of its weights are missing, the first is {missing[0]}")
    return model


def _dequantized(model):
    """The same weights without the mark of the quantized file, which forbids training and saving."""
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain
