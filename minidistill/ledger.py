"""The claims ledger in words: its table, one claim in full, and the tables of the README."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from minidistill import claims, scoreboard
from minidistill.contrasts import METRIC_NAMES
from minidistill.paper import CLAIMS
from minidistill.report import real_table, shipped_logs, table
from minidistill.runlog import read_log
from minidistill.utils import data_dir


def claims_table(folder: Path | None = None, names: Sequence[str] | None = None) -> str:
    """Markdown: a row a claim, its weakest contrast with interval, seeds, device, seconds, verdict.

    `names` are the claims to show; None is all of them.
    """
    lines = [
        "| | claim | paper | weakest contrast | difference [95 %] | seeds | minutes | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    folder = folder or data_dir() / "runs"
    shown = {name: claims.get_claim(name) for name in (CLAIMS if names is None else names)}
    for name, claim in shown.items():
        results = [claims.judge(contrast, folder) for contrast in claim.contrasts]
        weakest = claims.weakest(results)
        lines.append(
            f"| {name} | {claim.says} | {claim.where} | {weakest.contrast.says} | "
            f"{difference(weakest)} | {len(weakest.values)} | {_seconds(claim.arms, folder) / 60:.0f} | "
            f"**{claims.verdict(results)}** |"
        )
    arms = None if names is None else {arm for claim in shown.values() for arm in claim.arms}
    runs, seconds, machines = _cost(folder, arms)
    whole = (
        "all logs together, the sliders' among them," if arms is None else "those of these claims"
    )
    lines += [
        "",
        f"Minutes of one core for the runs that a claim needs; claims share runs, and {whole} are "
        f"{runs} runs and {seconds / 60:.0f} minutes. {machines}.",
    ]
    return "\n".join(lines) + "\n"


def claim_report(name: str, folder: Path | None = None) -> str:
    """Text: what the paper says, every contrast with its interval and seeds, the verdict, and why."""
    claim, folder = claims.get_claim(name), folder or data_dir() / "runs"
    results = [claims.judge(contrast, folder) for contrast in claim.contrasts]
    lines = [
        f"{name.upper()}  {claim.says}",
        f"paper: {claim.where}. {claim.figures}",
        f"seeds: {len(results[0].values)}",
        "",
    ]
    width = max(len(r.contrast.says) for r in results)
    for r in results:
        metric = METRIC_NAMES[r.contrast.metric]
        lines.append(f"{r.contrast.says:{width}}  {difference(r)}  {r.verdict:12}  ({metric})")
    lines += ["", f"verdict: {claims.verdict(results)}"]
    return "\n".join([*lines, *textwrap.wrap(claim.why, 100)]) + "\n"


def difference(result) -> str:
    """'+0.012 [+0.004, +0.021]', and the margin where it is not zero."""
    margin = f" (margin {result.contrast.margin:+.3f})" if result.contrast.margin else ""
    return f"{result.mean:+.3f} [{result.low:+.3f}, {result.high:+.3f}]{margin}"


def _seconds(arms, folder: Path) -> float:
    return sum(log["seconds"] for arm in arms for log in claims.logs_of(arm, folder).values())


def _cost(folder: Path, arms: set[str] | None = None) -> tuple[int, float, str]:
    """How many logs (of these arms, or all), their seconds, and where they were made."""
    logs = [log for log in map(read_log, sorted(folder.glob("*.json"))) if log and "scores" in log]
    if arms is not None:
        logs = [log for log in logs if log["job"]["name"] in arms]
    machines = {
        f"{g['device']}, {g['cores']} cores, torch {g['torch']}, transformers {g['transformers']}"
        for g in logs
    }
    return len(logs), sum(log["seconds"] for log in logs), "; ".join(sorted(machines))


def readme_tables() -> dict[str, str]:
    """The generated parts of the README, by the name in their marker."""
    results = [read_log(data_dir() / "smollm2" / f"{m}.json") for m in ("kd", "distillm2")]
    return {
        "main": table(shipped_logs()),
        "claims": claims_table(),
        "domains": domains_table(),
        "smollm2": real_table(results),
    }


def domains_table() -> str:
    """Markdown: each method's accuracy in the three worlds, beside what the paper reports."""
    seeds = {len(values) for rows in scoreboard.board().values() for values in rows.values()}
    return scoreboard.board_table(scoreboard.board()) + (
        f"\nAccuracy in per cent, mean ± standard deviation over {min(seeds)} seeds, two sampled responses a "
        "held-out prompt (T = 1); beside each world the paper's figures, which measure other things on a "
        "scale of their own: compare orders.\n"
    )


def update_readme(text: str) -> str:
    """`text` with what stands between `<!-- table:NAME -->` and `<!-- end -->` made anew."""
    for name, body in readme_tables().items():
        start, end = f"<!-- table:{name} -->\n", "<!-- end -->"
        before, rest = text.split(start)
        text = before + start + body + end + rest.split(end, 1)[1]
    return text
