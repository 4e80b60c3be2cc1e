"""The generated parts of README.md and data/RESULTS.md. Logs in, Markdown out; nothing is run here."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from minidistill.experiments import reports
from minidistill.experiments.labels import REAL_METRIC_LABELS, run_label
from minidistill.runlog import read_log
from minidistill.utils import data_dir

CORE_FILES = [
    "divergences",
    "curriculum",
    "logprobs",
    "objectives",
    "sources",
    "rollouts",
    "training",
]


def real_table(results: Sequence[dict]) -> str:
    """Compose the held-out scores of a real pair before and after each method, and what it cost."""
    lines = _head("", *REAL_METRIC_LABELS.values(), "minutes")
    rows = [("before", results[0]["before"], "")]
    rows += [(run_label(r["method"]), r["after"], f"{r['seconds'] / 60:.0f}") for r in results]
    for label, scores, minutes in rows:
        cells = [f"{scores[metric]:.3f}" for metric in REAL_METRIC_LABELS]
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {minutes} |")
    r = results[0]
    lines += [
        "",
        f"One seed. {r['train_prompts']} training prompts, {r['test_prompts']} held out; "
        f"{r['epochs']} epochs, batches of {r['batch_size']}, learning rate {r['lr']:g}, responses of "
        f"at most {r['max_new_tokens']} tokens at T = {r['temperature']:g}; ROUGE-L of greedy ones. "
        f"Machine: {r['device']}, {r['cores']} cores; torch {r['torch']}, transformers "
        f"{r['transformers']}.",
    ]
    return "\n".join(lines) + "\n"


def results_tables() -> dict[str, str]:
    """Compose the generated parts of data/RESULTS.md, by the name in their marker."""
    results = [read_log(data_dir() / "smollm2" / f"{m}.json") for m in ("kd", "distillm2")]
    return {
        "methods": reports.methods_table("instruct"),
        "verdicts": reports.claims_table(),
        "domains": reports.domains_table(),
        "smollm2": real_table(results),
    }


def readme_tables() -> dict[str, str]:
    """Compose the generated parts of the README, by the name in their marker."""
    return {"core": core_table(), "verdicts": verdicts_summary()}


def core_table() -> str:
    """Compose a row a file of the core: what its docstring says first, and its lines."""
    lines, total = _head("file", "what it holds", "lines"), 0
    for name in CORE_FILES:
        text = (Path(__file__).parents[1] / f"{name}.py").read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(text)) or "").split(".")[0]
        lines.append(f"| [`{name}`](minidistill/{name}.py) | {title} | {text.count(chr(10))} |")
        total += text.count("\n")
    return "\n".join([*lines, f"| | | {total} |"]) + "\n"


def verdicts_summary() -> str:
    """Compose a line a verdict, with the claims that it is for, and where to read on."""
    return (
        "The paper's claims in miniature, each method with settings chosen for it, over seeds and "
        "prompts, with computed verdicts;\nall numbers are in [data/RESULTS.md](data/RESULTS.md):\n\n"
    ) + reports.verdicts_summary()  # fmt: skip


def update_tables(text: str, tables: Mapping[str, str]) -> str:
    """Make anew what stands in `text` between `<!-- table:NAME -->` and `<!-- end -->`."""
    for name, body in tables.items():
        start, end = f"<!-- table:{name} -->\n", "<!-- end -->"
        before, rest = text.split(start)
        text = before + start + body + end + rest.split(end, 1)[1]
    return text


def _head(*columns: str) -> list[str]:
    return [
        "|" + "".join(f" {c} |" if c else " |" for c in columns),
        "|---|" + "---|" * (len(columns) - 1),
    ]
