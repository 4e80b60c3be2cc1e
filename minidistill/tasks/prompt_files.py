"""Prompts from files and data sets, in the formats that users of TRL, Alpaca, ShareGPT and the hub have.

| fields | meaning |
|---|---|
| `prompt`, `instruction` (+ `input`, `instances`), `question`, `query`, `problem` | a text |
| `messages`, `conversations`, or a list in `prompt` | turns; the assistant's last is a reference |
| a list in `chosen`, where none of these is | turns; the last, preferred but not called right, is left out |
| `system`, `system_prompt` | the turn before all others |
| `references`, `response`, `output`, `completion`, `solution`, `answer` | what is called right |
| `image` | the path of a file, seen from the prompts file, or a scene of the vision world |

Rows come from JSON lines, JSON arrays and CSV (all of these also as .gz), parquet, a folder of `datasets`, or
a data set's name on the hub, `owner/name` or `owner/name:split`. Fields that are not in the table, other than
an id or a source, are named in a warning. What cannot be read ends in a ValueError that names file, line and
field.
"""

import csv
import gzip
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

from minidistill.tasks.examples import Example
from minidistill.utils import missing_extra_message, unknown_name_message

PROMPTS = ("prompt", "instruction", "question", "query", "problem")
CONVERSATIONS = ("messages", "conversations")
SYSTEMS = ("system", "system_prompt")
ANSWERS = ("response", "output", "completion", "solution", "answer")
KNOWN = {*PROMPTS, *CONVERSATIONS, *SYSTEMS, *ANSWERS, "references", "input", "instances", "image"}
BOOKKEEPING = {
    "id", "idx", "index", "prompt_id", "task_id", "uuid", "source", "dataset", "name", "category", "url",
    "license", "metadata", "motivation_app", "is_classification", "chosen", "rejected",
}  # fmt: skip
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
TURN = {"role", "from", "content", "value"}
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_prompts(source: str | Path) -> list[Example]:
    """Read prompts; ValueError names file, line and field of the first row that is not one."""
    examples, unused = [], {}
    for where, record in read_records(source):
        try:
            examples.append(as_prompt(record, Path(source).parent))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        unused |= dict.fromkeys(_unused(record, examples[-1]))
    if not examples:
        raise ValueError(f"{source}: no prompts in this file")
    if unused:
        names = ", ".join(map(repr, sorted(map(str, unused))))
        warnings.warn(f"{source}: fields that are not used: {names}", stacklevel=2)
    return examples


def write_jsonl(path: Path, examples: list[Example]) -> None:
    """One JSON object a line, `prompt` or `messages`, `references`, `image`: what `read_prompts` reads."""
    lines = []
    for e in examples:
        asked = {"messages": e.messages()} if e.history else {"prompt": e.prompt}
        image = {"image": e.image} if e.image else {}
        lines.append(json.dumps({**asked, **image, "references": e.references}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- rows -----------------------------------------------------------------------------------------------
def read_records(source: str | Path) -> Iterator[tuple[str, object]]:
    """(file and line, what stands there), empty lines left out; ValueError for what cannot be read."""
    path = Path(source)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if path.is_dir() or is_data_set(source):
        return _data_set(str(source))
    if kind not in SUFFIXES:
        found = ", ".join(SUFFIXES)
        raise ValueError(f"{path}: not a file of prompts ({found}, .gz of a text) or owner/name")
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*.*")]
        raise FileNotFoundError(f"{path}: {unknown_name_message('file', path.name, siblings)}")
    if kind == ".parquet":
        return _parquet(path)
    return _csv(path) if kind == ".csv" else read_json(path)


def is_data_set(source: str | Path) -> bool:
    """Tell whether this is a data set's name, owner/name or owner/name-2.5:split, and no file."""
    path = Path(source)
    named = not path.suffix or path.suffix[1:2].isdigit()
    return named and len(path.parts) == 2 and not path.exists()


def read_json(path: Path) -> Iterator[tuple[str, object]]:
    """(file and line, what stands there): an array's items, one object or the lines; a text or its .gz."""
    text = _read_utf8(path)
    if text.lstrip().startswith(("[", "{")):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, dict):  # one object, which may stand on many lines
            items = [items] if "\n" in text.strip() else None
        if isinstance(items, list) and all(isinstance(item, dict) for item in items):
            yield from ((f"{path}, item {n}", item) for n, item in enumerate(items, start=1))
            return
    # Not splitlines(): it also breaks at U+2028, which JSON allows inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = getattr(error, "msg", None) or str(error).split(";")[0]
            raise ValueError(f"{where}: not JSON ({said})") from None
        yield where, record


def _csv(path: Path) -> Iterator[tuple[str, object]]:
    rows = csv.reader(io.StringIO(_read_utf8(path), newline=""), strict=True)
    try:
        names = next(rows, [])
        if len(set(names)) < len(names):
            raise ValueError(f"{path}, line 1: two columns of one name among {', '.join(names)}")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if len(row) > len(names):
                raise ValueError(f"{where}: {len(row)} cells under {len(names)} names")
            if any(row):
                record = dict(zip(names, row, strict=False))
                if "references" in record:  # a cell holds one, or none
                    record["references"] = [text for text in [record["references"]] if text]
                yield where, record
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: not CSV ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[str, object]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("datasets", "course")) from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


