"""Reading prompts, and the tiny worlds that write and judge them."""

import gzip
import json
import random
import re
import time
import warnings

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidistill.tasks import (
    WORLDS,
    Example,
    Task,
    as_example,
    get_world,
    load_task,
    prompt_files,
    read_prompts,
    write_examples,
    write_jsonl,
)
from minidistill.tasks.grammar import compile_pattern, join, split, zipf, zipf_subset
from minidistill.tasks.instruct import FAMILIES
from minidistill.tasks.instruct.facts import FACTS, KINDS, SIZES
from tests.conftest import DATA, needs_data


@pytest.fixture
def write(tmp_path):
    def write(text, name="prompts.jsonl"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


USER, BOT = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}


# --- reading --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("record", "prompt", "references"),
    [
        ({"prompt": "p"}, "p", ()),
        ({"prompt": "p", "references": ["a", "b"]}, "p", ("a", "b")),
        ({"prompt": "p", "response": "a"}, "p", ("a",)),
        ({"instruction": "i", "output": "a"}, "i", ("a",)),
        ({"instruction": "i", "input": "x", "output": "a"}, "i\n\nx", ("a",)),
        ({"instruction": "i", "input": "", "output": None}, "i", ()),
        ({"instruction": "i", "instances": [{"input": "x", "output": "a"}, {"output": "b"}]},
         "i\n\nx", ("a", "b")),
        ({"instruction": "i", "instances": [{"input": "x", "output": "a"}, {"input": "y", "output": "b"}]},
         "i\n\nx", ("a",)),
        ({"instruction": "i", "instances": []}, "i", ()),
        ({"prompt": "p", "completion": "a"}, "p", ("a",)),
        ({"prompt": [USER], "completion": [BOT]}, "p", ("a",)),
        ({"messages": [USER]}, "p", ()),
        ({"messages": [USER, BOT], "id": 3}, "p", ("a",)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "p"}]}, BOT]}, "p", ("a",)),
        ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a"}]}, "p", ("a",)),
        ({"question": "p", "answer": "so #### 5"}, "p", ("so #### 5",)),
        ({"problem": "p", "solution": "s", "answer": 5}, "p", ("s", "5")),
        ({"problem": "p", "solution": "so \\boxed{5}", "answer": "5"}, "p", ("so \\boxed{5}",)),
        ({"problem": "p", "answer": "5"}, "p", ("5",)),
        ({"query": "p", "response": "a"}, "p", ("a",)),
        ({"chosen": [USER, BOT], "rejected": [USER, BOT]}, "p", ()),
        ({"prompt": "q", "chosen": [USER, BOT]}, "q", ()),
        ({"prompt": [{"role": "user", "content": "q"}], "chosen": [BOT]}, "q", ()),
    ],
)  # fmt: skip
def test_the_known_kinds_of_lines_are_read(write, record, prompt, references):
    assert read_prompts(write(json.dumps(record))) == [Example(prompt, references)]


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_may_stand_on_many_lines(write, indent):
    text = json.dumps({"prompt": "p", "input": "x"}, indent=indent)
    assert read_prompts(write(f"\n{text}\n", "one.json")) == [Example("p\n\nx")]


def test_what_was_said_before_stays_with_the_prompt(write):
    turns = [{"role": "system", "content": "s"}, USER, BOT, {"role": "user", "content": "q"}]
    [example] = read_prompts(write(json.dumps({"system_prompt": "s", "messages": turns})))
    assert example.history[0] == ("system", "s")
    assert len(example.history) == 3
    history = (("system", "s"), ("user", "p"), ("assistant", "a"))
    [example] = read_prompts(write(json.dumps({"messages": [*turns, BOT]})))
    assert example == Example("q", ("a",), history=history)
    assert example.messages() == turns
    assert example.content() != Example("q", ("a",)).content()
    for field in ("system", "system_prompt"):
        [example] = read_prompts(write(json.dumps({field: "s", "prompt": "q"})))
        assert example.messages() == [turns[0], turns[3]]
    write_jsonl(path := write("", "again.jsonl"), [example])
    assert read_prompts(path) == [example]


