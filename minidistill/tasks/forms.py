r"""When two answers of MATH are the same: \frac{1}{2} and 0.5, x = 5 and 5, \{1, 2\} and \{2, 1\}.

math-verify compares the formulas with sympy. Here is what it must not see: units and currency, spellings
that it reads wrongly, and words, which it takes for products of variables. Responses are strangers' texts
and algebra may take for ever, so it runs in a process of its own (`symbolic.py`), which can be given up
whatever thread asks; the library's own time limit needs the main thread.
"""

import atexit
import importlib.util
import json
import re
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from threading import Lock

from minidistill.tasks.answers import SPELLINGS, TENS, as_text, rewrite
from minidistill.utils import missing_extra_message

LONGEST = 300  # characters; no answer of MATH is longer
SECONDS = 5  # for one comparison; most take some 10 ms
GLYPHS = str.maketrans(
    {
        "×": "*",
        "·": "*",
        "⋅": "*",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "∪": r"\cup ",
        "√": r"\sqrt ",
        '"': "",
        "²": "^2",
        "³": "^3",
        "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
    }
)
FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|infty|infinity"
UNIT = r"[a-z]{4,}(?: [a-z]{2,})*|[ckm]m|kg|ft|mph"
SHORT_UNIT = (
    "mm|cm|m|km|in|ft|yd|mi|mg|g|kg|lbs?|oz|ms|s|sec|min|hr?|hrs|mL|ml|L|mph|kph|K|C|F|Hz|J|W|V|A|N|rad|"
    "am|pm"
)
POWER = r" ?(?:\^\{?[23]\}?)?\.? *$"  # of the unit, at the end of the answer
NO_UNIT = (
    "or|and|not|more|less|below|above|least|most|than|over|under|tenths?|hundredths?|thousandths?"
)
RULES = [
    (r"\s+|(?<!\\)\\[,!;: ]|~|\\q?quad(?![A-Za-z])", " "),
    (r"\\(?:displaystyle|[Bb]igg?|bf|bfseries|boldsymbol)(?![A-Za-z])|\\color ?\{\w+\}", ""),
    (r"\\\\ ?\[[0-9.]+ ?[a-z]{2}\]", r"\\\\ "),  # between the rows of a matrix
    (r"\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]))|°|\\?[$€£]", ""),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
    (r"\\(?:text[a-z]*|math(?:rm|bf|it)|mbox) ?\{", r"\\text{"),
    (r"(?<=[0-9]) ?\^? ?\{? ?(?:\\text\{ ?)?(?:st|nd|rd|th) ?\}{0,2}(?=[ .]*$)", ""),  # 5th
    (r",? *(?:\\text\{ *(?:or|and) *\}|\b(?:or|and)\b)", ", "),
    (r"(?<=[0-9]) ?(?:\\text\{ *percent *\}|percent\b)|(?<!\\)%", r"\\%"),
    # 1\frac{1}{2} and 1 1/2
    (r"(?<![\w.^)}])([0-9]+) ?\\frac ?\{([0-9]+)\} ?\{([0-9]+)\}", r"(\1+\\frac{\2}{\3})"),
    (r"(?<![\w.^)}])([0-9]+) ([0-9]+)/([0-9]+)(?![0-9.])", r"(\1+\\frac{\2}{\3})"),
    (rf"(?<![A-Za-z\\])({FUNCTIONS})(?![A-Za-z])", r"\\\1 "),
    (r"\\sqrt ?\[(\w+)\] ?(\w)", r"\\sqrt[\1]{\2}"),
    (r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\^ ?(-[0-9]+)", r"^{\1}"),
    # 101_2 is not 101: the base becomes a variable beside the digits.
    (r"(?<![\w.])([0-9A-F]*[0-9][0-9A-F]*)_\{?([0-9]+)\}?", r"\1 \\beta_{\2}"),
    *((rf"(?<=[0-9]) ?(?:\\text\{{ *{t} *\}}|{t}\b)", rf"*10^{{{n}}}") for t, n in TENS.items()),
    (rf"(?<=[\w}})]) *\\text\{{(?![^{{}}]*\b(?:{NO_UNIT})\b)[^{{}}]*\}}{POWER}", ""),
    (rf"(?<=[0-9}})]) (?:{UNIT}){POWER}", ""),
    (r"^\\approx|[.,] *$", ""),
]
REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot) ?\{?([0-9]+)\}?")
ALTERNATIVES = re.compile(r",? *(?:\\(?:text|mbox|mathrm) *\{ *or *\}|\bor\b|\\cup(?![A-Za-z])) *")
RELATION = re.compile(r" *(<|>|\\leq?(?![a-z])|\\geq?(?![a-z])) *")
CLEAN = SPELLINGS + [(re.compile(pattern), new) for pattern, new in RULES]
NUMBER = re.compile(r"-?(?:(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]*)?|\.[0-9]+)")
NAMED = re.compile(r"(?:\\text\{[^{}]*\}|\\?[A-Za-z]+)(?:_\{?\w+\}?)?(?:\([a-z]\))? *=(?=[^=<>]*$)")
LABEL = re.compile(
    rf"(?<=[0-9}})]) (?:{SHORT_UNIT}){POWER}"
)  # a product where letters are asked for
SPELT = {
    "metre": "m", "meter": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "kilometer": "km",
    "kilometre": "km", "inche": "in", "inch": "in", "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi",
    "gram": "g", "kilogram": "kg", "pound": "lb", "ounce": "oz", "second": "sec", "minute": "min",
    "hour": "hr", "h": "hr", "": "sec",
}  # fmt: skip
UNITS = re.compile(
    r"[0-9})] +(mm|cm|m|km|in|ft|yd|mi|g|kg|lbs?|oz|sec|s|min|h|hrs?|days?|weeks?|months?|years?|"
    r"(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|feet|foot|yards?|miles?|(?:kilo)?grams?|pounds?|ounces?|"
    r"seconds?|minutes?|hours?)\.? *$",
    re.IGNORECASE,
)
SHORT_WORDS = re.compile(
    "(?i:no|on|yes|odd|one|two|six|ten|all|any|red|tan|mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|"
    "aug|sep|oct|nov|dec|boy|man|men|day)"
)
DATE = re.compile(
    r"(?:(?:jan|febr)uary|march|april|may|june|july|august|(?:septem|octo|novem|decem)ber) [0-9]{1,2}"
)
WORDS = re.compile(r"[A-Za-z][A-Za-z ,.'()-]*|\([A-Za-z]\)")
# 5 6 would be multiplied or added, and of 3 feet 2 inches something left out.
UNREADABLE = re.compile(r"(?<![\w.])[0-9.]+ +[0-9]|[0-9] *\\text\{[^{}]*\}.*[0-9]")


def same_answer(answer: str, reference: str) -> bool:
    r"""Tell whether an answer to a problem of MATH equals the reference. TypeError if one is no text.

    Equal are numbers of one value (\frac{1}{2}, 0.5, 50\%), a decimal of six places or more and what it
    rounds, expressions that algebra turns into one another, sets and lists in any order, tuples, intervals
    and matrices element by element, inequalities and their interval; all with and without a name (x = 5),
    unit, currency, percent or degree sign. Words are compared as words. False for what takes longer than
    `SECONDS`. ModuleNotFoundError where math-verify is needed and missing.
    """
    a, b = as_text(answer, "answer").strip(), as_text(reference, "answer").strip()
    if a == b or max(len(a), len(b)) > LONGEST:
        return a == b
    a, b = (_union(REPEATING.sub(_repeated, text.translate(GLYPHS))) for text in (a, b))
    a, b = (rewrite(text, CLEAN).strip() for text in (a, b))
    dates = [" ".join(_unwrapped(text).casefold().split()) for text in (answer, reference)]
    if any(map(DATE.fullmatch, dates)):
        return dates[0] == dates[1]
    if _units(answer) and _units(reference) and _units(answer) != _units(reference):
        return False  # 3 hours and 3 minutes
    names = [re.match("([A-Za-z]) *=", text) for text in (a, b)]
    other = all(names) and names[0][1] != names[1][1]  # x = 2 and y = 2
    if not other and NAMED.match(a) and NAMED.match(b):
        a, b = (NAMED.sub("", text).strip() for text in (a, b))
    a, b = _unlabelled(a, b), _unlabelled(b, a)
    if NUMBER.fullmatch(a) and NUMBER.fullmatch(b):
        return Fraction(a.replace(",", "")) == Fraction(b.replace(",", ""))
    if not (a and b) or UNREADABLE.search(a) or UNREADABLE.search(b):
        return " ".join(a.split()) == " ".join(b.split()) != ""
    if _is_text(a) or _is_text(b):
        return _words(a) == _words(b)
    a, b = _both_roots(a), _both_roots(b)
    plain = [text.replace(r"\%", "") for text in (a, b)]  # 12.5% is 12.5 and 0.125
    return _algebra.equal(a, b) or (plain != [a, b] and _algebra.equal(*plain))


