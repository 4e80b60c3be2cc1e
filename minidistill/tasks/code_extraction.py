"""The program in a response: what a model wrote to a prompt of HumanEval or MBPP, made ready to run.

Models answer in many ways: with a body that goes on where the prompt ends, with the whole function, in
fenced blocks, with drafts and prose around it. Nothing is run here; Python's own parser says what is code.
"""

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from textwrap import dedent, indent

from minidistill.tasks.answers import answer_part

LONGEST = 50_000  # characters of a response that are looked through for code
FENCE = re.compile(r"(?<![`~])(`{3,}|~{3,})[^\n`]*\n")
BODY = re.compile(r"\n*(?:  |\t)\s*\S")
BEGINS = (
    r"(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+\w|from\s+[\w.]+\s+import\b|@\w)"
)
MODULE = re.compile(rf"^{BEGINS}", re.MULTILINE)
MARGIN = re.compile(rf"^([ \t>|]+){BEGINS}", re.MULTILINE)  # code in a list, or quoted
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINING = (*FUNCTIONS, ast.ClassDef)
# Functions whose calls at the margin show something, ask for it, test, or end the program.
SHOWING = re.compile("print|pprint|display|help|input|main|exit|quit|check|run|testmod|test.*")
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
CUTS = 10  # tails that are cut off in search of what Python can read
STARTS = 40  # lines before the first definition at which a program is looked for


def humaneval_program(prompt: str, response: str) -> str | None:
    """The program that a response to a prompt of HumanEval makes; None if there is no code in it.

    A response goes on where the prompt ends, up to where the function begins anew, or it writes all of it;
    either may be in a fenced block.
    Of several blocks the last counts whose function does something; what it needs of the blocks before comes
    with it. Prose is dropped, and so is what only uses the function: the tests do that. Thinking aloud is no
    answer. ValueError if the prompt has no function.
    """
    context, entry = entry_of(prompt)
    response = answer_part(response).removeprefix("<|python_tag|>")
    again = re.search(rf"^def\s+{entry}\b", response, re.MULTILINE)
    if (
        again
        and BODY.match(response)
        and (done := _completed(prompt, response[: again.start()], 1))
    ):
        return done
    blocks = _blocks(response)
    if whole := _whole_program(blocks, {entry}):
        first = [line for line in whole.splitlines() if line.startswith("from __future__")]
        rest = [line for line in whole.splitlines() if line not in first]
        return "\n".join([*first, context, *rest])
    bodies = [block.strip("\n") for block in blocks]
    for tries in (1, CUTS):  # first bodies that are whole, then those that are cut off somewhere
        for guess in (guess for body in reversed(bodies) for guess in _guesses(body)):
            if completed := _completed(prompt, guess, tries):
                return completed
    body = bodies[0]
    is_code = blocks != [response] or BODY.match(body) or MODULE.search(body)
    return f"{prompt}{body}\n" if is_code and body else None


def humaneval_test(prompt: str, test: str) -> str:
    """A test of the data for the sandbox, which wants what the prompt defines beside the function in it."""
    context, entry = entry_of(prompt)
    return f"{context}\n{test}\ncheck({entry})\n"


def mbpp_program(prompt: str, response: str) -> str | None:
    """The code in a response that defines what the prompt's asserts call; None if there is no code in it."""
    asserts = "\n".join(re.findall(r"^assert\b.*", prompt, re.MULTILINE))
    names = set(re.findall(r"([A-Za-z_]\w*)\s*\(", asserts))
    response = answer_part(response).removeprefix("<|python_tag|>")
    blocks = _blocks(response)
    is_code = blocks != [response] or MODULE.search(_unmargined(response))
    return _whole_program(blocks, names) or (blocks[0] if is_code else None)


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


# --- blocks ---------------------------------------------------------------------------------------------
def _blocks(response: str) -> list[str]:
    """The fenced blocks; all of it if there is none, or up to the fence that ends code not begun by one."""
    response = response[:LONGEST]
    before, *_ = response.split("```", 1)
    if BODY.match(before) or MODULE.match(before.lstrip("\n")):
        return [before]
    fenced = list(_fenced(response))
    closed = [block for block, is_closed in fenced if is_closed]
    broken_off = [
        block for block, is_closed in fenced if not is_closed
    ]  # counts for less than a whole one
    return broken_off + closed or [response]