def _data_set(name: str) -> Iterator[tuple[str, object]]:
    """Rows of a data set of the hub, 'owner/name' or 'owner/name:split', or of a folder."""
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("datasets", "course")) from None
    folder, name, split = Path(name).is_dir(), *name.partition(":")[::2]
    try:
        found = load_from_disk(name) if folder else load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        kind = FileNotFoundError if folder else ConnectionError
        raise kind(f"{name}: no data set that can be read here ({first})") from None
    if isinstance(found, DatasetDict):
        split = split or ("train" if "train" in found else next(iter(found), ""))
        if split not in found:
            raise ValueError(f"{name}: no split {split!r} among {', '.join(found)}")
        found = found[split]
    rows = found
    yield from ((f"{name}, row {number}", row) for number, row in enumerate(rows, start=1))


def _read_utf8(path: Path) -> str:
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from None


# --- a row ----------------------------------------------------------------------------------------------
def as_prompt(record: object, folder: Path) -> Example:
    """Read a row; ValueError names the field that is missing, empty or of another type."""
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, but got {type(record).__name__}")
    turns, answers = _conversation(record)
    system = next(filter(None, (text_field(record, field) for field in SYSTEMS)), None)
    if ("system", system) in turns[:1]:
        system = None
    if system and any(role == "system" for role, _ in turns):
        raise ValueError("two system prompts: a field of its own, and one in the conversation")
    history = ((("system", system),) if system else ()) + tuple(turns[:-1])
    return Example(turns[-1][1], _references(record, answers), _image(record, folder), history)


def _conversation(record: dict) -> tuple[list[tuple[str, str]], list[str]]:
    """The turns up to a user's, and the assistant's answer to it if there is one."""
    field = _conversation_field(record)
    if field is None:
        return [("user", _prompt(record))], []
    turns = read_turns(record[field], field)
    if field == "prompt" and turns and turns[-1][0] == "assistant":
        raise ValueError(
            "field 'prompt' ends with a turn of the assistant's, which would be the answer"
        )
    answers = [turns.pop()[1]] if turns and turns[-1][0] == "assistant" else []
    if not turns or turns[-1][0] != "user" or not turns[-1][1].strip():
        raise ValueError(f"field {field!r} must have a turn of the user's before the answer")
    return turns, [] if field == "chosen" else answers


def _conversation_field(record: dict) -> str | None:
    if field := next((name for name in CONVERSATIONS if record.get(name)), None):
        return field
    if isinstance(record.get("prompt"), list):
        return "prompt"
    implicit = all(record.get(name) is None for name in PROMPTS)
    return "chosen" if implicit and isinstance(record.get("chosen"), list) else None


