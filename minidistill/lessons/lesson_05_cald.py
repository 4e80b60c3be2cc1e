"""Lesson 05 (CALD): log ratios and forces of the written tokens, the grid of α and β, the exercises."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from minidistill import divergences as D
from minidistill import objectives
from minidistill.experiments.arms import ALPHAS, BETAS
from minidistill.experiments.logs import runs_by_seed
from minidistill.lessons import plots
from minidistill.lessons.checks import Exercise, checker, pull_up, push_down, random_pairs
from minidistill.lessons.response_scores import token_gradient
from minidistill.logprobs import ResponseLogProbs

Q_EDGES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.35, 0.6, 1.0)  # of the student's probability


def token_log_ratios(responses: ResponseLogProbs) -> Tensor:
    """log p − log q of every token that was written, smallest first: (tokens,)."""
    return (responses.token_log_p - responses.token_log_q)[responses.mask].sort().values


def implicit_reward_margin(
    tgo: ResponseLogProbs, sgo: ResponseLogProbs, alpha: float = 0.1
) -> Tensor:
    r"""(5.2) Remark 1: log[q̃(y_t)/p(y_t)] − log[q(y_s)/p̃(y_s)], a mean over the written tokens: (batch,).

    q̃ = αp + (1−α)q and p̃ = (1−α)p + αq. Its expectation over y_t ~ p and y_s ~ q is −2 · CALD: a
    preference margin without DPKD's sigmoid. Source: DistiLLM-2 (arXiv 2503.07067), Remark 1.
    """

    def ratio(y: ResponseLogProbs, above: Tensor, below: Tensor) -> Tensor:
        return y.mean((above - below).gather(-1, y.labels.unsqueeze(-1)).squeeze(-1))

    winner = ratio(tgo, D.log_mixture(tgo.log_p, tgo.log_q, alpha), tgo.log_p)
    loser = ratio(sgo, sgo.log_q, D.log_mixture(sgo.log_q, sgo.log_p, alpha))
    return winner - loser


def force_by_q(
    y: ResponseLogProbs, divergence: Callable, wanted: Tensor
) -> tuple[Tensor, Tensor, list[float], list[float]]:
    """Measure the force −∂/∂z on written tokens and what the student gives them: (tokens,), (tokens,).

    `wanted`: which of the written tokens, in the order of the mask. Then, for each interval of Q_EDGES that
    holds at least three of them, the middle and the mean force.
    """
    q = y.token_log_q.detach().exp()[y.mask][wanted]
    force = token_gradient(y, divergence)[wanted]
    middles, means = [], []
    for low, high in zip(Q_EDGES, Q_EDGES[1:], strict=False):
        inside = (q > low) & (q <= high)
        if inside.sum() >= 3:
            middles.append((low * high) ** 0.5)
            means.append(float(force[inside].mean()))
    return q, force, middles, means


def draw_forces(ax, found: Mapping[str, tuple], ylabel: str, title: str):
    """Draw the force on each token as a dot over the student's q, and the mean by interval as a line."""
    for name, style in plots.styles(list(found)).items():
        q, force, middles, means = found[name]
        ax.plot(q, force, style.marker, color=style.color, alpha=0.15, markersize=3, linewidth=0)
        ax.plot(middles, means, label=name, marker=style.marker, **style.line)
    plots.log_axis(ax.xaxis)
    ax.set(xlabel="the student's q of the word", ylabel=ylabel)
    ax.set_title(title, loc="left")
    ax.legend()
    return ax


def draw_interaction(
    ax, cells: Mapping[str, Sequence[Sequence[float]]], columns: Sequence[str], ylabel: str
):
    """Draw a line a direction over the sources: a point a seed, the line through the means."""
    for name, style in plots.styles(list(cells)).items():
        seeds = cells[name]
        for place, values in enumerate(seeds):
            ax.plot(
                [place] * len(values),
                values,
                style.marker,
                color=style.color,
                alpha=0.35,
                markersize=4,
            )
        means = [sum(values) / len(values) for values in seeds]
        ax.plot(range(len(means)), means, label=name, marker=style.marker, **style.line)
    ax.set_xticks(range(len(columns)), columns)
    ax.set(ylabel=ylabel, xlim=(-0.4, len(columns) - 0.6))
    ax.legend()
    return ax


def grid_logs(folder: Path | None = None) -> dict[tuple[float, float], dict]:
    """Look up the ledger's runs at constant α and β: (α, β) → log of the first seed."""
    found = {}
    for a in ALPHAS:
        for b in BETAS:
            logs = runs_by_seed(f"cald_a{a:g}_b{b:g}", folder)
            if logs:
                found[a, b] = logs[min(logs)]
    return found