def _fenced(text: str) -> Iterator[tuple[str, bool]]:
    """What stands between fences, and whether there is a second one. A fence in a docstring is indented
    further than the block's own."""
    position = 0
    while opening := FENCE.search(text, position):
        margin = text[text.rfind("\n", 0, opening.start()) + 1 : opening.start()]
        mark, margin = opening[1], "" if margin.strip() else margin
        start = opening.end()
        if twice := re.compile(rf"{mark}\w+[^\S\n]*\n").match(text, start):
            start = twice.end()
        own = re.compile(rf"^{re.escape(margin)}{mark}", re.MULTILINE)
        closing = own.search(text, start) or re.compile(mark).search(text, start)
        yield text[start : closing.start() if closing else len(text)], closing is not None
        position = closing.end() if closing else len(text)


# --- programs -------------------------------------------------------------------------------------------
def _whole_program(blocks: list[str], names: set[str]) -> str | None:
    """The last block that defines one of the names and does something there, with what it needs of others.

    The last that defines one without doing anything if none does; as it stands if Python cannot read it.
    """
    blocks = [_without_prompts(block) for block in blocks]
    read = [_read(block, names) for block in blocks]
    defining = [i for i, tree in enumerate(read) if tree and _defined(tree, names)]
    if not defining:
        return next(filter(None, (_unreadable(block, names) for block in reversed(blocks))), None)
    acting = [i for i in defining if any(_acts(node) for node in _defined(read[i], names))]
    chosen = (acting or defining)[-1]
    statements = list(read[chosen].body)
    for tree in [*reversed(read[:chosen]), *read[chosen + 1 :]]:
        needed = (_loaded(statements) | names) - _bound(statements)
        statements = [s for s in (tree.body if tree else []) if _bound([s]) & needed] + statements
    written = set().union(*(_functions(s) for s in statements if _acts(s)))
    own = [
        s for s in statements if _acts(s) or _functions(s) & names - written
    ]  # others show what is known
    return _unparsed(own)


def _guesses(body: str) -> tuple[str, ...]:
    """As it is; without what follows the body; the same where the first line, or all, lost its margin, or
    has another one than the prompt."""
    body = re.sub(r"\A\s*[A-Z][^\n]*:\s*\n(?=[ \t])", "", body)  # "Here is the body:"
    cut = re.split(r"\n(?=\S)", body)[0]
    moved = indent(dedent(cut.expandtabs(4)), "    ")
    return body, cut, f"    {body}", indent(body, "    "), f"    {cut}", moved


def _completed(prompt: str, body: str, tries: int) -> str | None:
    """The prompt with its function's body, without what follows and only shows; None if that is no body."""
    before, tree = _parsed(f"{prompt}    pass\n"), _parsed(f"{prompt}{body}\n", tries)
    if before is None or tree is None or len(tree.body) < len(before.body):
        return None
    written = tree.body[len(before.body) - 1].body[len(before.body[-1].body) - 1 :]
    return _unparsed(tree.body) if any(map(_does, written)) else None


def _without_prompts(block: str) -> str:
    """The block without what a console writes before code, and without a notebook's own commands."""
    lines = block.replace("\xa0", " ").splitlines(keepends=True)
    if re.search(r"^>>> (?:def|import|from|class|@)", block, re.MULTILINE):
        lines = [line[4:] for line in lines if line.startswith((">>> ", "... "))]
    lines = [re.sub(r"^In \[\d+\]: ?", "", line) for line in lines]
    return "".join(line for line in lines if not re.match("[!%]", line))


def _unmargined(block: str) -> str:
    """The block without what stands before its first definition on every line, where none begins a line."""
    text = dedent(block)
    found = None if MODULE.search(text) else MARGIN.search(text)
    if not found:
        return text
    lines = text.splitlines()
    return "\n".join(
        line.removeprefix(found[1]) if line.startswith(found[1]) else line.lstrip()
        for line in lines
    )


def _read(block: str, names: set[str]) -> ast.Module | None:
    """The block as a tree, from the first line on that begins a program with one of the names in it."""
    text = _unmargined(block)
    first = MODULE.search(text)
    lines = text.splitlines(keepends=True)
    last = text.count("\n", 0, first.start()) if first else len(lines) - 1
    starts = [
        i for i, line in enumerate(lines[: last + 1]) if line.strip() and not line[0].isspace()
    ]
    for start in [*starts[:STARTS], last]:
        tree = _parsed("".join(lines[start:]))
        if tree and _defined(tree, names):
            return tree
    return _parsed(text)