def _unused(record: dict, example: Example) -> set[str]:
    """The fields that hold something, of which nothing went into the example."""
    field = _conversation_field(record)
    asked = next((name for name in PROMPTS if record.get(name) is not None), None)
    used = BOOKKEEPING | {"image", "label", *([field] if field else [asked, "input", "instances"])}
    used |= {next((name for name in SYSTEMS if record.get(name)), None)}
    used |= set(ANSWERS) if record.get("references") is None else {"references"}
    told = {example.prompt, *(text for _, text in example.history)}
    held = {n: v for n, v in record.items() if n not in used and v not in (None, "", [], {})}
    unused = {str(n) for n, value in held.items() if not (isinstance(value, str) and value in told)}
    for turn in record[field] if field else ():
        unused |= {
            f"{field}.{key}" for key in turn.keys() - TURN if turn[key] not in (None, "", [])
        }
    return unused


def read_turns(turns: object, field: str) -> list[tuple[str, str]]:
    """Read (role, text) from TRL's [{"role", "content"}] or ShareGPT's [{"from", "value"}]."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"field {field!r} must be a list of turns, but is {turns!r:.80}")
    found = []
    for turn in turns:
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if turn.get("tool_calls"):
            raise ValueError(f"field {field!r} has a turn that calls tools, which is not read")
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(
                f"field {field!r} has a turn of {role!r}, which is none of {', '.join(ROLES)}"
            )
        if isinstance(text, list) and all(
            isinstance(p, dict) and p.get("type") == "text" for p in text
        ):
            text = "".join(_as_text(part.get("text"), field) for part in text)
        found.append((ROLES[role], _as_text(text, field)))
    return found


def _prompt(record: dict) -> str:
    instances = _instances(record)
    field = next((name for name in PROMPTS if record.get(name) is not None), None)
    if field is None:
        wanted = ", ".join((*PROMPTS, *CONVERSATIONS))
        there = ", ".join(map(repr, record)) or "(none)"
        raise ValueError(f"no prompt among the fields {there}; wanted is one of {wanted}")
    parts = [
        text_field(record, field),
        text_field(record, "input") or text_field(instances[0], "input"),
    ]
    if not parts[0].strip():
        raise ValueError(f"field {field!r} must be a text that is not empty")
    return "\n\n".join(filter(None, parts))


def _instances(record: dict) -> list[dict]:
    instances = record.get("instances") or [{}]
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise ValueError(f"field 'instances' must be a list of objects, but is {instances!r}")
    return instances


def _references(record: dict, answers: list[str]) -> tuple[str, ...]:
    references = record.get("references")
    if references is not None:
        if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
            raise ValueError(f"field 'references' must be a list of texts, but is {references!r}")
        return tuple(_as_text(r, "references") for r in references)
    if str(record.get("label")).casefold() in (
        "false",
        "0",
        "0.0",
    ):  # of KTO: one that was not liked
        return ()
    told = {field: _answer(record, field) for field in ANSWERS}
    if told["answer"] in told["solution"]:  # of mathematics: what the solution ends with
        told["answer"] = ""
    instances = _instances(record)
    asked = text_field(instances[0], "input")  # the one that the prompt has
    same = [text_field(i, "output") for i in instances if text_field(i, "input") in ("", asked)]
    return tuple(filter(None, [*answers, *told.values(), *same]))


def _answer(record: dict, field: str) -> str:
    """A text; of mathematics also a number; of a conversation the last turn."""
    value = record.get(field)
    if field == "completion" and isinstance(value, list):
        if len(turns := read_turns(value, field)) != 1:
            raise ValueError(f"field {field!r} must be one turn, but has {len(turns)}")
        return turns[0][1]
    number = field in ("answer", "solution") and type(value) in (int, float)
    return str(value) if number else text_field(record, field)


def _image(record: dict, folder: Path) -> str | None:
    """Find the image of a line, which must be one that can be read: what is wrong is told with its line."""
    if not (image := text_field(record, "image")):
        return None
    from minidistill.tasks.vision.images import resolve_image

    return resolve_image(image, folder)


def text_field(record: dict, field: str) -> str:
    """The text in `field`, '' if it is not there; ValueError if something else is."""
    value = record.get(field)
    return "" if value is None else _as_text(value, field)


def _as_text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} must be a text, but is {value!r:.80}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"field {field!r} holds half of a surrogate pair: {value!r:.80}") from None
    return value