def grid_explorer(logs: Mapping[tuple[float, float], dict], metric: str = "accuracy") -> Callable:
    """Make a callback `(alpha, beta) → Figure` over the grid of runs: the scores, and one run on its way."""
    table = [[logs[a, b]["scores"][metric] for b in BETAS] for a in ALPHAS]
    limits = min(map(min, table)), max(map(max, table))

    def picture(alpha: float = 0.1, beta: float = 0.5):
        left, right = plots.axes(2, height=2.9, width=9.0, fast=True)
        names = {"xlabel": "beta: weight of the push-down", "ylabel": "alpha"}
        frame = ALPHAS.index(alpha), BETAS.index(beta)
        title = (
            f"alpha {alpha:g}, beta {beta:g}: accuracy {logs[alpha, beta]['scores'][metric]:.3f}"
        )
        plots.number_grid(table, ALPHAS, BETAS, left, limits, frame=frame, title=title, **names)
        for name, log in (("cald", logs[0.1, 0.5]), ("this place", logs[alpha, beta])):
            style = plots.styles([name])[name]
            rows = log["evals"][1:]
            steps = [row["step"] for row in rows]
            right.plot(steps, [row["accuracy"] for row in rows], label=name, **style.line)
        right.set(xlabel="step", ylabel="accuracy (greedy)", ylim=(0, limits[1] + 0.1))
        right.legend(loc="lower right")
        return left.figure

    return picture


def _pull_ratio(y: ResponseLogProbs, alpha: float, labels: Tensor | None = None) -> Tensor:
    ratio = D.log_mixture(y.log_p, y.log_q, alpha) - y.log_p
    return _written(ratio, y.labels if labels is None else labels)


def _push_ratio(y: ResponseLogProbs, alpha: float, labels: Tensor | None = None) -> Tensor:
    ratio = y.log_q - D.log_mixture(y.log_q, y.log_p, alpha)
    return _written(ratio, y.labels if labels is None else labels)


def _written(log_probs: Tensor, labels: Tensor) -> Tensor:
    return log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


EXERCISES = {
    "cald": Exercise(
        answer=lambda tgo, sgo, a: objectives.cald(tgo, sgo, alpha=a),
        first_step="½ [mean of SKL on the teacher's responses + mean of SRKL on the student's].",
        cases=random_pairs(0.1, 0.3),
        mistakes={
            "tgo and sgo are swapped, or teacher and student inside both divergences (the same function): "
            "SKL(p, q) reads tgo, SRKL(p, q) reads sgo": (
                lambda tgo, sgo, a: objectives.cald(sgo, tgo, alpha=a)
            ),
            "both terms use SKL: the student's responses take SRKL": lambda tgo, sgo, a: (
                (objectives.skl(tgo, alpha=a) + objectives.skl(sgo, alpha=a)) / 2
            ),
            "both terms use SRKL (that is DistiLLM v1): the teacher's responses take SKL": (
                lambda tgo, sgo, a: objectives.distillm(tgo, sgo, alpha=a)
            ),
            "alpha is not used: this is CALD with plain KL and RKL": lambda tgo, sgo, a: (
                objectives.cald_kl(tgo, sgo)
            ),
            "the factor ½ is missing": lambda tgo, sgo, a: 2 * objectives.cald(tgo, sgo, alpha=a),
            "the push-down is subtracted: SRKL pushes down by being *minimised*, so both terms are added": (
                lambda tgo, sgo, a: (
                    (objectives.skl(tgo, alpha=a) - objectives.srkl(sgo, alpha=a)) / 2
                )
            ),
            "padding counts: a response's mean is over its own tokens, tgo.mean and sgo.mean": (
                lambda tgo, sgo, a: (pull_up(tgo, a).mean(-1) + push_down(sgo, a).mean(-1)) / 2
            ),
            "these are sums over the tokens: each response gives a mean": lambda tgo, sgo, a: (
                (tgo.sum(pull_up(tgo, a)) + sgo.sum(push_down(sgo, a))) / 2
            ),
        },
    ),
    "written_margin": Exercise(
        answer=implicit_reward_margin,
        first_step="D.log_mixture gives q̃ and p̃; gather picks the written word (labels) out of each.",
        cases=random_pairs(0.3, 0.1),
        mistakes={
            "the responses are swapped: q̃/p is taken on the teacher's, q/p̃ on the student's": (
                lambda tgo, sgo, alpha: implicit_reward_margin(sgo, tgo, alpha)
            ),
            "the sign is flipped: the teacher's ratio counts plus, the student's minus": (
                lambda tgo, sgo, alpha: -implicit_reward_margin(tgo, sgo, alpha)
            ),
            "there is no mixture in it: this is DPKD's margin, with q for q̃ and p for p̃": (
                lambda tgo, sgo, alpha: implicit_reward_margin(tgo, sgo, 0.0)
            ),
            "both mixtures are the wrong way round: q̃ is mostly student, p̃ mostly teacher": (
                lambda tgo, sgo, alpha: implicit_reward_margin(tgo, sgo, 1 - alpha)
            ),
            "this sums over the whole vocabulary, −2 · CALD: only the written word is asked for": (
                lambda tgo, sgo, alpha: -2 * objectives.cald(tgo, sgo, alpha=alpha)
            ),
            "the two log-ratios are added: this is a margin, one minus the other": (
                lambda tgo, sgo, alpha: (
                    tgo.mean(_pull_ratio(tgo, alpha)) + sgo.mean(_push_ratio(sgo, alpha))
                )
            ),
            "these are sums over the tokens: each response gives a mean": lambda tgo, sgo, alpha: (
                tgo.sum(_pull_ratio(tgo, alpha)) - sgo.sum(_push_ratio(sgo, alpha))
            ),
            "each response is read with the other's labels: gather with its own": (
                lambda tgo, sgo, alpha: (
                    tgo.mean(_pull_ratio(tgo, alpha, sgo.labels))
                    - sgo.mean(_push_ratio(sgo, alpha, tgo.labels))
                )
            ),
        },
    ),
}
check = checker(EXERCISES)