def _unreadable(block: str, names: set[str]) -> str | None:
    """The block from its first definition on, if one of the names is defined there."""
    text = _unmargined(block)
    if not re.search(rf"^(?:async\s+)?def\s+(?:{'|'.join(names)})\s*\(", text, re.MULTILINE):
        return None
    return text[MODULE.search(text).start() :]


def _parsed(code: str, tries: int = CUTS) -> ast.Module | None:
    """The code as a tree, without a tail at the margin that is no Python: prose, or code that was cut off.

    None if nothing can be read.
    """
    lines = code.splitlines()
    for _ in range(tries):
        try:
            tree = ast.parse("\n".join(lines))
            compile(tree, "response", "exec", dont_inherit=True)  # no return outside of a function
        except SyntaxError as error:
            wrong = min((error.lineno or 1) - 1, len(lines) - 1)
            while wrong > 0 and (not lines[wrong].strip() or lines[wrong][0].isspace()):
                wrong -= 1
            if wrong <= 0:
                return None
            lines = lines[:wrong]
        except UNREADABLE:
            return None
        else:
            return tree
    return None


def _unparsed(statements: list[ast.stmt]) -> str:
    """As code, without what only shows and without what reads a name that is gone with it."""
    kept = [node for node in statements if not _only_shows(node)]
    while True:
        gone = _bound(node for node in statements if node not in kept) - _bound(kept)
        using = [n for n in kept if not isinstance(n, DEFINING) and _loaded([n]) & gone]
        if not using:
            return "\n".join(map(ast.unparse, kept))
        kept = [node for node in kept if node not in using]


# --- statements -----------------------------------------------------------------------------------------
def _defined(tree: ast.Module, names: set[str]) -> list[ast.stmt]:
    """The statements at the margin that define one of the names: functions, and names for lambdas."""
    return [node for node in tree.body if _functions(node) & names]


def _functions(node: ast.stmt) -> set[str]:
    if isinstance(node, FUNCTIONS):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
        node.value, ast.Lambda | ast.Call | ast.Name | ast.Attribute
    ):
        return _bound([node])
    return set()


def _acts(node: ast.stmt) -> bool:
    """Tell whether a definition does something: a stub shows a signature."""
    return not isinstance(node, FUNCTIONS) or any(_does(statement) for statement in node.body)


def _does(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise):
        return "NotImplemented" not in ast.unparse(node)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Yield | ast.YieldFrom | ast.Await)
    return not isinstance(node, ast.Pass)


def _only_shows(node: ast.stmt) -> bool:
    """Tell whether a statement at the margin could be left out: it prints, asks, asserts or does nothing."""
    if isinstance(node, DEFINING):
        return False
    if any(_called(call) == "input" for call in ast.walk(node)):
        return True
    if isinstance(node, ast.Assert | ast.Pass | ast.Break | ast.Continue):
        return True
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return True
    if isinstance(node, ast.Expr):
        called = _called(node.value) or ""
        return not isinstance(node.value, ast.Call) or bool(SHOWING.fullmatch(called))
    if isinstance(node, ast.For | ast.While | ast.If | ast.With):
        return all(map(_only_shows, [*node.body, *getattr(node, "orelse", [])]))
    return False


def _called(node: ast.AST) -> str | None:
    """The name of the function that is called: `main` of unittest.main()."""
    function = getattr(node, "func", None)
    return getattr(function, "attr", None) or getattr(function, "id", None)


def _bound(statements: Iterable[ast.stmt]) -> set[str]:
    """The names that statements give a meaning at the margin."""
    bound = set()
    for node in statements:
        if isinstance(node, DEFINING):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
            bound |= {n.id for n in stored if isinstance(n.ctx, ast.Store)}
    return bound


def _loaded(statements: Iterable[ast.stmt]) -> set[str]:
    """The names that statements read anywhere, Python's own left out."""
    names = (n for node in statements for n in ast.walk(node) if isinstance(n, ast.Name))
    return {n.id for n in names if isinstance(n.ctx, ast.Load)} - set(dir(builtins))
