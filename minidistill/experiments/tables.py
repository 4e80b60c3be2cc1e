"""Tables: of the claims, of the README, and one claim in full. Logs in, Markdown out; nothing is run here."""

import ast
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from minidistill.experiments import reports
from minidistill.experiments.claims import get_claim
from minidistill.experiments.contrasts import Result, judge, verdict, weakest
from minidistill.experiments.labels import (
    MAIN_METRICS,
    METRIC_LABELS,
    REAL_METRIC_LABELS,
    run_label,
)
from minidistill.experiments.logs import by_method, load_all_runs, runs_by_seed, shipped_runs
from minidistill.experiments.paper_claims import CLAIMS, PAPER_RESULTS
from minidistill.experiments.run_configs import BASELINES, DOMAINS, in_world
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
COMPARED_METHODS = (*BASELINES, "distillm2")  # the rows of the table over domains
Accuracies = Mapping[str, Mapping[str, Sequence[float]]]  # world → method → accuracy by seed


# --- the claims -----------------------------------------------------------------------------------------
def claims_table(folder: Path | None = None, names: Sequence[str] | None = None) -> str:
    """Compose a row a claim: its weakest contrast with interval, seeds, device, seconds, verdict.

    `names` are the claims to show; None is all of them.
    """
    lines = [
        "| | claim | paper | weakest contrast | difference [95 %] | seeds | minutes | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = {name: get_claim(name) for name in (CLAIMS if names is None else names)}
    for name, claim in shown.items():
        results = [judge(contrast, folder) for contrast in claim.contrasts]
        decisive = weakest(results)
        seconds = sum(
            log["seconds"] for run in claim.runs for log in runs_by_seed(run, folder).values()
        )
        lines.append(
            f"| {name} | {claim.statement} | {claim.section} | {decisive.contrast.label} | "
            f"{difference(decisive)} | {len(decisive.values)} | {seconds / 60:.0f} | "
            f"**{verdict(results)}** |"
        )
    runs = None if names is None else {run for claim in shown.values() for run in claim.runs}
    count, seconds, machines = _cost(folder, runs)
    whole = (
        "all logs together, the sliders' among them," if runs is None else "those of these claims"
    )
    lines += [
        "",
        f"Minutes of one core for the runs that a claim needs; claims share runs, and {whole} are "
        f"{count} runs and {seconds / 60:.0f} minutes. {machines}.",
    ]
    return "\n".join(lines) + "\n"


def claim_report(name: str, folder: Path | None = None) -> str:
    """Compose what the paper says, every contrast with its interval and seeds, the verdict, and why."""
    claim = get_claim(name)
    results = [judge(contrast, folder) for contrast in claim.contrasts]
    lines = [
        f"{name.upper()}  {claim.statement}",
        f"paper: {claim.section}. {claim.paper_numbers}",
        f"seeds: {len(results[0].values)}",
        "",
    ]
    width = max(len(r.contrast.label) for r in results)
    for r in results:
        metric = METRIC_LABELS[r.contrast.metric]
        lines.append(f"{r.contrast.label:{width}}  {difference(r)}  {r.verdict:12}  ({metric})")
    lines += ["", f"verdict: {verdict(results)}"]
    return "\n".join([*lines, *textwrap.wrap(claim.discussion, 100)]) + "\n"


def difference(result: Result) -> str:
    """Compose '+0.012 [+0.004, +0.021]', and the margin where it is not zero."""
    margin = f" (margin {result.contrast.margin:+.3f})" if result.contrast.margin else ""
    return f"{result.mean:+.3f} [{result.low:+.3f}, {result.high:+.3f}]{margin}"


def _cost(folder: Path | None, names: set[str] | None) -> tuple[int, float, str]:
    """Count the runs (of these names, or all), their seconds, and the machines they were made on."""
    logs = load_all_runs(folder)
    if names is not None:
        logs = [log for log in logs if log["run"]["name"] in names]
    machines = {
        f"{g['device']}, {g['cores']} cores, torch {g['torch']}, transformers {g['transformers']}"
        for g in logs
    }
    return len(logs), sum(log["seconds"] for log in logs), "; ".join(sorted(machines))


# --- methods --------------------------------------------------------------------------------------------
def main_table(logs: Sequence[dict]) -> str:
    """Compose a row a method, each cell the mean over seeds ± the standard deviation."""
    seeds = 1 + max(log["run"]["seed"] for log in logs)
    lines = _head("method", *(METRIC_LABELS[name] for name in MAIN_METRICS))
    for name, rows in by_method(logs).items():
        cells = [_mean_and_spread([r["scores"][metric] for r in rows]) for metric in MAIN_METRICS]
        lines.append(f"| {run_label(name)} | " + " | ".join(cells) + " |")
    experiment = logs[0]["run"]["experiment"]
    lines += [
        "",
        f"Mean ± standard deviation over {seeds} seeds. {experiment['prompts']} training prompts, "
        f"{experiment['epochs']} epochs; NLL in nats per token; ROUGE-L and accuracy over "
        f"{experiment['draws']} sampled responses a held-out prompt (T = {experiment['temperature']:g}).",
    ]
    return "\n".join(lines) + "\n"


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


# --- domains --------------------------------------------------------------------------------------------
def accuracies(name: str, folder: Path | None = None) -> list[float]:
    """Look up the accuracy of a run ('arithmetic/kd'), one number a seed; empty where it has no logs."""
    logs = runs_by_seed(name.removeprefix("instruct/"), folder)
    return [log["scores"]["accuracy"] for log in logs.values()]


def domain_accuracies(
    teachers: Mapping[str, float] | None = None, folder: Path | None = None
) -> dict[str, dict]:
    """Look up world → method → accuracies by seed, after the teacher's (by world) if given."""
    found = {
        world: {name: accuracies(in_world(world, name), folder) for name in COMPARED_METHODS}
        for world in DOMAINS
    }
    if teachers is None:
        return found
    return {world: {"teacher": [teachers[world]], **rows} for world, rows in found.items()}


def accuracy_table(found: Accuracies) -> str:
    """Compose a row a method; for each world mean ± sd over seeds in per cent, and the paper's number."""
    heads = [
        f"{world} | {PAPER_RESULTS[world].section}: {PAPER_RESULTS[world].measure}"
        for world in found
    ]  # two columns each
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * (2 * len(heads))]
    methods = ("teacher", *COMPARED_METHODS)
    for name in (m for m in methods if all(m in rows for rows in found.values())):
        cells = []
        for world, rows in found.items():
            reported = PAPER_RESULTS[world].scores.get(name)
            cells.append(_mean_and_spread(rows[name], digits=1, scale=100))
            cells.append("–" if reported is None else f"{reported:.2f}")
        lines.append(f"| {run_label(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def domains_table() -> str:
    """Compose each method's accuracy in the three worlds, beside what the paper reports."""
    found = domain_accuracies()
    seeds = {len(values) for rows in found.values() for values in rows.values()}
    return accuracy_table(found) + (
        f"\nAccuracy in per cent, mean ± standard deviation over {min(seeds)} seeds, two sampled responses a "
        "held-out prompt (T = 1); beside each world the paper's figures, which measure other things on a "
        "scale of their own: compare orders.\n"
    )


# --- the README -----------------------------------------------------------------------------------------
def results_tables() -> dict[str, str]:
    """Compose the generated parts of data/RESULTS.md, by the name in their marker."""
    results = [read_log(data_dir() / "smollm2" / f"{m}.json") for m in ("kd", "distillm2")]
    return {
        "methods": reports.methods_table("instruct"),
        "verdicts": reports.claims_table(),
        "main": main_table(shipped_runs()),
        "claims": claims_table(),
        "domains": domains_table(),
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


def _mean_and_spread(values: Sequence[float | None], digits: int = 3, scale: int = 1) -> str:
    """'0.612 ± 0.014', times `scale`; a dash where nothing was measured."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    spread = f" ± {scale * statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{scale * statistics.mean(known):.{digits}f}{spread}"