def test_fields_that_are_not_used_are_named_once(write):
    path = write(
        '{"prompt": "p", "id": 1, "tools": ["a"], "lang": "fr"}\n{"prompt": "q", "tools": []}'
    )
    with pytest.warns(
        UserWarning, match="prompts.jsonl: fields that are not used: 'lang', 'tools'$"
    ) as seen:
        assert len(read_prompts(path)) == 2
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("record", "unused"),
    [
        ({"instruction": "i", "question": "q"}, "'question'"),
        ({"messages": [USER], "input": "x"}, "'input'"),
        ({"prompt": "other", "messages": [USER]}, "'prompt'"),
        ({"prompt": "p", "references": ["a"], "response": "b"}, "'response'"),
        ({"prompt": "p", "system": "s", "system_prompt": "t"}, "'system_prompt'"),
        (
            {"messages": [USER, {**BOT, "reasoning_content": "r", "name": ""}]},
            "'messages.reasoning_content'",
        ),
    ],
)
def test_what_is_known_but_not_used_is_named_too(write, record, unused):
    with pytest.warns(UserWarning, match=f"fields that are not used: {unused}$"):
        read_prompts(write(json.dumps(record)))


def test_what_is_used_is_not_named_and_a_disliked_completion_is_no_reference(write, recwarn):
    rows = [
        {"prompt": "p", "messages": [USER, BOT]},
        {"prompt": "p", "completion": "a", "label": True},
    ]
    rows += [{"prompt": "p", "completion": "bad", "label": no} for no in (False, 0, 0.0, "False")]
    found = read_prompts(write("\n".join(map(json.dumps, rows))))
    assert [example.references for example in found] == [("a",), ("a",), (), (), (), ()]
    assert not recwarn.list


ROWS = [{"instruction": "a, “b”\nc", "output": "d"}, {"instruction": "e", "output": ""}]


@pytest.mark.parametrize(
    "kind", ["jsonl", "json", "jsonl.gz", "json.gz", "csv", "csv.gz", "parquet", ""]
)
def test_rows_come_from_any_usual_file(tmp_path, kind):
    path = tmp_path / f"prompts.{kind}" if kind else tmp_path / "folder"
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    table = '\ufeffinstruction,output\r\n"a, “b”\nc",d\r\n\r\ne,\r\n'
    texts = {"jsonl": lines, "json": json.dumps(ROWS, indent=1), "csv": table}
    if kind in ("", "parquet"):
        rows = datasets.Dataset.from_list(ROWS)
        rows.to_parquet(path) if kind else rows.save_to_disk(path)
    else:
        content = texts[kind.removesuffix(".gz")].encode()
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    task = load_task(path)
    assert task.train + task.test == [Example("a, “b”\nc", ("d",)), Example("e")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", 'prompt\n"a', "p.csv, line 2: not CSV"),
        ("p.csv", "prompt,prompt\na,b", "p.csv, line 1: two columns of one name"),
        ("p.csv", "prompt\na,b", "p.csv, line 2: 2 cells under 1 names"),
        ("p.csv", "words\na\n", "p.csv, line 2: no prompt among the fields 'words'"),
        ("p.parquet", "PAR", "p.parquet: not a parquet file"),
        ("p.jsonl.gz", "no gzip", "p.jsonl.gz: not a whole gzip file"),
        (
            "p.json",
            '[{"prompt": "a"}, {"prompt": 2}]',
            "p.json, item 2: field 'prompt' must be a text",
        ),
        ("p.json", '[{"prompt": "a"}', "p.json, line 1: not JSON"),
        ("p.json", "[]", "p.json: no prompts in this file"),
        (
            "p.json",
            '{\n"data": [{"prompt": "a"}]}',
            "p.json, item 1: no prompt among the fields 'data'",
        ),
        ("p.json", '{\n"prompt": "a"}\n{"prompt": "b"}', "p.json, line 1: not JSON"),
        (
            "p.jsonl",
            '{"chosen": "Human: a Assistant: b"}',
            "line 1: no prompt among the fields 'chosen'",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode())
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prompts(path)


def test_a_data_set_of_the_hub_is_asked_for_its_split(monkeypatch):
    asks = []
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *a, **k: asks.append((a, k)) or [{"prompt": "p"}] * 5
    )
    assert len(load_task("me/mine").train) == 4
    assert read_prompts("me/mine:test_sft") == [Example("p")] * 5
    assert asks == [(("me/mine",), {"split": "train"}), (("me/mine",), {"split": "test_sft"})]
    for name in ("me/Mine-2.5", "me/Mine-3.1-Pro"):
        assert len(read_prompts(name)) == len(read_prompts(f"{name}:test")) == 5
        assert asks[-1] == ((name,), {"split": "test"})


