"""Models from folders, hub names and .gguf files: what was meant is loaded, or a sentence says why not."""

import pickle
import struct
import warnings
from pathlib import Path

from safetensors import SafetensorError

from minidistill.models.making import make_pair
from minidistill.models.pair import Pair, pair_class
from minidistill.tasks import WORLDS
from minidistill.utils import data_dir, missing_extra_message, quiet, unknown_name_message

with quiet():  # transformers imports torchao where that is installed
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AssertionError,
    SafetensorError,
    struct.error,
    pickle.UnpicklingError,
)
logging.disable_progress_bar()  # of loading and saving: noise between the cells of a notebook


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
    if (path / "cache.json").exists() and not (path / "config.json").exists():
        raise ValueError(
            f"{path} holds what a teacher wrote, not its weights: scale.offline.offline_pair pairs a student "
            "with it"
        )
    if path.suffix == ".gguf":
        source, options = path.parent, {"gguf_file": path.name}
    try:
        if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
            return _load_with_adapters(path)
        return (Pair if options else pair_class(_config(source))).load(source, **options)
    except LOAD_ERRORS as error:  # no tokenizer; weights cut short, or of another shape
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(
            f"cannot load a model from {source}: {first} (a hub name needs the network; a folder "
            "needs config.json, model.safetensors and the tokenizer's files)"
        ) from error


def _load_with_adapters(folder: Path):
    """The model that the adapters of peft in a folder stand beside, with them merged into its weights."""
    try:
        with quiet():
            import peft
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("peft", "adapt")) from None
    base = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    model, tokenizer = load_model(base)
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
        except (Warning, AttributeError) as error:  # weights left out; prompts cannot be merged
            raise ValueError(f"its adapters do not fit {base}: {error}") from None
    if (folder / "tokenizer_config.json").exists() and pair_class(model.config) is Pair:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return merged, tokenizer


def _config(source):
    """The config in a folder or of a hub name; None where it cannot be read: loading says why."""
    try:
        return AutoConfig.from_pretrained(source)
    except LOAD_ERRORS:
        return None
