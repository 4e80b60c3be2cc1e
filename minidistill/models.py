"""Teacher–student pairs: tiny presets, shipped ones, and any two Hugging Face causal LMs."""

import copy
import struct
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError

from minidistill.tasks import WORLDS, Example, as_example
from minidistill.tokenization import EncodedPrompt, encode_prompt
from minidistill.utils import (
    data_dir,
    missing_extra_message,
    pick_device,
    quiet,
    unknown_name_message,
)

with quiet():  # transformers imports torchao where that is installed
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
    )
    from transformers.utils import logging


LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    SafetensorError,
    struct.error,
)
TINY = {  # layers × width
    name: {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 4}
    for name, layers, width in (
        ("teacher", 4, 128), ("medium", 4, 96), ("thin", 4, 64), ("student", 3, 64), ("small", 3, 32),
        ("deep", 12, 64), ("flat", 1, 64), ("width_32", 3, 32), ("width_40", 3, 40), ("width_48", 3, 48),
        ("width_96", 3, 96),
    )
}  # fmt: skip
logging.disable_progress_bar()  # of loading and saving: noise between the cells of a notebook


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

    def __post_init__(self):
        device = pick_device()
        for model in filter(None, (self.teacher, self.student)):
            model.to(device)
        if self.teacher is self.student:
            raise ValueError("teacher and student are the same object: nothing to distil")
        if self.teacher is not None:
            self.teacher.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device

    @property
    def eos_token_ids(self) -> set[int]:
        """Every token id that ends a response."""
        ids = {self.tokenizer.eos_token_id}
        for model in filter(None, (self.teacher, self.student)):
            declared = model.generation_config.eos_token_id
            ids |= set(declared if isinstance(declared, list) else [declared])
        return ids - {None}

    @property
    def pad_token_id(self) -> int:
        """Any id will do: padding is masked by position."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

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
            raise ModuleNotFoundError(
                missing_extra_message("gguf and accelerate", "scale")
            ) from error
        return (_dequantized(model) if options else model), tokenizer

    @classmethod
    def single(cls, model, tokenizer) -> "Pair":
        """Pair a model with no teacher."""
        return cls(None, model, tokenizer, len(tokenizer))

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
        return EncodedPrompt(encode_prompt(self.tokenizer, example.prompt))

    @property
    def forbidden_ids(self) -> list[int]:
        """Tokens that no response may hold."""
        return []

    def save_student(self, folder: str | Path) -> None:
        """Save the student and what encodes its prompts, for `load_model` to read."""
        self.student.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def pair_class(config) -> type[Pair]:
    """Find the class that pairs models of this config: the one place where kinds of models are told apart.

    A subclass counts once it is imported; `minidistill.load_pair` and `load_model` see to that.
    """
    return next((kind for kind in Pair.__subclasses__() if kind.handles(config)), Pair)


def load_pair(name: str | None = None, *, teacher=None, student=None, start: int = 0) -> Pair:
    """A shipped pair by task name; `teacher=`, `student=` replace either by a folder, hub name or .gguf.

    `start`: which of a world's students, each from other random weights.
    """
    if name is not None:
        if name not in WORLDS:
            raise ValueError(unknown_name_message("pair", name, WORLDS))
        teacher = teacher or data_dir() / name / "teacher"
        student = student or data_dir() / name / f"student_{start}"
    if teacher is None or student is None:
        raise ValueError(
            "load_pair needs the name of a shipped pair, or both teacher= and student="
        )
    return make_pair(*load_model(teacher), *load_model(student))


def load_model(source: str | Path):
    """Load (model, tokenizer) in float32 from a folder, a hub name or a .gguf file; remote code stays off.

    Of a model that reads more than text, the second is what `pair_class` of its config loads instead.
    """
    path, options = Path(source), {}
    if not path.exists() and (path.suffix == ".gguf" or str(source).count("/") > 1):
        raise FileNotFoundError(f"no model at {source}: give a folder, a .gguf file or a hub name")
    if path.suffix == ".gguf":
        source, options = path.parent, {"gguf_file": path.name}
    kind = Pair if options else pair_class(_config(source))
    try:
        return kind.load(source, **options)
    except LOAD_ERRORS as error:  # no tokenizer; weights cut short, or of another shape
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(
            f"cannot load a model from {source}: {first} (a hub name needs the network; a folder "
            "needs config.json, model.safetensors and the tokenizer's files)"
        ) from error


def load_complete(auto, source, **options):
    """Load a model all of whose weights are there: what is missing, transformers would draw at random."""
    options |= {"dtype": torch.float32, "output_loading_info": True}
    model, info = auto.from_pretrained(source, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} of its weights are missing, the first is {missing[0]}")
    return model


def _config(source):
    """The config in a folder or of a hub name; None where it cannot be read: loading says why."""
    try:
        return AutoConfig.from_pretrained(source)
    except LOAD_ERRORS:
        return None


def _dequantized(model):
    """The same weights without the mark of the quantized file, which forbids training and saving."""
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def single_model(model, tokenizer) -> Pair:
    """Pair a model with no teacher, to be trained or asked alone. `tokenizer`: as `load_model` gives it."""
    return pair_class(model.config).single(model, tokenizer)


def make_pair(teacher, teacher_tokenizer, student, student_tokenizer) -> Pair:
    """Check that both models read the same prompts, and cut both to the tokens that they share.

    The tokenizers are what `load_model` gives. Unequal widths with equal tokens (151,936 and 152,064:
    padding) are cut with a warning.
    """
    pair = single_model(student, student_tokenizer)
    pair.check_same_inputs(single_model(teacher, teacher_tokenizer))
    widths = [m.get_output_embeddings().weight.shape[0] for m in (teacher, student)]
    vocab_size = min(max(pair.tokenizer.get_vocab().values()) + 1, *widths)
    if widths[0] != widths[1]:
        warnings.warn(
            f"output widths {widths[0]} and {widths[1]} are cut to the {vocab_size} shared tokens",
            stacklevel=2,
        )
    return replace(pair, teacher=teacher, vocab_size=vocab_size)


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


def tiny_model(preset: str, tokenizer, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of the given preset for a word-level tokenizer."""
    if preset not in TINY:
        raise ValueError(unknown_name_message("preset", preset, TINY))
    config = tiny_config(tokenizer, **TINY[preset])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def tiny_config(tokenizer, hidden_size: int, **shape) -> LlamaConfig:
    """A small Llama that reads this tokenizer."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        max_position_embeddings=128,
        initializer_range=0.06,  # 0.02 suits widths of thousands; this small it starts far too flat
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )


def word_tokenizer(words: list[str]):
    """A word-level tokenizer with a chat template: '<user> … <assistant> … <eos>'."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
    ids = {token: i for i, token in enumerate([*special, *words])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
        "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer
