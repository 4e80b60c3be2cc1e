r"""When two answers of MATH are the same: \frac{1}{2} and 0.5, x = 5 and 5, \{1, 2\} and \{2, 1\}.

A formula is read into a sum of products with rational coefficients, by a parser of its own. Nothing is
evaluated, and what is too long is compared letter by letter: responses are strangers' texts.
"""

import re
from collections import deque
from collections.abc import Iterable
from fractions import Fraction

from minidistill.tasks.answers import TIDY, as_text, rewrite

LONGEST = 300  # characters; no answer of MATH is longer
GLYPHS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", '"': ""}
)
CLEAN = [
    *TIDY,
    (re.compile(r"\\(?:left|right|displaystyle|[Bb]igg?)(?![A-Za-z])"), ""),
    (re.compile(r"(?<!\\)\\[,!;: ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))|°|\\?[$€£%]"), ""),
    (re.compile(r"(?<=[0-9]) ?(?:degrees?|percent)\b|\.\s*$"), ""),
    (re.compile(r"\\text\s?\{\s*(?:or|and)\s*\}|\b(?:or|and)\b"), ", "),
    (re.compile(r"\\(?:text[a-z]*|mathrm|mathbf|mathit|mbox)\s?\{([^{}]*)\}"), r' "\1" '),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"(?<![A-Za-z\\])(pi|sqrt|infty)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\([lgn])eq(?![A-Za-z])"), r"\\\1e "),
    (re.compile(r"(?<![\w.^)}])([0-9]+) ([0-9]+)/([0-9]+)(?![0-9.])"), r"{\1+\2/\3}"),
]
THOUSANDS = re.compile(r"(?<![\w,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
TOKEN = re.compile(
    r'"[^"]*"|[A-Za-z]+(?: +[A-Za-z]{2,})*|\\[A-Za-z]+|\\.|[0-9]+\.?[0-9]*|\.[0-9]+|\S'
)
OPEN, CLOSE = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")
SEPARATORS = (r"\cup", "=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\pm", ":")
NAME = re.compile(r'\\?"?[A-Za-z]+"?(?:_\{?[A-Za-z0-9]+\}?)?(?:\([a-z]\))?')
UNIT = re.compile(r'"(?!\s*(?:hundred|thousand|million|billion|trillion|dozen)).*', re.DOTALL)
GREEK = "alpha beta gamma delta epsilon theta lambda mu pi rho sigma tau phi varphi omega infty"
SYMBOLS = {rf"\{name}" for name in GREEK.split()}
FUNCTIONS = "sin cos tan cot sec csc log ln exp min max gcd lcm mod"
Value = dict[tuple[str, ...], Fraction]  # a sum: its products, each sorted factors → coefficient


def same_answer(a: str, b: str) -> bool:
    r"""Whether two answers to a problem of MATH are the same. TypeError if one is no text.

    Equal are: numbers of one value, as \frac{1}{2}, \dfrac12, 1/2, 0.5; 1\frac12 and 3/2; 1,000 and
    1000; sums and products in any order of their parts; an answer with and without its name (x = 5),
    \text{unit}, currency, percent or degree sign, \left and \right, spaces. Sets and lists without
    brackets are compared in any order, tuples and intervals in theirs, element by element, brackets
    included. What is not read so (functions, matrices, factorials) must be written alike.
    Not equal are forms that only algebra would join: 2\sqrt{2} and \sqrt{8}, (x+1)^2 and x^2+2x+1;
    50% and 0.5; a fraction and its rounded decimal. Within brackets a comma always separates.
    """
    a, b = as_text(a, "answer").strip(), as_text(b, "answer").strip()
    return a == b or (max(len(a), len(b)) <= LONGEST and _form(a) == _form(b))


def _form(text: str) -> str:
    text = rewrite(text.translate(GLYPHS), CLEAN)
    if not re.search(r"[(\[]|\\\{", text):
        text = THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    parts = _split([part for token in TOKEN.findall(text) for part in _letters(token)], ",")
    names, rests = zip(*map(_named, parts), strict=True)
    one_name = set(names) <= {names[0], ""}  # x = 1, x = 2 or x = 1, 2
    return ", ".join(sorted(map(_element, rests if one_name else parts)))


def _letters(token: str) -> Iterable[str]:
    """Two or three small or capital letters that touch are a product, as in ab^2; more are a word."""
    variables = re.fullmatch("[a-z]{2,3}|[A-Z]{2,3}", token) and token not in FUNCTIONS.split()
    return token if variables else [token]


def _named(tokens: list[str]) -> tuple[str, list[str]]:
    """'x' and what x is said to be; '' and everything where there is no such name."""
    marks = [i for i, token in enumerate(tokens) if token in ("=", r"\in")]
    if len(marks) == 1 and NAME.fullmatch(name := "".join(tokens[: marks[0]])):
        return name, tokens[marks[0] + 1 :]
    return "", tokens


def _split(tokens: list[str], at: str) -> list[list[str]]:
    """The parts between the separators that stand outside of all brackets."""
    parts, depth = [[]], 0
    for token in tokens:
        depth += (token in OPEN) - (token in CLOSE)
        if token == at and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _element(tokens: list[str]) -> str:
    """What stands between commas: a relation, brackets, a value, else the tokens as they are."""
    for mark in SEPARATORS:
        if len(parts := _split(tokens, mark)) > 1:
            forms = [_element(part) for part in parts]
            return mark.join(sorted(forms) if mark == r"\cup" else forms)
    first, *inner, last = tokens if len(tokens) > 2 else ("", "")
    parts = _split(inner, ",")
    if last in CLOSE and (len(parts) > 1 or first == r"\{"):
        forms = [_element(part) for part in parts]
        if first in ("{", r"\{"):
            return "{" + ", ".join(sorted(set(forms))) + "}"
        return first + ", ".join(forms) + last
    try:
        return _write(_read(deque(_without_unit(tokens))))
    except (ValueError, ArithmeticError, IndexError, RecursionError):
        return re.sub(r"\{(\w)\}", r"\1", "".join(tokens).replace('"', ""))


def _without_unit(tokens: list[str]) -> list[str]:
    """5 "cm"^2 is cut to 5, but 3 "feet" 2 "inches" stays whole."""
    for i in range(1, len(tokens)):
        if UNIT.fullmatch(tokens[i]) and not re.search(r"(?<![\^{])[0-9]", "".join(tokens[i:])):
            return tokens[:i]
    return tokens


# --- values: a formula up to the order of its sums and products. What has none raises an error of Python's.
def _read(tokens: deque) -> Value:
    value = _sum(tokens)
    if tokens:
        raise ValueError(f"cannot read {tokens[0]!r}")
    return value


def _sum(tokens: deque) -> Value:
    total: Value = {}
    while True:
        while tokens[0] == "+":  # a minus belongs to what follows it
            tokens.popleft()
        for factors, coefficient in _product(tokens).items():
            total[factors] = total.get(factors, 0) + coefficient
        if not tokens or tokens[0] not in ("+", "-"):
            return {factors: c for factors, c in total.items() if c}


def _product(tokens: deque) -> Value:
    value = _power(tokens)
    while tokens and tokens[0] not in ("+", "-", *CLOSE):
        by = tokens.popleft() if tokens[0] in ("*", "/") else ""
        if not by and tokens[0][0] in "0123456789.":
            raise ValueError("a number after a number")
        factor = _power(tokens)
        value = _times(value, _inverse(factor) if by == "/" else factor)
    return value


def _power(tokens: deque) -> Value:
    if tokens[0] == "-":
        tokens.popleft()
        return _times({(): Fraction(-1)}, _power(tokens))
    base = _atom(tokens)
    if not tokens or tokens[0] != "^":
        return base
    tokens.popleft()
    exponent = _power(tokens)
    b, e = _number(base), _number(exponent)
    small = None not in (b, e) and max(abs(e), abs(b.numerator), b.denominator) <= 100
    if small and e.denominator == 1:
        return {(): b ** int(e)}
    return {(f"({_write(base)})^({_write(exponent)})",): Fraction(1)}


def _atom(tokens: deque) -> Value:
    token = tokens.popleft()
    if token in ("(", "{"):
        value = _sum(tokens)
        if tokens.popleft() != CLOSE[OPEN.index(token)]:
            raise ValueError("brackets that do not match")
        return value
    if token == r"\frac":
        return _times(_atom(tokens), _inverse(_atom(tokens)))
    if token == r"\sqrt":
        degree = "2" if tokens[0] != "[" else [tokens.popleft() for _ in "[n]"][1]
        return {(f"root {degree} of ({_write(_atom(tokens))})",): Fraction(1)}
    if tokens and tokens[0] == "_":
        tokens.popleft()
        return {(f"{_name(token)}_{_write(_atom(tokens))}",): Fraction(1)}
    if token[0] in "0123456789.":
        return {(): Fraction(token)}
    name = _name(token)
    short_word = len(name) <= 3 and name.isalpha()
    return {tuple(sorted(name)) if short_word else (name,): Fraction(1)}  # \text{no} is no


def _name(token: str) -> str:
    """A variable, a constant or a word; words are compared without their case."""
    name = " ".join(token.strip('" ().').split())
    if name in FUNCTIONS.split() or not (name[:1].isalnum() or token in SYMBOLS):
        raise ValueError(f"cannot read {token!r}")
    return name.casefold() if len(name) > 1 else name


def _number(value: Value) -> Fraction | None:
    return value.get((), Fraction(0)) if set(value) <= {()} else None


def _single(value: Value) -> tuple[tuple[str, ...], Fraction]:
    """The value as one product. Sums are not multiplied out: 2x + 2 is a factor (1 + x), twice."""
    first = min(value)
    if len(value) == 1:
        return first, value[first]
    return (f"({_write({f: c / value[first] for f, c in value.items()})})",), value[first]


def _times(a: Value, b: Value) -> Value:
    for number, other in ((_number(a), b), (_number(b), a)):
        if number is not None:
            return {factors: c * number for factors, c in other.items() if number}
    (factors, c), (more, d) = _single(a), _single(b)
    return {tuple(sorted(factors + more)): c * d}


def _inverse(value: Value) -> Value:
    factors, c = _single(value)  # of zero there is none
    return {tuple(sorted(f[2:] if f.startswith("1/") else f"1/{f}" for f in factors)): 1 / c}


def _write(value: Value) -> str:
    return " + ".join(f"{c}*{'*'.join(factors)}" for factors, c in sorted(value.items())) or "0*"
