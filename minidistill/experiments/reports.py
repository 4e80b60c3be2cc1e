"""Reports of the ledger in Markdown: methods by world, verdicts, a claim with the search behind it."""

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from minidistill.experiments.arms import (
    APPLICATIONS,
    ARMS,
    PROTOCOLS,
    TUNED,
    get_protocol,
    in_world,
    searched_arm,
    world_of,
)
from minidistill.experiments.hypotheses import HYPOTHESES, get_hypothesis
from minidistill.experiments.labels import METRIC_LABELS, run_label
from minidistill.experiments.logs import load_all_runs, runs_by_seed
from minidistill.experiments.paper_results import PAPER_RESULTS
from minidistill.experiments.protocol import START, TEACHER
from minidistill.experiments.statistics import VERDICTS
from minidistill.experiments.tuning import searched
from minidistill.experiments.verdicts import Claim, Contrast, Result, is_run, judge, verdict
from minidistill.experiments.worlds import STARTS

COLUMNS = ("accuracy", "accuracy_sampled", "rouge_l", "nll_teacher", "accuracy_t1", "entropy")


# --- methods --------------------------------------------------------------------------------------------
def methods_table(
    world: str, names: Sequence[str] | None = None, folder: Path | None = None
) -> str:
    """Compose a row a method between start and teacher: scores, mean ± sd over seeds, and its settings."""
    get_protocol(world)  # or says which there are
    names = names or (START, *TUNED[world], TEACHER)
    lines = [
        "| method | "
        + " | ".join(METRIC_LABELS[name] for name in COLUMNS)
        + " | seeds | seconds | settings |",
        "|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    for name in names:
        logs = list(runs_by_seed(in_world(world, name), folder).values())
        if not logs:
            continue
        cells = [mean_and_spread([log["scores"][column] for log in logs]) for column in COLUMNS]
        seconds = [log["train_seconds"] for log in logs if "train_seconds" in log]
        cost = f"{statistics.mean(seconds):.0f}" if seconds else "–"
        settings = settings_text(logs[0]["run"]["arm"])
        lines.append(
            f"| {run_label(name)} | "
            + " | ".join(cells)
            + f" | {len(logs)} | {cost} | {settings} |"
        )
    return "\n".join(lines) + "\n\n" + protocol_text(world) + "\n"


def domain_scores(
    worlds: Sequence[str], metric: str = "accuracy", folder: Path | None = None
) -> dict[str, dict[str, list[float]]]:
    """Look up world → method → one score a seed, start and teacher among them."""
    found = {}
    for world in worlds:
        rows = {}
        for name in (START, *TUNED[world], TEACHER):
            logs = runs_by_seed(in_world(world, name), folder)
            if logs:
                rows[name] = [logs[seed]["scores"][metric] for seed in sorted(logs)]
        found[world] = rows
    return found


def domains_table(worlds: Sequence[str] = tuple(PAPER_RESULTS), folder: Path | None = None) -> str:
    """Compose a row a method: accuracy in per cent in each world, beside what the paper reports."""
    found = domain_scores(worlds, folder=folder)
    heads = [f"{w} | {PAPER_RESULTS[w].section}: {PAPER_RESULTS[w].measure}" for w in worlds]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * (2 * len(heads))]
    for name in dict.fromkeys(n for rows in found.values() for n in rows):
        cells = []
        for world, rows in found.items():
            here = [100 * value for value in rows.get(name, ())]
            there = PAPER_RESULTS[world].scores.get(name)
            cells.append(mean_and_spread(here, 1) if here else "–")
            cells.append("–" if there is None else f"{there:.2f}")
        lines.append(f"| {run_label(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Compose '0.612 ± 0.014'."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def settings_text(arm: dict) -> str:
    """Compose 'lr 0.002, alpha 0.1' of what a run was told."""
    told = {**arm["settings"], **arm["method_kwargs"]}
    return (
        ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in told.items())
        or "–"
    )


def protocol_text(world: str) -> str:
    """Say in a sentence how a world's runs are made and measured."""
    p = PROTOCOLS[world]
    return (
        f"{p.prompts:,} prompts, {p.epochs} epochs, batches of {p.batch_size}, responses sampled at "
        f"T = {p.temperature:g}, top-p {p.top_p:g}; 1,000 other prompts to test on. Accuracy of greedy "
        "responses, of sampled ones, and at T = 1; NLL and entropy in nats per token; "
        "seconds of training on one core."
    )


WITHOUT_START = {"head", "tail"}  # of toys, which no student of a world begins


def search_table(world: str, methods: Sequence[str], folder: Path | None = None) -> str:
    """Compose how settings were chosen: a row a setting that was tried, the best of each method first.

    In parentheses: of one start alone, and so of another scale than means of three.
    """
    lines = ["| method | settings | validation | on each start |", "|---|---|---|---|"]
    for method in methods:
        arm = searched_arm(world, method, folder)
        tried = searched(PROTOCOLS[world], method, folder, arm)
        for place, (run, scores) in enumerate(tried):
            told = settings_text(vars(run.arm))
            mark = "**" if place == 0 else ""
            each = ", ".join(f"{score:.3f}" for score in scores)
            mean = f"{statistics.mean(scores):.3f}"
            mean = mean if len(scores) > 1 else f"({mean})"
            lines.append(f"| {run_label(method)} | {mark}{told}{mark} | {mean} | {each} |")
    return "\n".join(lines) + "\n"


