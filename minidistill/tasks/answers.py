r"""Answers in responses: where they stand.

`extract_answer` reads the number that the arithmetic world and GSM8K ask for, `extract_boxed` the form
that MATH puts into \boxed{}; `forms.same_answer` compares two such forms. Responses are strangers' texts:
nothing in them is evaluated here, and none takes long.
"""

import math
import re
from collections import deque
from collections.abc import Iterable

# --- whose words count ------------------------------------------------------------------------------------
TAGS = "think|thinking|thought|thoughts|reasoning|scratchpad|seed:think"
THOUGHT = re.compile(
    rf"<({TAGS})>.*?(?:</\1>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)|◁think▷.*?(?:◁/think▷|\Z)"
    r"|<\|START_THINKING\|>.*?(?:<\|END_THINKING\|>|\Z)"
    r"|<\|begin_of_thought\|>.*?(?:<\|end_of_thought\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
THOUGHT_ENDS = re.compile(rf"</(?:{TAGS})>|\[/THINK\]|◁/think▷", re.IGNORECASE)
CHANNEL = "<|channel|>"  # gpt-oss thinks in one called analysis, and answers in one called final
FINAL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>")
END_OF_TURN = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end|return|user|END_OF_TURN_TOKEN)\|>|</s>"
    r"|<end_of_turn>|<eos>|<｜end▁of▁sentence｜>|\[/?INST\]"
)
QUESTION = "(?:Question|Problem|Exercise|Instruction|Human|User)"
NEXT_QUESTION = re.compile(
    rf"^[ \t]*(?:[#*]+ *)?(?:{QUESTION}|Q) *[0-9]*(?:\*\*)? *:"
    rf"|^[ \t]*[#*]+ *{QUESTION} *[0-9]*(?:\*\*)? *$|^[ \t]*{QUESTION} +[0-9]+ *$",
    re.MULTILINE | re.IGNORECASE,
)
ANOTHER = re.compile(
    rf"{QUESTION} *(?:[2-9]|1[0-9])|^[ \t]*(?:Answer|A|Solution) *:", re.MULTILINE | re.IGNORECASE
)
TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
ANNOUNCED = re.compile(r"####|\\boxed|\\fbox|\banswer\b", re.IGNORECASE)


def answer_part(response: str) -> str:
    """The part of a response that answers: without <think> … </think> or all before a lone </think>, and
    without what follows the turn's end.

    A template may have opened the thinking in the prompt; what is never closed has no answer after it.
    """
    text = as_text(response, "response").lstrip("\ufeff")
    if CHANNEL in text:
        text = FINAL.split(text)[-1] if FINAL.search(text) else ""
    outside = THOUGHT_ENDS.split(THOUGHT.sub("", text))[-1]
    return END_OF_TURN.split(outside, maxsplit=1)[0]


def first_answer_part(response: str) -> str:
    """The same without the questions that a base model goes on to ask itself, and their answers.

    A question on the way to the answer, neither numbered nor answered in so many words, is none of those.
    """
    response = answer_part(response)
    if tagged := TAGGED.findall(response):
        return tagged[-1] if ANNOUNCED.search(tagged[-1]) else f"The answer is {tagged[-1].strip()}"
    parts = NEXT_QUESTION.split(response)
    if len(parts) == 1:
        return response
    first = next((part for part in parts if re.search("[0-9]|####", part)), response)
    if ANNOUNCED.search(first) or ANOTHER.search(response):
        return first
    return next(filter(ANNOUNCED.search, parts), first)