def _repeated(decimal: re.Match) -> str:
    r"""0.1\overline{6} as a fraction."""
    whole, once, period = decimal.groups()
    scale = 10 ** len(once)
    value = Fraction(int(whole + once or 0), scale)
    value += Fraction(int(period), scale * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _union(answer: str) -> str:
    r"""x < 1 or x > 2 as (-\infty, 1) \cup (2, \infty); other answers as they are."""
    parts = ALTERNATIVES.split(answer.strip("$ "))
    intervals = [_interval(part.strip("$ ")) for part in parts]
    return r" \cup ".join(intervals) if len(parts) > 1 and all(intervals) else answer


def _interval(part: str) -> str | None:
    """What one inequality in one letter, or an interval, stands for."""
    part = re.sub(r"^[a-z] *\\in(?![a-z]) *", "", part)
    if re.fullmatch(r"(?:\\left)?[\[(][^\[\]()]*,[^\[\]()]*[\])]", part):
        return part
    terms, relations = RELATION.split(part)[::2], RELATION.split(part)[1::2]
    if any(relation[0] == ">" or "g" in relation for relation in relations):
        turned = {">": "<", r"\ge": r"\le", r"\geq": r"\le"}
        terms, relations = terms[::-1], [turned.get(r) for r in reversed(relations)]
    if len(terms) == 2:
        left = re.fullmatch("[a-z]", terms[0])
        terms = [r"-\infty", *terms] if left else [*terms, r"\infty"]
        relations = ["<", *relations] if left else [*relations, "<"]
    if len(terms) != 3 or None in relations or not re.fullmatch("[a-z]", terms[1]):
        return None
    opening, closing = "[("[relations[0] == "<"], "])"[relations[1] == "<"]
    return f"{opening}{terms[0]},{terms[2]}{closing}"


def _units(answer: str) -> str | None:
    """What a length, a mass or a time is measured in, at the end of the answer."""
    found = UNITS.search(re.sub(r"\\(?:text|mathrm|mbox) *\{([^{}]*)\}", r" \1", answer))
    word = found[1].lower().removesuffix("s") if found else None
    return SPELT.get(word, word)


def _unlabelled(answer: str, other: str) -> str:
    """The answer without a short unit (5 m), if the other has no letters: else m may be a variable."""
    return (
        answer
        if re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", other))
        else LABEL.sub("", answer)
    )


def _both_roots(answer: str) -> str:
    r"""1 \pm 2 as 1 + 2, 1 - 2; more than one \pm, or one in a list or an equation, is math-verify's."""
    if answer.count(r"\pm") != 1 or re.search("[,=]", answer):
        return answer
    before, after = answer.split(r"\pm")
    return f"{before}{'+' if before.strip() else ''}{after}, {before}-{after}"


def _is_text(answer: str) -> bool:
    r"""\text{no}, Evelyn, no, SAS: nothing but words, and not a product of variables such as abc."""
    words = _unwrapped(answer)
    marked = (
        words != answer
        or re.search("[A-Za-z]{4}|^[A-Z]{3}$", words)
        or SHORT_WORDS.fullmatch(words)
    )
    return bool(marked and WORDS.fullmatch(words))


def _words(answer: str) -> list[str]:
    """The parts of a list of words in alphabetical order, without their case, brackets and full stops."""
    parts = [" ".join(part.strip(" .()").split()) for part in _unwrapped(answer).split(",")]
    return sorted(part.casefold() for part in parts)


def _unwrapped(answer: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", answer).strip()


class Algebra:
    """`symbolic.py` in a process of its own: started when first asked, and again after it gave up."""

    def __init__(self):
        self.lock, self.process = Lock(), None

    def equal(self, answer: str, reference: str) -> bool:
        """Ask math-verify; False where it took too long or too much memory."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.process = _start()
            try:
                self.process.stdin.write(json.dumps([answer, reference]) + "\n")
                self.process.stdin.flush()
                found = self.process.stdout.readline()
            except BaseException:  # an interrupt: the reply that is still to come answers no one
                self.close()
                raise
            if not found:
                self.close()
        return found == "true\n"

    def close(self) -> None:
        if self.process:
            self.process.kill()
            with suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None


def check_installed() -> None:
    """ModuleNotFoundError, with the extra that installs it, where there is no math-verify."""
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError(missing_extra_message("math-verify", "course"))


def _start() -> subprocess.Popen:
    check_installed()
    command = [sys.executable, str(Path(__file__).with_name("symbolic.py")), str(SECONDS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    # A session of its own: what interrupts the caller is the caller's to answer.
    process = subprocess.Popen(command, **pipes, start_new_session=True)
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"math-verify cannot be loaded: its process ended with {process.wait()}")
    return process


_algebra = Algebra()
atexit.register(_algebra.close)
