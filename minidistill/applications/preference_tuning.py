"""DPO on any student: win rates against fixed responses, and the run behind `apply preference`.

Before and after are judged against the same rival responses, so that their difference is training's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minidistill import distill
from minidistill.applications import preference as P
from minidistill.applications.preference_config import PreferenceConfig
from minidistill.checkpoint import check_same_run, fingerprint
from minidistill.judging import Judge, WinRate, win_rate
from minidistill.models import Pair
from minidistill.runlog import environment_info, read_log, write_log
from minidistill.tasks import Preference, Task
from minidistill.utils import derive_seed


@dataclass(frozen=True)
class WinRateEvaluator:
    """Responses to beat on held-out prompts, `rivals[draw][prompt]`, and who decides."""

    asked: Sequence[str]
    rivals: Sequence[Sequence[str]]
    judge: Judge
    sampling: dict

    @classmethod
    def against(cls, pair: Pair, asked, judge: Judge, seed: int, draws: int = 1, **sampling):
        """`draws` responses of pair.student as it is now are what is to be beaten."""
        told = [
            P.sample_texts(pair, asked, seed=derive_seed(seed, "rival", i), **sampling)
            for i in range(draws)
        ]
        return cls(asked, told, judge, sampling)

    def enter(self, pair: Pair, seed: int) -> tuple[WinRate, list[list[str]]]:
        """The win rate of pair.student over all draws, and what it said."""
        said = [
            P.sample_texts(pair, self.asked, seed=derive_seed(seed, "entrant", i), **self.sampling)
            for i in range(len(self.rivals))
        ]
        every = [sum(map(list, texts), []) for texts in (said, self.rivals)]
        return win_rate([*self.asked] * len(said), *every, self.judge), said


def run_dpo(
    student, tokenizer, task: Task, judge: Judge | None, recipe: PreferenceConfig, out: Path,
    preferences: Sequence[Preference] | None = None,
) -> dict:  # fmt: skip
    """DPO of `student` in place, resumable; leaves pairs, checkpoints, student and result under `out`.

    Pairs are sampled and judged unless `preferences` are given; held-out pairs are those whose prompts
    stand in task.test. Without a judge nothing can win, and margins and KL are all there is.
    """
    config = recipe.config()
    pair = P.policy_and_reference(student, tokenizer)
    asked = [e.prompt for e in task.test]
    start = _start(pair, task, judge, recipe, out, preferences)
    sampling = config.sampling
    trained, held_out = (
        [Preference(**{**row, "references": tuple(row["references"])}) for row in start[name]]
        for name in ("trained", "held_out")
    )
    contest = WinRateEvaluator(asked, start["rivals"], judge, sampling) if judge else None
    history = distill(
        pair, replace(task, train=trained), out=out, beta=recipe.beta, **asdict(config)
    )
    result = {"before": start["before"]}
    result |= {"after": _measured(pair, held_out, contest, recipe, asked)}
    pair.save_student(out / "student")
    result |= {"pairs": len(trained), "held_out_pairs": len(held_out), "prompts": len(asked)}
    cost = {"seconds": round(history.seconds), **environment_info()}
    write_log(out / "result.json", {**result, **asdict(recipe), **cost})
    return result


def _start(pair: Pair, task: Task, judge, recipe: PreferenceConfig, out: Path, preferences) -> dict:
    """Pairs, rival responses and the measures before training: made once, kept for a resumed run."""
    config, about = recipe.config(), {"beta": recipe.beta, "samples": recipe.samples}
    given = [vars(p) for p in preferences or ()]
    who = getattr(judge, "name", type(judge).__name__)
    ours = fingerprint(pair, task, config, {**about, "given": given, "judge": who})
    start = read_log(out / "start.json")
    if start is None:
        start = {"fingerprint": ours, "settings": {**asdict(config), **about}, "rivals": []}
        trained, held_out = _sides(pair, task, judge, recipe, preferences)
        start |= {"trained": [vars(p) for p in trained], "held_out": [vars(p) for p in held_out]}
        asked, contest = [e.prompt for e in task.test], None
        if judge:
            contest = WinRateEvaluator.against(pair, asked, judge, recipe.seed, **config.sampling)
            start["rivals"] = contest.rivals
        start["before"] = _measured(pair, held_out, contest, recipe, asked)
        P.write_preferences(out / "preferences.jsonl", trained)
        write_log(out / "start.json", start)  # last: a run that finds it makes nothing of the above
    check_same_run(out, start, ours)
    return start


def _sides(pair: Pair, task: Task, judge, recipe: PreferenceConfig, preferences):
    """The pairs to train on, and the held-out ones."""
    if preferences is not None:
        kept = {e.prompt for e in task.test}
        sides = (
            [p for p in preferences if p.prompt not in kept],
            [p for p in preferences if p.prompt in kept],
        )
        if not sides[0]:
            raise ValueError(
                "every prompt of the preferences is held out: there is none to train on"
            )
        return sides
    if judge is None:
        raise ValueError(
            "without preferences a judge has to make them: give --judge or --preferences"
        )
    how = {"samples": recipe.samples, "seed": recipe.seed, **recipe.config().sampling}
    return [P.sample_pairs(pair, side, judge, **how) for side in (task.train, task.test)]


def _measured(
    pair: Pair, held_out, contest: WinRateEvaluator | None, recipe: PreferenceConfig, asked
) -> dict:
    """Measure what the command prints: win rate with interval, margin and reward accuracy, KL."""
    row = P.preference_metrics(pair, held_out, recipe.beta) if held_out else {}
    kl = {"seed": derive_seed(recipe.seed, "kl"), "max_new_tokens": recipe.max_new_tokens}
    row["kl"] = P.kl_to_reference(pair, asked, **kl)
    if contest:
        won, _ = contest.enter(pair, recipe.seed)
        row |= {"win_rate": won.rate, "low": won.low, "high": won.high}
    return row
