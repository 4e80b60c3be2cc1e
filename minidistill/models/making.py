"""Two models become a pair: what they share is checked, and where they differ is said."""

import re
import warnings
from dataclasses import replace

import jinja2
import jinja2.meta

from minidistill.models.checks import check_causal, check_whole_weights
from minidistill.models.pair import Pair, pair_class, shared_tokens
from minidistill.tasks import Example
from minidistill.tokenization import encode_prompt


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
    check_whole_weights(student)
    widths = [p.student.get_output_embeddings().weight.shape[0] for p in (theirs, pair)]
    vocab_size = shared_tokens(pair.tokenizer, theirs.student, pair.student)
    if widths[0] != widths[1]:
        warnings.warn(
            f"output widths {widths[0]} and {widths[1]} are cut to the {vocab_size} shared tokens",
            stacklevel=2,
        )
    options = template_options or {}
    check_options(options, *(p.tokenizer for p in ((theirs, pair) if own_templates else (pair,))))
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
    return stop_as_trained(pair)


def stop_as_trained(pair: Pair) -> Pair:
    """Let the student stop, also when it is saved, at all that ends a response in its training."""
    stops = sorted(pair.eos_token_ids)
    pair.student.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    return pair


def check_options(options: dict, *tokenizers) -> None:
    """Raise ValueError for an option that no chat template of these reads."""
    read = [_options(tokenizer) for tokenizer in tokenizers]
    if unknown := [name for name in options if name not in set().union(*read)]:
        raise ValueError(
            f"no chat template that is used reads the option {unknown[0]!r}; the student's reads: "
            f"{', '.join(sorted(read[-1])) or 'none'}"
        )


def _options(tokenizer) -> set[str]:
    """The names that a chat template reads beside the turns."""
    templates = tokenizer.chat_template or ""
    text = "\n".join(templates.values()) if isinstance(templates, dict) else templates
    text = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", text)  # a tag of transformers' own
    tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    given = {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}
    return jinja2.meta.find_undeclared_variables(tree) - given


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
