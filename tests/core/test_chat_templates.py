"""What the models are told, and where they stop: templates, turns, first and last tokens."""

import copy

import pytest
import torch

from minidistill import distill, load_pair
from minidistill.evaluation import nll
from minidistill.generation import sample, speculative_drafts, top_k_acceptance
from minidistill.models import load_model, make_pair, single_model
from minidistill.tasks import WORLDS, Example, Task
from minidistill.tokenization import encode_prompt, encode_response
from tests.tiny import TURNS, byte_tokenizer, tiny_lm

HISTORY = (("system", "be kind"), ("user", "hi"), ("assistant", "hello"))
OTHER = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


def text(tokenizer, prompt, **options):
    return tokenizer.decode(encode_prompt(tokenizer, prompt, options))


def two(template=TURNS, other=TURNS, **more):
    """A teacher and a student of llama's kind, each with a template of its own."""
    ours, theirs = byte_tokenizer(template), byte_tokenizer(other)
    return tiny_lm("llama", theirs, 1), theirs, tiny_lm("llama", ours, 2), ours


def test_all_turns_go_through_the_template():
    asked = text(byte_tokenizer(), Example("and you?", history=HISTORY))
    assert asked == "[system] be kind\n[user] hi\n[assistant] hello\n[user] and you?\n[assistant]"
    assert text(byte_tokenizer(None), Example("and you?", history=HISTORY)) == (
        "be kind\n\nhi\n\nhello\n\nand you?\n"
    )


def test_options_are_handed_to_the_template():
    assert text(byte_tokenizer(), "hi", think=False).endswith("[assistant] brief")
    for name in ("thnik", "role", "messages", "thin"):
        with pytest.raises(
            ValueError, match=f"reads the option '{name}'; the student's reads: think"
        ):
            make_pair(*two(), template_options={name: False})
    pair = make_pair(*two(), template_options={"think": False})
    assert pair.tokenizer.decode(pair.encode("hi")).endswith("[assistant] brief")


def test_an_option_of_the_teachers_template_alone_needs_its_words():
    plain = (
        "{% for m in messages %}{{ m['content'] }}{% generation %}{% endgeneration %}{% endfor %}"
    )
    models = two(plain, TURNS)  # the student's, the teacher's
    with pytest.raises(ValueError, match="reads: none"):
        make_pair(*models, template_options={"think": False})
    pair = make_pair(*models, own_templates=True, template_options={"think": False})
    assert pair.tokenizer.decode(pair.encode("hi").for_teacher).endswith("brief")


def test_other_words_are_another_run(tmp_path):
    """Templates, options and stop tokens decide what is trained on, as settings do."""
    task = Task("t", [Example(f"a {i}") for i in range(6)], [Example("b")])
    how = {"epochs": 1, "max_new_tokens": 2, "progress": False, "out": tmp_path}
    distill(make_pair(*two()), task, "kd", **how)
    distill(make_pair(*two()), task, "kd", **how)  # the same: resumed at its end
    others = [make_pair(*two(), template_options={"think": False})]
    others.append(make_pair(*two(OTHER, OTHER)))
    with pytest.warns(UserWarning, match="differ"):
        make_pair(*two(TURNS, OTHER))
    others.append(make_pair(*two(TURNS, OTHER), own_templates=True))
    stopping = make_pair(*two())
    stopping.student.generation_config.eos_token_id = [1, 2]
    for other in (*others, stopping):
        with pytest.raises(
            ValueError, match="holds a run of another student, other prompts, templates"
        ):
            distill(other, task, "kd", **how)


CHATML = (
    "{% for m in messages %}<stop>{{ m['role'] }}\n{{ m['content'] }} <bos>\n{% endfor %}"
    "{% if add_generation_prompt %}<stop>assistant\n{% endif %}"
)  # with the tokens that are there: <stop> begins a turn, <bos> ends it