# --- numbers, as in GSM8K -------------------------------------------------------------------------------
DECIMAL = (
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]{1,3})?"
)
NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]}])-)?(?:\\?[$€£](?P<late_sign>-)?)?[({]?"  # in 5-3 there is no -3
    r"(?<![0-9A-Za-z_^])(?<!\^\{)(?<![0-9]\.)"  # no exponent, no index, no part of a name
    rf"(?:(?P<whole>[0-9]+) (?=[0-9]+/[0-9]))?(?P<top>{DECIMAL})(?:/(?P<bottom>{DECIMAL}))?"
)
HEDGE = re.compile(rf"(?<![0-9A-Za-z.,]){DECIMAL} or [$€£]?{DECIMAL}", re.IGNORECASE)
PARTS = (("whole", "0"), ("top", "0"), ("bottom", "1"))
# Up to the result of 9 eggs * $2 = $18, but not of "18, because x = 3".
EQUATIONS = re.compile(
    r"(?:(?:(?!\b(?:because|since|so|as|not|where|when|if|with)\b)"
    r"(?:[^=\n.;:!?,<>(]|[.,](?=[0-9])|(?<=[-+*/×÷·=(xX])\(|(?<=[-+*/×÷·=(xX] )\())*=)*"
)
ABOUT = "about|approximately|roughly|only|just|exactly|simply|therefore|equal to|[a-zA-Z] ?="
LEAD = re.compile(rf"[^\w\n]*(?:(?:{ABOUT})[^\w\n]*)*")  # between "the answer is" and the number
SHORT = re.compile(
    r"(?:\W*[A-Za-z]+){0,3}\W*"
)  # after a number, on a line that says no more than it
# After a #### that is no announcement: a chat model's section, such as "#### Step 2: Add" or "#### Result".
SECTION = re.compile(
    r"\W*(?:(?i:step|part|case)\b[^\n]*|[0-9]{1,2}[.)] +\W*[A-Z][^\n]*|[A-Z][^\n0-9]*)\n\s*(?=\S)"
)
ANSWER_IS = re.compile(
    r"(?P<the>\b(?:the|my|our|final|correct|right)\W{1,3})?\banswers?\b"
    r"(?: (?:to|for|of)\b[^.,:=\n0-9]{0,40}?| ?\([^()\n]{0,40}\))?"
    r",?(?: (?:therefore|then|thus|hence),?)?[\s*_]*(?P<is>(?:\b(?:is|are)\b|=)\s*:?|:)",
    re.IGNORECASE,
)
TENS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
SPACE = r"(?:[ ~]|\\[ ,;])*"
SPELLINGS = [
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"(?<=[0-9])(?:\{,\}|,?\\[,!;: ])(?=[0-9]{3}(?![0-9]))"), ""),  # 1{,}000 and 1\,000
    (re.compile("(?<=[0-9])[\u00a0\u2009\u202f'’](?=[0-9]{3}(?![0-9]))"), ""),  # French and Swiss
    (re.compile("[\uff10-\uff19]"), lambda digit: chr(ord(digit[0]) - 0xFEE0)),  # full width
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s?([0-9])\s?([0-9])"), r"\\frac{\1}{\2}"),
]
TIDY = [
    *SPELLINGS,
    (re.compile(r"<<[^<>\n]*>>"), ""),  # GSM8K's calculator
    (re.compile(r"(?<=####) *- +(?=[$0-9])"), " -"),
    (
        re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]+)(?![0-9,.]*[0-9])"),
        lambda german: f"{german[1].replace('.', '')}.{german[2]}",
    ),
    (
        re.compile(r"(?<![0-9.,])[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])"),
        lambda indian: indian[0].replace(",", ""),
    ),
    (re.compile(r"(?<=[0-9])\s?\\frac\{([0-9]+)\}\{([0-9]+)\}"), r" \1/\2"),  # a mixed number
    (re.compile(r"\\frac\{([0-9]+)\}\{([0-9]+)\}"), r"{\1/\2}"),
    (  # 5 \times 10^{3}, and 10^3 alone
        re.compile(
            r"(?<=[0-9]) *(?:\\times|×|\*) *10\^(?:\{([0-9]{1,2})\}|([0-9]{1,2}))(?![\w.]*[0-9])"
        ),
        lambda power: f"e{power[1] or power[2]}",
    ),
    (
        re.compile(r"(?<![\w.,^}])([0-9]{1,4})\^(?:\{([0-9]{1,2})\}|([0-9]{1,2}))(?![\w.]*[0-9])"),
        lambda power: str(int(power[1]) ** int(power[2] or power[3])),
    ),
    *(
        (re.compile(rf"(?<=[0-9]){SPACE}(?:\\text\{{ *{n} *\}}|{n}\b)"), f"e{k}")
        for n, k in TENS.items()
    ),
]


def extract_answer(text: str) -> float | None:
    r"""The number that a response gives as its answer; None if it gives none. TypeError if no text.

    What the line after the last #### gives counts, unless that is a section's heading or a \boxed{} follows
    there. Then, and without ####, what counts is the last \boxed{}, else "the answer is …", else the last
    number. A line gives the number it begins with, of a sum its result; else what follows its last =, or
    its last number. An "Answer:" before a whole solution announces nothing, and "3 or 4" is no answer.
    A #### or a box without a number is no answer: whoever announces one and breaks off is not graded
    by a number on the way there. Thinking aloud and questions that the response asks itself do not count.
    Source: GSM8K, arXiv 2110.14168, and what is usual for chat models.
    """
    text = rewrite(first_answer_part(text), TIDY)
    _, mark, tail = text.rpartition("####")
    if mark and (section := SECTION.match(tail)):
        text, mark = tail[section.end() :], ""
    boxed = _boxes(tail)
    if mark or boxed:
        return _of_line(boxed[-1] if boxed else tail)
    if (said := last_match(ANSWER_IS.finditer(text))) and _announces(said, text):
        line = text[said.end() :].strip(" \t\n*_:").partition("\n")[0]
        if NUMBER.search(line):
            return _of_line(line)
    last = last_match(NUMBER.finditer(text))
    return _value(last) if last else None


