"""Logs into tables and figures. Numbers in, Markdown and pictures out; nothing is run here."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from minidistill.runlog import atomic_write, read_log
from minidistill.utils import data_dir

START = "sft"  # the shipped student, before any distillation
MAIN_METHODS = ["kd", "gkd", "skl", "dpkd", "cald", "distillm2"]
NAMES = {
    "sft": "SFT (start)", "kd": "KD", "gkd": "GKD", "skl": "SKL", "dpkd": "DPKD", "cald": "CALD",
    "distillm2": "DistiLLM-2",
}  # fmt: skip
REAL_METRICS = {
    "nll_teacher": "NLL on teacher responses",
    "nll_student": "NLL on the first student's responses",
    "rouge_l": "ROUGE-L",
}
METRICS = {
    "nll_teacher": "NLL on teacher responses",
    "nll_student": "NLL on student responses",
    "rouge_l": "ROUGE-L",
    "accuracy": "accuracy",
}


def table(logs: Sequence[dict]) -> str:
    """Markdown: a row a method, each cell the mean over seeds ± the standard deviation."""
    seeds = 1 + max(log["job"]["seed"] for log in logs)
    lines = [
        "| method | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for method, rows in by_method(logs).items():
        cells = [_cell([row["scores"][name] for row in rows]) for name in METRICS]
        lines.append(f"| {NAMES.get(method, method)} | " + " | ".join(cells) + " |")
    protocol = logs[0]["job"]["protocol"]
    lines.append("")
    lines.append(
        f"Mean ± standard deviation over {seeds} seeds. {protocol['prompts']} training prompts, "
        f"{protocol['epochs']} epochs; NLL in nats per token; ROUGE-L and accuracy over "
        f"{protocol['draws']} sampled responses a held-out prompt (T = {protocol['temperature']:g})."
    )
    return "\n".join(lines) + "\n"


def by_method(logs: Sequence[dict]) -> dict[str, list[dict]]:
    """Logs grouped by method, in the order in which methods first appear."""
    groups: dict[str, list[dict]] = {}
    for log in logs:
        groups.setdefault(log["job"]["name"], []).append(log)
    return groups


def draw(logs: Sequence[dict], folder: Path) -> list[Path]:
    """The NLL of every method by step (first seed), and at the end (all seeds)."""
    from minidistill import plots

    groups = by_method(logs)
    histories = {m: rows[0]["probes"] for m, rows in groups.items() if rows[0]["probes"]}
    left, right = plots.axes(columns=2)
    plots.nll_curves(histories, "nll_teacher", left, log=True)
    plots.nll_curves(histories, "nll_student", right, log=True)
    ends = {
        NAMES.get(m, m): {
            name: [row["scores"][name] for row in rows] for name in ("nll_teacher", "nll_student")
        }
        for m, rows in groups.items()
    }
    pictures = {"nll_by_step.png": left, "nll_at_the_end.png": plots.nll_bars(ends, log=True)}
    for name, picture in pictures.items():
        atomic_write(folder / name, plots.png(picture, dpi=120))
    return [folder / name for name in pictures]


def logs_of(name: str, folder: Path) -> dict[int, dict]:
    """Seed → log of an arm: 'kd', or 'arithmetic/kd' of another world."""
    label = name.rpartition("/")[2]
    found = filter(None, map(read_log, sorted(folder.glob(f"*-{label}-*.json"))))
    logs = [log for log in found if log.get("job", {}).get("name") == name]
    return {log["job"]["seed"]: log for log in sorted(logs, key=lambda log: log["job"]["seed"])}


def shipped_logs(names: Sequence[str] = tuple(NAMES)) -> list[dict]:
    """The logs of these arms under data/runs, arm by arm, seed by seed; FileNotFoundError lacks one."""
    logs, folder = [], data_dir() / "runs"
    for name in names:
        found = logs_of(name, folder)
        if not found:
            raise FileNotFoundError(f"no logs of {name} in {folder}")
        logs += found.values()
    return logs


def real_table(results: Sequence[dict]) -> str:
    """Markdown: held-out scores of a real pair before and after each method, and what it cost."""
    lines = [
        "| | " + " | ".join(REAL_METRICS.values()) + " | minutes |",
        "|---|" + "---|" * (len(REAL_METRICS) + 1),
    ]
    rows = [("before", results[0]["before"], "")]
    rows += [(NAMES[r["method"]], r["after"], f"{r['seconds'] / 60:.0f}") for r in results]
    for name, scores, minutes in rows:
        cells = [f"{scores[metric]:.3f}" for metric in REAL_METRICS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {minutes} |")
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


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{spread}"
