"""Teacher–student pairs: tiny presets, shipped ones, and any two Hugging Face causal LMs."""

import copy
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError

from minidistill.runlog import save_folder
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
TOKENIZER_PACKAGES = ("sentencepiece", "tiktoken", "protobuf")  # of slow tokenizers
HALF = (torch.float16, torch.bfloat16)
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
            own = next((name for name in TOKENIZER_PACKAGES if name in str(error)), None)
            message = missing_extra_message("gguf and accelerate", "scale")
            if own:
                message = f"the tokenizer of {source} needs {own}: pip install {own}"
            raise ModuleNotFoundError(message) from error
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
        ids = [
            encode_prompt(tokenizer, example, self.template_options)
            for tokenizer in filter(None, (self.tokenizer, self.teacher_tokenizer))
        ]
        rows = self.student.get_input_embeddings().weight.shape[0]
        if (highest := max(map(max, filter(None, ids)), default=0)) >= rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise ValueError(
                f"the prompt {example.prompt!r:.80} has the token {token!r} (id {highest}), for which the "
                f"model has no embedding ({rows} rows): call resize_token_embeddings"
            )
        return EncodedPrompt(ids[0], for_teacher=ids[1] if len(ids) > 1 else None)

    @property
    def forbidden_ids(self) -> list[int]:
        """Tokens that no response may hold."""
        return []

    def save_student(self, folder: str | Path) -> None:
        """Save the student and what encodes its prompts, for `load_model` to read."""
        save_folder(folder, self.student, self.tokenizer)


def pair_class(config) -> type[Pair]:
    """Find the class that pairs models of this config: the one place where kinds of models are told apart.

    A subclass counts once it is imported; `minidistill.load_pair` and `load_model` see to that.
    """
    return next((kind for kind in Pair.__subclasses__() if kind.handles(config)), Pair)


def load_pair(
    name: str | None = None, *, teacher=None, student=None, start: int = 0, own_templates: bool = False,
    template_options: dict | None = None,
) -> Pair:  # fmt: skip
    """A shipped pair by task name; `teacher=`, `student=` replace either by a folder, hub name or .gguf.

    `start`: which of a world's students, each from other random weights. The last two as in `make_pair`.
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
    how = {"own_templates": own_templates, "template_options": template_options}
    return make_pair(*load_model(teacher), *load_model(student), **how)


def load_model(source: str | Path):
    """Load (model, tokenizer) in float32 from a folder, a hub name or a .gguf file; remote code stays off.

    Of a model that reads more than text, the second is what `pair_class` of its config loads instead.
    """
    path, options = Path(source), {}
    if not path.exists() and (path.suffix == ".gguf" or str(source).count("/") > 1):
        raise FileNotFoundError(f"no model at {source}: give a folder, a .gguf file or a hub name")
    beside = path.parent / "broken.safetensors"
    if (path / "adapter_config.json").exists() and beside.exists():
        raise ValueError(
            f"{path} holds adapters that were trained beside the quantized weights in {beside}, and belong "
            "to no whole model: applications.lora.load_quantized_with_lora loads both"
        )
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
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which hides what the model is
    pair = pair_class(model.config).single(model, tokenizer)
    if type(pair) is Pair:
        check_causal(model)
    return pair


def make_pair(
    teacher, teacher_tokenizer, student, student_tokenizer, own_templates: bool = False,
    template_options: dict | None = None,
) -> Pair:  # fmt: skip
    """Check that both models read the same prompts, and cut both to the tokens that they share.

    The tokenizers are what `load_model` gives. Unequal widths with equal tokens (151,936 and 152,064:
    padding) are cut with a warning. Prompts go through the student's chat template, with a warning where the
    teacher's says something else; `own_templates` asks each in its own words. `template_options` are handed
    to the templates. The student stops, also when saved, at what ends a response of either.
    """
    theirs = single_model(teacher, teacher_tokenizer)
    pair = single_model(student, student_tokenizer)
    pair.check_same_inputs(theirs)
    widths = [p.student.get_output_embeddings().weight.shape[0] for p in (theirs, pair)]
    vocab_size = min(max(pair.tokenizer.get_vocab().values()) + 1, *widths)
    if widths[0] != widths[1]:
        warnings.warn(
            f"output widths {widths[0]} and {widths[1]} are cut to the {vocab_size} shared tokens",
            stacklevel=2,
        )
    options = template_options or {}
    templates = " ".join(str(p.tokenizer.chat_template) for p in (theirs, pair))
    if unknown := [name for name in options if name not in templates]:
        raise ValueError(f"no chat template reads the option {unknown[0]!r}")
    differ = type(pair) is Pair and _check_templates(
        theirs.tokenizer, pair.tokenizer, options, own_templates
    )
    own = theirs.tokenizer if differ and own_templates else None
    pair = replace(
        pair,
        teacher=theirs.student,
        vocab_size=vocab_size,
        template_options=options,
        teacher_tokenizer=own,
    )
    stops = sorted(pair.eos_token_ids)
    pair.student.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    return pair


def _check_templates(theirs, ours, options: dict, own_templates: bool) -> bool:
    """Tell whether the templates word a prompt differently; a warning unless each is to use its own."""
    said, plain = [], (("user", "…"), ("assistant", "…"))
    for history in ((), plain, (("system", "…"),)):
        said = [_worded(t, Example("…", history=history), options) for t in (theirs, ours)]
        if said[0] != said[1]:
            break
    if said[0] != said[1] and not own_templates:
        warnings.warn(
            f"the chat templates differ, teacher's {said[0]:.200} and student's {said[1]:.200}: both are "
            "asked in the student's words; own_templates asks each in its own",
            stacklevel=3,
        )
    return said[0] != said[1]


def _worded(tokenizer, prompt: Example, options: dict) -> str:
    """What the template makes of a prompt, or why it does not."""
    try:
        return repr(tokenizer.decode(encode_prompt(tokenizer, prompt, options)))
    except ValueError as error:
        return str(error)


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

    One text of six tokens goes through it three times: as it is, with another last token, and padded.
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
    allowed = 1e-2 * float(plain.std().clamp(min=1e-6))
    if float((ahead - plain[:, :-1]).abs().max()) > allowed:
        raise ValueError(
            "the model is not causal: a later token changes what it says of earlier ones"
        )
    if float((padded - plain).abs().max()) > allowed:
        raise ValueError(
            "padding on the left changes what the model says: it cannot be asked in batches"
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