def test_what_ends_a_turn_in_the_template_ends_a_response():
    tokenizer = byte_tokenizer(CHATML)
    end = tokenizer.convert_tokens_to_ids("<bos>")
    assert encode_response(tokenizer, "R")[-1] == end != tokenizer.eos_token_id
    pair = make_pair(
        tiny_lm("llama", tokenizer, 1), tokenizer, tiny_lm("llama", tokenizer, 2), tokenizer
    )
    assert pair.eos_token_ids == {end, tokenizer.eos_token_id}
    assert pair.student.generation_config.eos_token_id == sorted(pair.eos_token_ids)
    refusing = "{{ raise_exception('no') }}"
    part = "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
    of_parts = "{% for m in messages %}<stop>" + part + "{% endfor %}"
    for template in (None, TURNS, refusing, of_parts):
        tokenizer.chat_template = template  # of the same object: nothing is remembered
        assert encode_response(tokenizer, "R")[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("world", WORLDS)
def test_a_shipped_pair_stops_at_its_end_of_text_alone(world):
    pair = load_pair(world, start=0)
    assert pair.eos_token_ids == {pair.tokenizer.eos_token_id}
    assert encode_response(pair.tokenizer, "a")[-1] == pair.tokenizer.eos_token_id


def test_a_template_may_lay_out_the_space_of_a_prompt_anew():
    squeezing = TURNS.replace("{{ m['content'] }}", "{{ m['content'] | replace('\n\n', '\n') }}")
    assert "a\nb" in text(byte_tokenizer(squeezing), "a\n\nb")


def test_a_turn_that_the_template_refuses_ends_in_a_sentence():
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(
        ValueError, match="the chat template refuses the prompt 'and you.': no system"
    ):
        text(byte_tokenizer(strict), Example("and you?", history=HISTORY))


@pytest.mark.parametrize("template", [None, "<bos>" + TURNS])
def test_a_first_token_is_there_once(template):
    ids = encode_prompt(tokenizer := byte_tokenizer(template, bos=True), "hi")
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in encode_prompt(byte_tokenizer(template and TURNS), "hi")


# --- teacher and student --------------------------------------------------------------------------------
def test_templates_that_differ_are_said():
    with pytest.warns(
        UserWarning, match=r"templates differ, teacher's .*<…>.* and student's .*user.* …"
    ):
        pair = make_pair(*two(other=OTHER))
    assert pair.encode("hi").for_teacher is None
    with pytest.warns(UserWarning, match="chat templates differ"):
        make_pair(*two(template=None))


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_templates_that_differ_in_other_turns_are_said(role):
    other = TURNS.replace("%}[{{ m", "%}{% if m.role == '" + role + "' %}!{% endif %}[{{ m")
    with pytest.warns(UserWarning, match="chat templates differ"):
        make_pair(*two(other=other))


def test_a_template_that_leaves_words_out_is_refused():
    listing = "{% for c in messages[0]['content'] %}{{ c['text'] }}{% endfor %}A:"
    with pytest.raises(ValueError, match="the chat template leaves out what user says: 'hi'"):
        text(byte_tokenizer(listing), "hi")
    users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(
        ValueError, match="the chat template leaves out what system says: 'be kind'"
    ):
        text(byte_tokenizer(users), Example("you?", history=HISTORY))
    with pytest.raises(
        ValueError, match="the chat template refuses the prompt 'hi': division by zero"
    ):
        text(byte_tokenizer("{{ 1 / 0 }}"), "hi")


def test_each_is_asked_in_its_own_words_where_that_is_wanted():
    pair = make_pair(*two(other=OTHER), own_templates=True)
    prompt = pair.encode("hi") + pair.tokenizer("A").input_ids
    assert pair.tokenizer.decode(prompt) == "[user] hi\n[assistant]A"
    assert pair.tokenizer.decode(prompt.for_teacher) == "<hi>A"
    assert pair.prompts_for(pair.student, [prompt]) == [prompt]
    assert pair.prompts_for(pair.teacher, [prompt]) == [prompt.for_teacher]


@pytest.fixture
def own_words(monkeypatch):
    """A pair whose models are asked in words of their own, and how all that each reads begins."""
    pair, read = (
        make_pair(*two(other=OTHER), own_templates=True),
        {"teacher": set(), "student": set()},
    )
    for name, model in (("teacher", pair.teacher), ("student", pair.student)):
        forward = model.forward

        def watch(*args, forward=forward, name=name, **named):
            rows = zip(named["input_ids"].tolist(), named["attention_mask"].tolist(), strict=True)
            for ids, seen in rows:
                kept = [i for i, m in zip(ids, seen[-len(ids) :], strict=True) if m]
                read[name] |= {pair.tokenizer.decode(kept)[:1]} if len(kept) > 2 else set()
            return forward(*args, **named)

        monkeypatch.setattr(model, "forward", watch)
    return pair, read


@pytest.mark.parametrize("method", ["kd", "distillm2"])
def test_a_teacher_in_its_own_words_teaches_what_it_says_to_them(method, own_words):
    pair, read = own_words
    task = Task("t", [Example("hi"), Example("ho")], [Example("he")])
    distill(pair, task, method, epochs=1, batch_size=2, max_new_tokens=4, progress=False)
    assert read == {"teacher": {"<"}, "student": {"["}}


def test_drafts_are_verified_in_the_teachers_own_words(own_words):
    pair, read = own_words
    speculative_drafts([pair.encode("hi")], pair, top_k_acceptance(1), draft=2, max_new_tokens=6)
    assert read == {"teacher": {"<"}, "student": {"["}}


def test_nll_is_measured_in_the_models_own_words(own_words):
    pair, read = own_words
    for model in (pair.teacher, pair.student):
        nll(model, pair, [pair.encode("hi")], [[5, 6, 7]])
    assert read == {"teacher": {"<"}, "student": {"["}}


def test_equal_templates_are_not_said_to_differ():
    pair = make_pair(*two(), own_templates=True)
    assert pair.teacher_tokenizer is None


# --- where a response ends ------------------------------------------------------------------------------
def test_the_student_is_saved_with_all_that_stops_it(tmp_path):
    teacher_tokenizer, tokenizer = byte_tokenizer(eos="<stop>"), byte_tokenizer()
    stops = [tokenizer.convert_tokens_to_ids(t) for t in ("<eos>", "<stop>")]
    pair = make_pair(
        tiny_lm("llama", teacher_tokenizer, 1),
        teacher_tokenizer,
        tiny_lm("llama", tokenizer, 2),
        tokenizer,
    )
    assert pair.eos_token_ids == set(stops)
    pair.save_student(tmp_path)
    model, loaded = load_model(tmp_path)
    assert model.generation_config.eos_token_id == stops
    alone = single_model(model, loaded)
    assert alone.eos_token_ids == set(stops)
    with torch.no_grad():  # a model that says <stop> whatever it reads
        model.lm_head.weight[:] = 0
        model.lm_head.weight[stops[1]] = model.model.norm.weight
    how = {"temperature": 0, "max_new_tokens": 5}
    assert sample(model, [alone.encode("hi")], alone, **how)[0][-1] in stops


def test_a_sampling_model_keeps_its_stop_tokens_and_its_settings(pair, prompts):
    steered = copy.deepcopy(pair.student)
    steered.generation_config.update(
        num_beams=2, bad_words_ids=[[5]], min_p=0.5, forced_eos_token_id=7, stop_strings=["a"],
        num_return_sequences=2, return_dict_in_generate=True, repetition_penalty=3.0, max_time=1e-9,
    )  # fmt: skip
    before = steered.generation_config.to_dict()
    for how in ({"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}):
        plain = sample(pair.student, prompts[:6], pair, max_new_tokens=8, **how)
        assert sample(steered, prompts[:6], pair, max_new_tokens=8, **how) == plain
    assert steered.generation_config.to_dict() == before


def test_without_any_stop_token_a_sentence_says_so():
    tokenizer = byte_tokenizer(eos=None)
    pair = single_model(tiny_lm("llama", tokenizer), tokenizer)
    with pytest.raises(ValueError, match=r"no token ends a response: set tokenizer\.eos_token"):
        sample(pair.student, [[1, 2]], pair)


# --- what cannot be read --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_without_room_for_its_response_is_named_before_anything_is_sampled(kind):
    tokenizer = byte_tokenizer()
    pair = make_pair(tiny_lm(kind, tokenizer, 1), tokenizer, tiny_lm(kind, tokenizer, 2), tokenizer)
    task = Task("t", [Example("a"), Example("b" * 240), Example("c")], [Example("d")])
    with pytest.raises(
        ValueError, match="prompt 2 has 2.. tokens, with 8 of a response more than the 256"
    ):
        distill(pair, task, "kd", epochs=1, max_new_tokens=8, progress=False)


def test_drafts_stop_where_the_context_ends():
    """A prompt that leaves room for its response and no more is written for like any other."""
    tokenizer = byte_tokenizer()
    models = [tiny_lm("gpt2", tokenizer, seed) for seed in (1, 2)]
    pair = make_pair(models[0], tokenizer, models[1], tokenizer)
    room = pair.context_length - len(pair.encode(Example("")))
    task = Task("t", [Example("a" * (room - 8)), Example("b")], [Example("d")])
    how = {"epochs": 1, "max_new_tokens": 8, "feed": {"speculative": "speculative_mix"}}
    history = distill(pair, task, "speculative_kd", **how, progress=False)
    assert len(history.steps) == 1


def test_a_token_without_an_embedding_is_named():
    tokenizer = byte_tokenizer()
    model = tiny_lm("llama", tokenizer)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(
        ValueError, match=r"the token '<new>' \(id 260\), for which the model has no embedding"
    ):
        single_model(model, tokenizer).encode("what is <new> ?")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_that_looks_ahead_or_at_padding_is_refused(dtype):
    tokenizer = byte_tokenizer()
    bert = tiny_lm("bert", tokenizer, is_decoder=False).to(dtype)
    with pytest.raises(ValueError, match="the model is not causal"):
        single_model(bert, tokenizer)
    leaking = tiny_lm("llama", tokenizer).to(dtype)
    forward = leaking.forward
    leaking.forward = lambda attention_mask, **named: forward(
        attention_mask=torch.ones_like(attention_mask), **named
    )
    with pytest.raises(ValueError, match="padding on the left changes what the model says"):
        single_model(leaking, tokenizer)


def test_the_rounding_of_half_precision_is_no_look_at_padding():
    """Some processors round a padded batch differently: .04 of the logits' spread were seen in bfloat16."""
    tokenizer = byte_tokenizer()
    model = tiny_lm("llama", tokenizer).to(torch.bfloat16)

    def rounded(module, args, kwargs, found):
        if kwargs["input_ids"].shape[1] > 6:
            found.logits = found.logits + 0.05 * found.logits.std()
        return found

    model.register_forward_hook(rounded, with_kwargs=True)
    single_model(model, tokenizer)
    with pytest.raises(ValueError, match="padding on the left changes what the model says"):
        single_model(model.float(), tokenizer)


def test_half_precision_is_trained_in_float32_and_said():
    tokenizer = byte_tokenizer()
    models = [tiny_lm("llama", tokenizer, seed).to(torch.bfloat16) for seed in (1, 2)]
    with pytest.warns(UserWarning, match="the student's bfloat16 weights are trained in float32"):
        pair = make_pair(models[0], tokenizer, models[1].requires_grad_(True), tokenizer)
    assert {w.dtype for w in pair.student.parameters()} == {torch.float32}
    assert {w.dtype for w in pair.teacher.parameters()} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_a_compiled_model_is_taken_as_what_it_was():
    tokenizer = byte_tokenizer()
    models = [tiny_lm("llama", tokenizer, seed) for seed in (1, 2)]
    pair = make_pair(torch.compile(models[0]), tokenizer, torch.compile(models[1]), tokenizer)
    assert pair.teacher is models[0]
    assert pair.student is models[1]


@pytest.mark.parametrize("package", ["sentencepiece", "tiktoken"])
def test_a_package_that_a_tokenizer_misses_is_named(monkeypatch, tmp_path, package):
    def missing(*_, **__):
        raise ImportError(f"LlamaTokenizer requires the {package} library but it was not found")

    monkeypatch.setattr("minidistill.models.pair.AutoTokenizer.from_pretrained", missing)
    with pytest.raises(ModuleNotFoundError, match=f"needs {package}: pip install {package}"):
        load_model(tmp_path)


def test_after_distilling_the_student_answers_as_it_will_always(task, prompts):
    pair = load_pair("instruct")
    pair.student.train()
    distill(
        pair,
        Task("t", task.train[:8], task.test[:2]),
        "sft",
        epochs=1,
        batch_size=8,
        progress=False,
    )
    assert not pair.student.training