# --- claims ---------------------------------------------------------------------------------------------
def claims_table(folder: Path | None = None, names: Sequence[str] | None = None) -> str:
    """Compose a row a claim, or of those in `names`: the contrast that decides, interval, seeds, verdict."""
    lines = [
        "| | claim | paper | deciding contrast | difference | seeds | minutes | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names or HYPOTHESES:
        claim = get_hypothesis(name)
        row = f"| {name} | {claim.statement} | {claim.section} | "
        results = _results(claim, folder)
        if not results:
            lines.append(row + "– | – | – | – | not run yet |")
            continue
        found = verdict(results)
        decisive = min((r for r in results if r.verdict == found), key=lambda r: r.mean)
        seconds = sum(log["seconds"] for log in _logs(claim.runs, folder))
        lines.append(
            f"{row}{decisive.contrast.label} | {difference(decisive)} | "
            f"{len(decisive.values)} | {seconds / 60:.0f} | **{found}** |"
        )
    logs = load_all_runs(folder)
    minutes = sum(log["seconds"] for log in logs) / 60
    text = (
        f"\nMinutes of one core for the runs that a claim needs. Claims share runs: C2 to C10 and C16 "
        f"the same one of CALD or DistiLLM-2 a seed. The whole ledger with its searches: {len(logs)} runs, "
        f"{minutes:.0f} minutes.\n"
    )
    return "\n".join(lines) + "\n" + text


def verdicts_summary(folder: Path | None = None) -> str:
    """Compose a line a verdict with the claims that it is for."""
    found: dict[str, list[str]] = {kind: [] for kind in (*VERDICTS, "not run yet")}
    for name, claim in HYPOTHESES.items():
        results = _results(claim, folder)
        found[verdict(results) if results else "not run yet"].append(name)
    lines = [f"- **{k}**: {len(names)} ({', '.join(names)})" for k, names in found.items() if names]
    return "\n".join(lines) + "\n"


def claim_report(name: str, folder: Path | None = None, search: bool = True) -> str:
    """Compose what the paper says, each contrast with its interval, why, and the `search` behind the runs."""
    claim = get_hypothesis(name)
    head = [f"{name.upper()}  {claim.statement}", f"paper: {claim.section}. {claim.paper_numbers}"]
    if not all(is_run(contrast, folder) for contrast in claim.contrasts):
        return (
            "\n".join([*head, "", *_rows(claim.contrasts, folder), "", "verdict: not run yet"])
            + "\n"
        )
    results = judge(claim.contrasts, folder)
    toy = claim.contrasts[0].metric in WITHOUT_START
    started = "" if toy else f", from {STARTS} starts: an interval is about these"
    lines = [
        *head,
        f"seeds: {len(results[0].values)}{started}",
        "",
        *_rows(claim.contrasts, folder),
        "",
        f"verdict: {verdict(results)}",
        *textwrap.wrap(claim.discussion, 100),
    ]
    if claim.explanation:
        lines += ["", "What would refute the explanation:", *_rows(claim.explanation, folder)]
    for world, used in _searched_by(claim.runs).items() if search else ():
        chosen = [name for name in (*TUNED[world], *APPLICATIONS) if name in used]
        lines += [
            "",
            f"How the settings were chosen ({world}, validation prompts; the best mean of three starts wins, "
            "in parentheses what was tried on one alone):",
            "",
            search_table(world, chosen, folder),
        ]
    return "\n".join(lines)


def _searched_by(names: Sequence[str]) -> dict[str, set[str]]:
    """List world → methods whose search these runs took their settings from."""
    found: dict[str, set[str]] = {}
    for name in names:
        arm = ARMS.get(name.rpartition("/")[2])
        if arm and arm.method:
            found.setdefault(world_of(name), set()).add(arm.tuned_as or arm.method)
    return found


def _results(claim: Claim, folder: Path | None) -> list[Result]:
    """Judge a claim; none where one of its contrasts lacks its runs."""
    run = all(is_run(contrast, folder) for contrast in claim.contrasts)
    return judge(claim.contrasts, folder) if run else []


def _rows(contrasts: Sequence[Contrast], folder: Path | None) -> list[str]:
    """A line a contrast; those that have runs are judged together."""
    judged = judge([contrast for contrast in contrasts if is_run(contrast, folder)], folder)
    results = {result.contrast.label: result for result in judged}
    width = max(len(contrast.label) for contrast in contrasts)
    rows = []
    for contrast in contrasts:
        found = results.get(contrast.label)
        said = f"{difference(found)}  {found.verdict:25}" if found else "not run yet"
        rows.append(f"{contrast.label:{width}}  {said}  ({METRIC_LABELS[contrast.metric]})")
        if found and contrast.metric not in WITHOUT_START:
            rows[-1] += f"  by start {', '.join(f'{mean:+.3f}' for mean in found.by_start)}"
    return rows


def difference(result: Result) -> str:
    """Compose '+0.012 [+0.004, +0.021]': the mean and the interval at the level that Holm's rule left."""
    low, high = result.interval
    return f"{result.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _logs(names: Sequence[str], folder: Path | None) -> list[dict]:
    return [log for name in names for log in runs_by_seed(name, folder).values()]