def test_without_a_network_or_a_data_set_one_sentence_says_so(tmp_path):
    with pytest.raises(ConnectionError, match="me/mine: no data set that can be read here"):
        read_prompts("me/mine")
    with pytest.raises(FileNotFoundError, match="no data set that can be read here"):
        read_prompts(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted(prompt_files.KNOWN | {"role", "content", "chosen", "x"})),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.lists(JSON, min_size=1, max_size=3))
def test_any_rows_are_read_or_refused_in_a_sentence(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    refused, examples = None, []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            examples = read_prompts(path)
    except ValueError as error:
        refused = str(error)
    assert examples or refused.startswith((f"{path}, line", f"{path}, item", f"{path}: no prompts"))
    assert all(example.prompt.strip() for example in examples)
    assert all(isinstance(text, str) for e in examples for text in (e.prompt, *e.references))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("prompt: p", "not JSON"),
        ('["p"]', "expected a JSON object, but got list"),
        ("3", "expected a JSON object, but got int"),
        ("{}", "no prompt among the fields (none); wanted is one of prompt, instruction"),
        ('{"prompt": null}', "no prompt among the fields 'prompt'; wanted is one of prompt"),
        (
            '{"text": "t", "id": 1}',
            "no prompt among the fields 'text', 'id'; wanted is one of prompt",
        ),
        ('{"prompt": "\\ud800"}', "field 'prompt' holds half of a surrogate pair"),
        ('{"messages": "hi"}', "field 'messages' must be a list of turns, but is 'hi'"),
        (
            '{"messages": [{"role": "tool", "content": "x"}]}',
            "field 'messages' has a turn of 'tool', which is none of",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "x"}]}',
            "field 'messages' must have a turn of the user's before",
        ),
        (
            '{"messages": [{"role": "user", "content": 3}]}',
            "field 'messages' must be a text, but is 3",
        ),
        (
            '{"system": "s", "messages": [{"from": "system", "value": "t"}, '
            '{"from": "human", "value": "u"}]}',
            "two system prompts",
        ),
        ('{"prompt": "  "}', "field 'prompt' must be a text that is not empty"),
        ('{"prompt": 5}', "field 'prompt' must be a text, but is 5"),
        ('{"instruction": ["i"]}', "field 'instruction' must be a text, but is"),
        ('{"prompt": "p", "input": 5}', "field 'input' must be a text, but is 5"),
        ('{"prompt": "p", "response": 5}', "field 'response' must be a text, but is 5"),
        ('{"prompt": "p", "output": ["a"]}', "field 'output' must be a text, but is"),
        ('{"prompt": "p", "references": "a"}', "field 'references' must be a list of texts"),
        ('{"prompt": "p", "references": [1]}', "field 'references' must be a list of texts"),
        ('{"prompt": "p", "instances": "a"}', "field 'instances' must be a list of objects"),
        ('{"prompt": "p", "instances": {"a": 1}}', "field 'instances' must be a list of objects"),
        ('{"prompt": "p", "instances": [1]}', "field 'instances' must be a list of objects"),
        ('{"prompt": "p", "instances": [{"output": 1}]}', "field 'output' must be a text"),
        (b'{"prompt": "\xff"}', "not UTF-8 text"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_number_and_field(write, line, complaint):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(b'{"prompt": "fine"}\n\n' + line + b'\n{"prompt": "also fine"}\n')
    with pytest.raises(ValueError, match="line 3: ") as error:
        read_prompts(path)
    assert str(error.value).startswith(f"{path}, line 3: {complaint}")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_prompts_is_named(write, text):
    path = write(text)
    with pytest.raises(ValueError, match="no prompts in this file") as error:
        read_prompts(path)
    assert str(path) in str(error.value)


def test_line_separators_inside_a_text_windows_ends_and_a_byte_order_mark_are_read(write):
    text = "\ufeff" + '{"prompt": "a\u2028b\x85c"}\r\n{"prompt": "d"}\r\n'
    assert [e.prompt for e in read_prompts(write(text))] == ["a\u2028b\x85c", "d"]


def test_what_is_written_is_read_back(tmp_path):
    examples = [Example("a “quoted”\nprompt", ("x\u2028y", "z")), Example("bare")]
    write_jsonl(tmp_path / "new" / "prompts.jsonl", examples)
    assert read_prompts(tmp_path / "new" / "prompts.jsonl") == examples


def test_a_missing_file_names_the_nearest_beside_it(write):
    path = write('{"prompt": "p"}')
    with pytest.raises(FileNotFoundError, match="did you mean 'prompts.jsonl'") as error:
        load_task(path.with_name("prompt.jsonl"))
    assert str(path.with_name("prompt.jsonl")) in str(error.value)


def test_an_unknown_task_names_the_nearest():
    for ask in (load_task, get_world):
        with pytest.raises(ValueError, match="unknown task 'instrct'; did you mean 'instruct'"):
            ask("instrct")
    with pytest.raises(
        ValueError, match=r"not a file of prompts \(\.jsonl, \.json, \.csv, \.parquet"
    ):
        load_task("prompts.txt")
    with pytest.raises(FileNotFoundError, match=r"prompts.csv: unknown file 'prompts.csv'"):
        load_task("prompts.csv")


@pytest.mark.parametrize(("count", "train", "test"), [(10, 8, 2), (2, 1, 1), (7, 6, 1)])
def test_a_files_last_fifth_is_held_out(write, count, train, test):
    path = write("\n".join(json.dumps({"prompt": f"p{i}"}) for i in range(count)))
    task = load_task(path)
    assert (task.name, len(task.train), len(task.test)) == ("prompts", train, test)
    assert [e.prompt for e in task.train + task.test] == [f"p{i}" for i in range(count)]
    assert task.grade is None


def test_a_single_prompt_cannot_be_split(write):
    with pytest.raises(ValueError, match="1 prompts are too few"):
        load_task(write('{"prompt": "p"}'))


@needs_data
@pytest.mark.parametrize(
    ("name", "count"),
    [("self_instruct_user_oriented.jsonl", 252), ("self_instruct_seed_tasks.jsonl", 175)],
)
def test_the_self_instruct_files_are_read(name, count):
    path = DATA / name
    task = load_task(path)
    examples = task.train + task.test
    assert len(examples) == count
    assert all(e.prompt and e.references for e in examples)
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert examples[0].prompt.startswith(first["instruction"])
    assert examples[0].references[0] == first["instances"][0]["output"]


# --- the worlds -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WORLDS)
def test_every_reference_gets_the_full_grade_and_keeps_to_the_vocabulary(name):
    world, rng = get_world(name), random.Random(11)
    for _ in range(250 if name == "program" else 1000):  # each program starts a process
        prompt = world.write_prompt(rng)
        reference = world.write_reference(rng, prompt)
        verdict = world.judge(prompt, reference)
        assert (verdict.grade, verdict.reason) == (1, "right"), (prompt, reference)
        text = as_example(prompt).prompt
        assert {*text.split(), *reference.split()} <= {*world.words}, (prompt, reference)
        assert len(reference.split()) <= 47  # and the end token: what students are given to write


def test_every_family_is_asked(world):
    rng = random.Random(11)
    seen = {world.read_prompt(world.write_prompt(rng))[0] for _ in range(1000)}
    assert seen == set(world.families)


def test_a_reference_of_another_prompt_is_rarely_right(world):
    rng = random.Random(3)
    prompts = [world.write_prompt(rng) for _ in range(300)]
    answers = [world.write_reference(rng, prompt) for prompt in prompts]
    grades = [world.judge(p, a).grade for p, a in zip(prompts, answers[1:], strict=False)]
    assert sum(grade == 1 for grade in grades) / len(grades) < 0.03


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_seed_writes_the_same_examples_and_the_split_is_disjoint(name):
    train = write_examples(name, 400, seed=0, held_out=False)
    assert train == write_examples(name, 400, seed=0, held_out=False)
    assert train != write_examples(name, 400, seed=1, held_out=False)
    test = write_examples(name, 200, seed=0, held_out=True)
    seen, held_out = ({(e.prompt, e.image) for e in examples} for examples in (train, test))
    assert not seen & held_out


@pytest.mark.parametrize("name", WORLDS)
def test_most_prompts_have_several_right_answers(name):
    examples = write_examples(name, 200, seed=0, held_out=False, references=4)
    assert sum(len(e.references) > 1 for e in examples) > 180


def things_of(kind):
    return [name for name, fact in FACTS.items() if fact["kind"] == kind]


A, B = sorted(KINDS)[:2]
(A1, A2, A3), (B1, B2) = things_of(A)[:3], things_of(B)[:2]
SMALL, BIG = (next(n for n, f in FACTS.items() if f["size"] == s) for s in (SIZES[0], SIZES[-1]))
HERO, OTHER, THIRD = things_of("creature")[:3]
HOME = FACTS[HERO]["place"]
ABROAD = next(f["place"] for f in FACTS.values() if f["place"] not in (HOME, FACTS[OTHER]["place"]))
FOX = FACTS[HERO]
NOT_ITS_COLOUR = next(f["colour"] for f in FACTS.values() if f["colour"] != FOX["colour"])
YES_BIG = f"because a {BIG} is {SIZES[-1]} and a {SMALL} is {SIZES[0]} ."
YES_SMALL = f"because a {SMALL} is {SIZES[0]} and a {BIG} is {SIZES[-1]} ."

JUDGED = {  # family: the prompt, then responses and whether their form, facts and extent are right
    "list": (f"name two {A}s", [
        (f"some {A}s are {A1} and {A2} .", True, True, True),
        (f"{A1} and {A2} are all {A}s .", True, True, True),
        (f"well , some {A}s are {A1} and {A2} . good luck .", True, True, True),
        (f"some {A}s are {A1} and {B1} .", True, False, True),
        (f"some {B}s are {A1} and {A2} .", True, False, True),
        (f"some {A}s are {A1} .", True, True, False),
        (f"some {A}s are {A1} and {A1} .", True, True, False),
        (f"some {A}s are {A1} , {A2} and {A3} .", True, True, False),
        (f"some {A}s are {B1} .", True, False, False),
        (f"{A1} {A2}", False, False, False),
        (f"some {A}s are {A1} and {A2}", False, False, False),
    ]),
    "story": (f"tell a story about a {HERO} and a {OTHER}", [
        (f"once a {HERO} met a {OTHER} in the {HOME} . they sang all day . the end .",
         True, True, True),
        (f"once a {OTHER} met a {HERO} in the {HOME} . they sang all day . the end .",
         True, True, True),
        (f"once a {HERO} met a {OTHER} in the {ABROAD} . they sang all day . the end .",
         True, False, True),
        (f"once a {HERO} met a {OTHER} in the {HOME} . they {HERO} all day . the end .",
         True, False, True),
        (f"one day a {HERO} and a {OTHER} sang in the {HOME} . then they {HOME} . the end .",
         True, False, True),
        (f"once a {HERO} met a {THIRD} in the {HOME} . they sang all day . the end .",
         True, True, False),
        (f"once a {HERO} met a {HERO} in the {HOME} . they sang all day . the end .",
         True, True, False),
        (f"once a {HERO} met a {OTHER} in the {HOME} .", False, False, False),
    ]),
    "describe": (f"describe a {HERO}", [
        (f"a {HERO} is a {{size}} {{colour}} {{kind}} . look for it in the {{place}} .",
         True, True, True),
        (f"a {HERO} is a {{size}} {NOT_ITS_COLOUR} {{kind}} . look for it in the {{place}} .",
         True, False, True),
        (f"a {OTHER} is a {{size}} {{colour}} {{kind}} . look for it in the {{place}} .",
         True, True, False),
        (f"a {OTHER} is a {{size}} {NOT_ITS_COLOUR} {{kind}} . look for it in the {{place}} .",
         True, False, False),
        (f"a {HERO} is a {{size}} {{colour}} {{kind}} .", False, False, False),
    ]),
    "compare": (f"compare a {SMALL} and a {BIG}", [
        (f"the {BIG} is bigger than the {SMALL} . one is {SIZES[-1]} , the other is {SIZES[0]} .",
         True, True, True),
        (f"the {SMALL} is smaller : it is {SIZES[0]} , but the {BIG} is {SIZES[-1]} .",
         True, True, True),
        (f"the {SMALL} is bigger than the {BIG} . one is {SIZES[-1]} , the other is {SIZES[0]} .",
         True, False, True),
        (f"the {BIG} is bigger than the {SMALL} . one is {SIZES[-1]} , the other is {SIZES[1]} .",
         True, False, True),
        (f"the {BIG} is bigger than the {BIG} . one is {SIZES[-1]} , the other is {SIZES[0]} .",
         True, True, False),
        (f"the {BIG} is bigger", False, False, False),
    ]),
    "reverse": (f"reverse : {A1} {A2} {B1}", [
        (f"from the end : {B1} , {A2} , {A1} .", True, True, True),
        (f"from the end : {B1} , {A2} and {A1} .", True, True, True),
        (f"from the end : {A1} , {A2} , {B1} .", True, False, True),
        (f"from the end : {B1} , {A2} .", True, False, False),
        (f"{B1} , {A2} , {A1} .", False, False, False),
    ]),
    "keep": (f"keep the {A}s : {A1} {B1} {A2} {B2}", [
        (f"i keep {A1} and {A2} , the rest goes away .", True, True, True),
        (f"i keep {A2} and {A1} , the rest goes away .", True, True, True),
        (f"the {A}s here : {A1} and {A2} , nothing more .", True, True, True),
        (f"the {B}s here : {A1} and {A2} , nothing more .", True, False, True),
        (f"i keep {A1} , the rest goes away .", True, True, False),
        (f"i keep {A1} , {A1} and {A2} , the rest goes away .", True, True, False),
        (f"i keep {A1} , {A2} and {B1} , the rest goes away .", True, False, False),
        (f"i keep {B1} , the rest goes away .", True, False, False),
        (f"keep {A1} and {A2}", False, False, False),
    ]),
    "count": (f"how many {A}s : {A1} {B1} {A2} {B2}", [
        (f"the number of {A}s is two : {A1} and {A2} .", True, True, True),
        (f"as {A}s i see {A1} and {A2} , so two in all .", True, True, True),
        (f"the number of {A}s is three : {A1} and {A2} .", True, False, True),
        (f"the number of {B}s is two : {A1} and {A2} .", True, False, True),
        (f"the number of {A}s is two : {A1} .", True, True, False),
        (f"the number of {A}s is one : {A1} .", True, False, False),
        ("two", False, False, False),
    ]),
    "sort": (f"sort by size : {BIG} {SMALL}", [
        (f"from small to big : {SMALL} , {BIG} .", True, True, True),
        (f"from small to big : {BIG} , {SMALL} .", True, False, True),
        (f"from small to big : {SMALL} .", True, False, False),
        (f"{SMALL} , {BIG}", False, False, False),
    ]),
    "why": (f"is a {BIG} bigger than a {SMALL} ?", [
        (f"yes , {YES_BIG}", True, True, True),
        (f"no , {YES_BIG}", True, False, True),
        (f"yes , because a {BIG} is {SIZES[-1]} and a {SMALL} is {SIZES[1]} .", True, False, True),
        (f"yes , because a {BIG} is {SIZES[-1]} and a {BIG} is {SIZES[0]} .", True, True, False),
        (f"yes , {YES_SMALL}", True, False, False),
        ("yes", False, False, False),
    ]),
    "odd": (f"which one does not belong : {A1} {B1} {A2} {A3}", [
        (f"the {B1} , because it is a {B} . the others are {A}s .", True, True, True),
        (f"all are {A}s , but the {B1} is a {B} .", True, True, True),
        (f"the {B1} , because it is a {A} . the others are {A}s .", True, False, True),
        (f"the {A1} , because it is a {B} . the others are {A}s .", True, False, True),
        (f"the {B2} , because it is a {B} . the others are {A}s .", True, False, False),
        (f"the {B1}", False, False, False),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "prompt", "response", "form", "correct", "complete"),
    [(name, prompt, *case) for name, (prompt, cases) in JUDGED.items() for case in cases],
)
def test_the_judge_tells_form_facts_and_extent_apart(
    world, family, prompt, response, form, correct, complete
):
    assert world.read_prompt(prompt)[0] == family
    verdict = world.judge(prompt, response.format(**FOX))
    said = ("no answer", "wrong", "incomplete", "right")
    assert verdict.reason == said[form * (1 + correct * (1 + complete))]
    assert verdict.grade == pytest.approx((form + correct + complete) / 3)


def test_every_family_is_judged_by_hand_above():
    assert set(JUDGED) == set(FAMILIES)


@pytest.mark.parametrize(
    "response", ["", "   ", "hm", "(", "once upon a time", "\n" * 50, "é " * 200]
)
def test_a_response_that_fits_nothing_gets_nothing(world, response):
    assert world.judge(f"describe a {HERO}", response).grade == 0


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("response", [None, b"a fox"])
def test_a_response_that_is_no_text_is_refused(name, response):
    prompt = write_examples(name, 1, seed=0, held_out=False)[0]
    with pytest.raises(TypeError, match="must be a text, but"):
        get_world(name).judge(prompt, response)


@pytest.mark.parametrize("name", WORLDS)
def test_a_prompt_of_no_world_is_refused(name):
    for prompt in ("sing me a song", "", "tom has 3 eggs . sing .", "f gives the sum of all"):
        with pytest.raises(ValueError, match="of this world"):
            get_world(name).judge(prompt, "la")


def test_a_task_is_graded_by_its_world(task):
    assert isinstance(task, Task)
    assert all(task.grade(e.prompt, r) == 1 for e in task.test for r in e.references)


# --- the grammar ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_lists_are_joined_and_split_again(words):
    assert split(join(words)) == words
    assert split(" , ".join(words)) == words


def test_a_pattern_reads_what_it_writes():
    pattern = compile_pattern("keep the {kinds} : {LIST} ?")
    match = pattern.fullmatch("keep the tools : saw , rope and brush ?")
    assert match.groupdict() == {"kinds": "tools", "LIST": "saw , rope and brush"}
    assert pattern.fullmatch("keep the old tools : saw ?") is None
    assert pattern.fullmatch("keep the tools : saw .") is None


def test_choices_follow_zipf():
    rng = random.Random(0)
    drawn = [zipf(rng, ["a", "b", "c"]) for _ in range(11000)]
    expected = {"a": 6000, "b": 3000, "c": 2000}
    assert all(abs(drawn.count(x) - n) < 200 for x, n in expected.items())
    subset = zipf_subset(rng, list("abcdef"), 4)
    assert len(set(subset)) == 4


def test_a_response_that_babbles_is_graded_in_no_time():
    """A list whose words are all "and" has one reading: with two, the time would double with each word."""
    world = get_world("instruct")
    prompt = "reverse : bee peach saw"
    started = time.monotonic()
    for word in ("and", ", and", "and ,", "truck and"):
        said = f"backwards this is : bee {' '.join([word] * 40)} once"
        assert world.judge(prompt, said).grade < 1
    assert time.monotonic() - started < 2
