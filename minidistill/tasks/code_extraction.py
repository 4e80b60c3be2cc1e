"""The program in a response: what a model wrote to a prompt of HumanEval or MBPP, made ready to run.

Models answer in many ways: with a body that goes on where the prompt ends, with the whole function, in a
fenced block, with prose around it. Nothing is run here; Python's own parser says what is code.
"""

import ast
import re
from textwrap import dedent, indent

LONGEST = 50_000  # characters of a response that are looked through for code
FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
BODY = re.compile(r"\n*(?:  |\t)\s*\S")
MODULE = re.compile(
    r"^(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+\w|from\s+[\w.]+\s+import\b|@\w)",
    re.MULTILINE,
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# What may stand at the margin of a program; not what prints, asks or checks there.
DEFINITIONS = (*FUNCTIONS, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Try)


def humaneval_program(prompt: str, response: str) -> str | None:
    """The program that a response to a prompt of HumanEval makes; None if there is no code in it.

    A response goes on where the prompt ends, or it writes the function anew; either may be in a fenced block.
    Prose around the code is dropped, and so is what only uses the function: the tests do that.
    ValueError if the prompt has no function.
    """
    context, entry = entry_of(prompt)
    blocks = _blocks(response)
    for block in blocks:
        if whole := _definitions(block, {entry}):
            return f"{context}\n{whole}"
    body = blocks[0].strip("\n")
    cut = re.split(r"\n(?=\S)", body)[0]
    # As it is; without what follows the body; the same where the first line, or all, lost the indentation.
    for guess in (body, cut, f"    {body}", indent(body, "    "), f"    {cut}"):
        if _completes(prompt, guess):
            return f"{prompt}{guess}\n"
    is_code = blocks != [response] or BODY.match(body) or MODULE.search(body)
    return f"{prompt}{body}\n" if is_code and body else None


def humaneval_test(prompt: str, test: str) -> str:
    """A test of the data for the sandbox, which wants what the prompt defines beside the function in it."""
    context, entry = entry_of(prompt)
    return f"{context}\n{test}\ncheck({entry})\n"


def mbpp_program(prompt: str, response: str) -> str | None:
    """The code in a response, from where it defines what the prompt's asserts call; None if there is none."""
    asserts = "\n".join(re.findall(r"^assert\b.*", prompt, re.MULTILINE))
    names = set(re.findall(r"([A-Za-z_]\w*)\s*\(", asserts))
    blocks = _blocks(response)
    is_code = blocks != [response] or MODULE.search(response)
    found = (_definitions(block, names) for block in blocks)
    return next(filter(None, found), blocks[0] if is_code else None)


def strip_body(program: str) -> str:
    """The program with nothing but `pass` in its last function; a prompt of HumanEval is one too."""
    tree = ast.parse(program)
    *_, function = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    function.body = [ast.Pass()]
    return ast.unparse(tree)


def entry_of(prompt: str) -> tuple[str, str]:
    """Return what stands before the last function of a prompt, and the function's name."""
    functions = list(re.finditer(r"^def\s+(\w+)", prompt, re.MULTILINE))
    if not functions:
        raise ValueError(f"field 'prompt' has no function to complete: {prompt!r:.80}")
    return prompt[: functions[-1].start()], functions[-1][1]


def _blocks(response: str) -> list[str]:
    """The fenced blocks; all of it if there is none, or up to the fence that ends code not begun by one."""
    response = response[:LONGEST]
    before, *_ = response.split("```", 1)
    if BODY.match(before) or MODULE.match(before.lstrip("\n")):
        return [before]
    return FENCED.findall(response) or [response]


def _definitions(text: str, names: set[str]) -> str | None:
    """Return a text's top-level definitions, if one of the names is among them; as it stands if Python cannot
    read it."""
    text = dedent(text)
    if not re.search(rf"^(?:async\s+)?def\s+(?:{'|'.join(names)})\s*\(", text, re.MULTILINE):
        return None
    code = text[MODULE.search(text).start() :]
    tree = _parsed(code)
    if tree is None:
        return code
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, DEFINITIONS))


def _parsed(code: str) -> ast.Module | None:
    """The code as a tree, without the prose that follows it at the margin; None if it is no Python."""
    lines = code.splitlines()
    for _ in range(10):
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError as error:
            wrong = (error.lineno or 1) - 1
            if not 0 < wrong < len(lines) or lines[wrong][:1].isspace():
                return None
            lines = lines[:wrong]
        except (ValueError, RecursionError, MemoryError):
            return None
    return None


def _completes(prompt: str, body: str) -> bool:
    """Tell whether the body goes into the prompt's last function, does something, and ends with it."""
    try:
        before = ast.parse(f"{prompt}    pass\n").body
        after = ast.parse(f"{prompt}{body}\n").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    written = after[len(before) - 1].body[len(before[-1].body) - 1 :]
    acts = any(not isinstance(node, ast.Expr) for node in written)
    return acts and all(isinstance(node, DEFINITIONS) for node in after[len(before) :])