def _announces(said: re.Match, text: str) -> bool:
    """Tell whether the answer follows on this line, and not a whole solution, which ends with it."""
    rest = text[said.end() :]
    if (said["the"] or said["is"] != ":") and rest.strip(" \t*_:")[:1] != "\n":
        return True
    line, _, more = rest.strip(" \t\n*_:").partition("\n")
    found = NUMBER.search(line)
    if not found or not LEAD.fullmatch(line, 0, found.start()):
        return False
    number = _result(line, found)
    if number is None or (number is not found and NUMBER.search(more)):
        return False
    return bool(SHORT.fullmatch(line, number.end()))


def _result(line: str, number: re.Match) -> re.Match | None:
    """The result of the equation that begins with a number; the number itself where there is none."""
    begin = number.start("top")
    end = EQUATIONS.match(line, begin).end()
    return NUMBER.search(line, end) if end > begin else number


def _of_line(text: str) -> float | None:
    """The number that the first line of a text gives; None for none, and for "3 or 4"."""
    line = text.strip().partition("\n")[0]
    if said := last_match(ANSWER_IS.finditer(line)):
        line = line[said.end() :]
    first = NUMBER.search(line)
    if first is None or HEDGE.search(line):
        return None
    if LEAD.fullmatch(line, 0, first.start()):
        found = _result(line, first)
    else:
        result = NUMBER.search(line, line.rfind("=") + 1)
        found = result if "=" in line else last_match(NUMBER.finditer(line))
    return _value(found) if found else None


def _value(number: re.Match) -> float | None:
    """As a float; None for 1/0 and what is too large."""
    whole, top, bottom = (float((number[part] or other).replace(",", "")) for part, other in PARTS)
    value = whole + top / bottom if bottom else math.inf
    sign = -1 if number["sign"] or number["late_sign"] else 1
    return sign * value if math.isfinite(value) else None


def last_match(matches: Iterable[re.Match]) -> re.Match | None:
    """The last of the matches, which are not all kept; None if there is none."""
    return next(iter(deque(matches, maxlen=1)), None)


def rewrite(text: str, rules: list) -> str:
    """Each pattern's matches replaced, one rule after the other."""
    for pattern, new in rules:
        text = pattern.sub(new, text)
    return text


def as_text(value: object, name: str) -> str:
    """The value, if it is a text; TypeError else."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, but is {value!r:.80}")
    return value


# --- forms, as in MATH ----------------------------------------------------------------------------------
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?:(?P<bare>[^\s{$][^\s$]*)|\{)")
JOINT = re.compile(
    r"[\s$*]*(?:[,;]|(?:[,;]\s*)?(?:and|or|\\text *\{ *(?:and|or) *\}))[\s$*]*(?:[A-Za-z](?:_\w)? *= *)?"
)
BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""Return what stands in the last \boxed{…} or \fbox{…}, or after a \boxed without braces.

    Boxes that only a comma, "and" or "or" parts are one answer: \boxed{3} or \boxed{4} is "3, 4", not 4.
    None if there is no box, or the last one is empty or never closed. TypeError if no text.
    """
    return ", ".join(dict.fromkeys(_boxes(as_text(text, "response")))) or None


def _boxes(text: str) -> list[str]:
    """The contents of the last box and of those that are joined to it."""
    contents, end = [], len(text)
    for box in reversed(list(BOX.finditer(text))):
        content, after = (box["bare"], box.end()) if box["bare"] else _braced(text, box.end(), end)
        if not content or contents and not JOINT.fullmatch(text, after, end):
            break
        contents.insert(0, content)
        end = box.start()
    return contents


def _braced(text: str, start: int, end: int) -> tuple[str | None, int]:
    """What stands up to the brace that closes the one before `start`, and where that ends."""
    depth = 0
    for brace in BRACES.finditer(text, start, end):
        if brace[0] == "}" and depth == 0:
            return text[start : brace.start()].strip(), brace.end()
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
    return None, end
