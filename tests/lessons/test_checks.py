"""Each named mistake gets its own hint, a right answer passes, anything else is told what it is."""

import itertools
import math

import pytest
import torch

from minidistill import divergences as D
from minidistill.lessons import checks
from minidistill.lessons import lesson_00_start_here as lesson_00
from minidistill.lessons import lesson_01_divergences as lesson_01
from minidistill.lessons import lesson_02_skew as lesson_02
from minidistill.lessons import lesson_03_responses as lesson_03
from minidistill.lessons import lesson_04_dpkd_collapse as lesson_04
from minidistill.lessons import lesson_05_cald as lesson_05
from minidistill.lessons import lesson_06_data_curation as lesson_06
from minidistill.lessons import lesson_07_curriculum as lesson_07
from minidistill.lessons import lesson_08_distillm2 as lesson_08
from minidistill.lessons import lesson_09_benchmarks as lesson_09
from minidistill.lessons import lesson_09_win_rates as duels
from minidistill.lessons import lesson_10_preference as lesson_10
from minidistill.lessons import lesson_11_vision as lesson_11
from minidistill.lessons import lesson_12_quantization as lesson_12
from minidistill.lessons import lesson_13_speculative_decoding as lesson_13
from minidistill.lessons import lesson_14_real_models as lesson_14
from minidistill.logprobs import ResponseLogProbs

LESSONS = (
    lesson_00.EXERCISES, lesson_01.EXERCISES, lesson_02.EXERCISES, lesson_03.EXERCISES,
    lesson_04.EXERCISES, lesson_05.EXERCISES, lesson_06.EXERCISES,
    lesson_07.EXERCISES, lesson_08.EXERCISES, lesson_09.EXERCISES, duels.EXERCISES,
    lesson_10.EXERCISES, lesson_11.EXERCISES, lesson_12.EXERCISES,
    lesson_13.EXERCISES, lesson_14.EXERCISES,
)  # fmt: skip
EXERCISES = {name: exercise for lesson in LESSONS for name, exercise in lesson.items()}
MISTAKES = [(name, hint) for name, e in EXERCISES.items() for hint in e.mistakes]


def kl(log_p, log_q):
    ratio = torch.where(log_p == float("-inf"), 0.0, log_p - log_q)
    return (log_p.exp() * ratio).sum(-1)


def jsd(log_p, log_q, beta):
    log_m = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log()
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def log_mixture(log_a, log_b, alpha):
    weights = torch.tensor([alpha, 1 - alpha]).log()
    return torch.stack([log_a + weights[0], log_b + weights[1]]).logsumexp(0)


def skew_reverse_kl(log_p, log_q, alpha):
    return (log_q.exp() * (log_q - log_mixture(log_q, log_p, alpha))).sum(-1)


def skew_kl_gradient(log_p, log_q, alpha):
    p, q = log_p.exp(), log_q.exp()
    return (alpha - 1) * p / (alpha * p + (1 - alpha) * q)


def masked_mean(per_token, mask):
    rows = zip(per_token, mask, strict=True)
    return torch.stack([x[m].sum() / max(1, int(m.sum())) for x, m in rows])


def token_log_probs(logits, ids):
    shifted = logits[:, :-1].log_softmax(-1)
    return (shifted * torch.nn.functional.one_hot(ids[:, 1:], logits.shape[-1])).sum(-1)


def cald(tgo, sgo, alpha):
    pull = masked_mean(kl(tgo.log_p, log_mixture(tgo.log_p, tgo.log_q, alpha)), tgo.mask)
    push = masked_mean(skew_reverse_kl(sgo.log_p, sgo.log_q, alpha), sgo.mask)
    return (pull + push) / 2


def first_stop(ids, stop):
    rows = [row.tolist() for row in ids]
    return torch.tensor([row.index(stop) + 1 if stop in row else len(row) for row in rows])


def dpkd(tgo, sgo, lam):
    ratios = [((y.token_log_q - y.token_log_p) * y.mask).sum(-1) for y in (tgo, sgo)]
    return (1 + (-lam * (ratios[0] - ratios[1])).exp()).log()


def written_margin(tgo, sgo, alpha):
    p, q, p_s, q_s = (x.exp() for x in (tgo.log_p, tgo.log_q, sgo.log_p, sgo.log_q))
    pull = ((alpha * p + (1 - alpha) * q) / p).log() * torch.nn.functional.one_hot(tgo.labels, 5)
    push = q_s / ((1 - alpha) * p_s + alpha * q_s)
    push = push.log() * torch.nn.functional.one_hot(sgo.labels, 5)
    pull, push = pull.sum(-1), push.sum(-1)
    return masked_mean(pull, tgo.mask) - masked_mean(push, sgo.mask)


def adaptive_alpha(gap, m, alpha0, low, high):
    rows = [1 - (1 - alpha0) * m / g if g > 0 else low for g in gap.tolist()]
    return torch.tensor([alpha0 if m <= 0 else min(max(a, low), high) for a in rows])


def distillm2(tgo, sgo, alpha_t, alpha_s, beta):
    rows = zip(alpha_t.flatten().tolist(), alpha_s.flatten().tolist(), strict=True)
    found = []
    for i, (a, b) in enumerate(rows):
        pull = kl(tgo.log_p, log_mixture(tgo.log_p, tgo.log_q, a))[i]
        push = skew_reverse_kl(sgo.log_p, sgo.log_q, b)[i]
        found += [(1 - beta) * pull[tgo.mask[i]].mean() + beta * push[sgo.mask[i]].mean()]
    return torch.stack(found) / 2


def win_rate(ours, theirs):
    points = ((ours - theirs).sign().double() + 1) / 2
    half = 1.96 * ((points - points.mean()) ** 2).sum().div(len(points) - 1).div(len(points)).sqrt()
    return points.mean() + half * torch.tensor([0.0, -1.0, 1.0])


def preference_pairs(grades):
    rows = [row for row in enumerate(grades.tolist()) if len(set(row[1])) > 1]
    return torch.tensor([[i, row.index(max(row)), row.index(min(row))] for i, row in rows])


def log_ratio(y):
    """log π(y)/π_ref(y) of each response, token by token."""
    rows = zip(y.log_q, y.log_p, y.labels, y.mask.sum(-1), strict=True)
    return torch.stack([sum(q[t, v[t]] - p[t, v[t]] for t in range(int(n))) for q, p, v, n in rows])


def rounded(w, bits, group):
    """The nearest of the 2^b places of each group, by distance; the first of two that are as near."""
    rows = []
    for part in w.split(group, -1):
        step = part.abs().max(-1, keepdim=True).values / (2 ** (bits - 1) - 0.5)
        places = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) * step
        nearest = (part.unsqueeze(-1) - places.unsqueeze(1)).abs().argmin(-1)
        rows.append(places.gather(-1, nearest))
    return torch.cat(rows, -1)


# Written from the equations, so that no answer is compared with itself.
SOLUTIONS = {
    "kl": kl,
    "jsd": jsd,
    "kl_gradient": lambda log_p, log_q: log_q.exp() - log_p.exp(),
    "log_mixture": log_mixture,
    "skew_reverse_kl": skew_reverse_kl,
    "skew_kl_gradient": skew_kl_gradient,
    "kd_loss": lambda log_p, log_q, mask: torch.stack(
        [kl(p[m], q[m]).mean() for p, q, m in zip(log_p, log_q, mask, strict=True)]
    ).mean(),
    "masked_mean": masked_mean,
    "token_log_probs": token_log_probs,
    "cald": cald,
    "first_stop": first_stop,
    "dpkd": dpkd,
    "typical": lambda p, e: (
        p > torch.minimum(torch.tensor(e * e), e * torch.pow(p, p).prod(-1, keepdim=True))
    ),
    "corrected": lambda p, q, stays: q * stays + p * (q * ~stays).sum(-1, keepdim=True),
    "pair_weight": lambda margin, lam: lam / (1 + (lam * margin).exp()),
    "written_margin": written_margin,
    "adaptive_alpha": adaptive_alpha,
    "linear_beta": lambda t, start, end, ramp: torch.where(
        t < ramp, (1 - t / ramp) * start + t / ramp * end, end
    ),
    "distillm2": distillm2,
    "pass_at_k": lambda right, n, k: torch.tensor(
        [1 - math.prod((n - c - i) / (n - i) for i in range(k)) for c in right.tolist()]
    ),
    "win_rate": win_rate,
    "preference_pairs": preference_pairs,
    "reward_margin": lambda w, l, beta: beta * (log_ratio(w) - log_ratio(l)),
    "kl_to_reference": lambda y: torch.stack(
        [(q.exp() * (q - p))[m].sum() for p, q, m in zip(y.log_p, y.log_q, y.mask, strict=True)]
    ),
    "group_steps": lambda w, b, g: (
        torch.stack([part.abs().max(-1).values for part in w.split(g, -1)], -1)
        / (2 ** (b - 1) - 0.5)
    ),
    "rounded": rounded,
    "adapted_layer": lambda x, w, a, b: x @ w.T + (x @ a.T) @ b.T,
    "keep_chance": lambda p, q: torch.where(p >= q, 1.0, p / q),
    "residual": lambda p, q: torch.where(
        p == q, p, (p - q).relu() / (p - q).abs().sum(-1, keepdim=True) * 2
    ),
    "patches": lambda v, p: (
        torch.nn.functional.unfold(v[None], p, stride=p)[0].T  # (positions, channels · side · side)
    ),
    "picture_worth": lambda seen, blind, y, shown: masked_mean(
        ((seen - blind) * torch.nn.functional.one_hot(y, 5)).sum(-1), shown
    ),
    "best_blind": lambda right: right.double().mean(1).max(-1).values.mean().float(),
    "into_buckets": lambda table, ids: torch.cat(
        [
            table.gather(-1, ids),
            table.double().exp().scatter(-1, ids, 0).sum(-1, keepdim=True).log().float(),
        ],
        -1,
    ),
    "hidden_gradient": lambda hp, wp, hq, wq: (
        ((hq @ wq.T).softmax(-1) @ wq) - ((hp @ wp.T).softmax(-1) @ wq)
    ),
    "step_memory": lambda t, s, tokens, vocab, copies: torch.tensor(
        4.0 * (t + 4 * s + copies * tokens * vocab)
    ),
    "tokens_per_call": lambda a, n: torch.where(a == 1, n + 1, (1 - a ** (n + 1)) / (1 - a)),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_an_independent_right_answer_passes(name):
    result = checks.verdict(EXERCISES[name], SOLUTIONS[name])
    assert result.passed, result.message
    assert result.message.startswith("right")


@pytest.mark.parametrize(("name", "hint"), MISTAKES)
def test_every_named_mistake_gets_its_own_hint(name, hint):
    result = checks.verdict(EXERCISES[name], EXERCISES[name].mistakes[hint])
    assert not result.passed
    others = [h for h in EXERCISES[name].mistakes if h != hint]
    said = [h for h in (hint, *others) if h in result.message]
    # A mistake that changes the shape is told by its shape.
    assert said == [hint] or (not said and "shape is (" in result.message)


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_are_distinct(name):
    for a, b in itertools.combinations(EXERCISES[name].mistakes, 2):
        assert a not in b


def test_swapped_models_are_told_so():
    swapped = lambda log_p, log_q: (log_q.exp() * (log_q - log_p)).sum(-1)  # noqa: E731
    assert "swapped teacher and student" in checks.verdict(EXERCISES["kl"], swapped).message


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda p, q: 1.0, "a tensor is wanted, but your function returns float"),
        (lambda p, q: None, "returns NoneType"),
        (lambda p, q: kl(p, q).sum(), "the shape is (), but (3,) is wanted: reduce the last axis"),
        (lambda p, q: p.exp() * (p - q), "there is one axis too many"),
        (lambda p, q: kl(p, q)[:2], "the shape is (2,), but (3,) is wanted"),
        (lambda p, q: kl(p, q) * torch.nan, "NaN even on ordinary inputs"),
        (lambda p, q: 2 * kl(p, q), "every value is 2 times what it should be"),
        (lambda p, q: kl(p, q) + 1, "the values are not: for instance"),
        (lambda p, q: kl(p, q.detach()), "no gradient reaches the student"),
        (
            lambda p, q: kl(p, q) + 0 * q.sum() + q[..., 0] - q[..., 0].detach(),
            "its gradient is not",
        ),
        (lambda p, q: (p.exp() * (p - q)).sum(-1), "that the teacher never says (log p = −inf)"),
        (lambda p: p, "your function raised TypeError"),
        (lambda p, q: p.reshape(7, 7), "your function raised RuntimeError"),
        (D.kl, "the library's own function"),
    ],
)
def test_whatever_else_is_wrong_is_said_in_a_sentence(function, says):
    result = checks.verdict(EXERCISES["kl"], function)
    assert not result.passed
    assert says in result.message


def untrainable(function):
    def run(*arguments):
        with torch.no_grad():
            return function(*arguments)

    return run


PLAUSIBLE = [  # wrong answers that learners gave, and what each must be told
    ("typical", lambda p, e: (p > (e * -torch.special.entr(p).sum(-1, True)).exp()), "values are not"),
    ("typical", lambda p, e: p > e * (-torch.special.entr(p).sum(-1, True)).exp(), "ε² is not in"),
    (
        "typical",
        lambda p, e: p > (e * (-torch.special.entr(p).sum()).exp()).clamp(max=e * e),
        "summed over all rows",
    ),
    ("typical", lambda p, e: SOLUTIONS["typical"](p, e).float(), "a boolean tensor is wanted"),
    (
        "typical",
        lambda p, e: p > min(e**2, e * (-torch.special.entr(p).sum(-1, True)).exp()),
        "torch.minimum",
    ),
    (
        "typical",
        lambda p, e: p > (e * (p * p.log()).sum(-1, True).exp()).clamp(max=e * e),
        "a word of probability 0",
    ),
    (
        "typical",
        lambda p, e: p >= (e * (-torch.special.entr(p).sum(-1, True)).exp()).clamp(max=e * e),
        "it must be above it",
    ),
    ("corrected", lambda p, q, s: q * s + (1 - (q * s).sum()) * p, "each row has its own"),
    (
        "corrected",
        lambda p, q, s: (
            q * s
            + (1 - (q * s).sum(-1, True)) * (p - q).relu() / (p - q).relu().sum(-1, True)
        ),
        "the residual of speculative",
    ),
    (
        "corrected",
        lambda p, q, s: q * s + (1 - (q * s).sum(-1, True)) * p * ~s / (p * ~s).sum(-1, True),
        "it may say any word",
    ),
    (
        "written_margin",
        lambda t, s, a: written_margin(with_labels(t, 0), with_labels(s, 0), a),
        "the values are not",
    ),
    (
        "written_margin",
        lambda t, s, a: written_margin(with_labels(t, s.labels), with_labels(s, t.labels), a),
        "the other's labels",
    ),
    (
        "cald",
        lambda t, s, a: (
            masked_mean(skew_reverse_kl(t.log_p, t.log_q, a), t.mask)
            + masked_mean(kl(s.log_p, log_mixture(s.log_p, s.log_q, a)), s.mask)
        )
        / 2,
        "or teacher and student inside both",
    ),
    (
        "cald",
        lambda t, s, a: (
            masked_mean(kl(t.log_p, log_mixture(t.log_p, t.log_q, a)), t.mask)
            - masked_mean(skew_reverse_kl(s.log_p, s.log_q, a), s.mask)
        )
        / 2,
        "both terms are added",
    ),
    (
        "cald",
        lambda t, s, a: (
            kl(t.log_p, log_mixture(t.log_p, t.log_q, a)).mean(-1)
            + skew_reverse_kl(s.log_p, s.log_q, a).mean(-1)
        )
        / 2,
        "padding counts",
    ),
    ("cald", lambda t, s, a: cald(t, s, 0.1), "the values are not"),
    ("cald", untrainable(cald), "no gradient reaches the student"),
    (
        "jsd",
        lambda p, q, b: (
            b * kl(p, ((1 - b) * p.exp() + b * q.exp()).log())
            + (1 - b) * kl(q, ((1 - b) * p.exp() + b * q.exp()).log())
        ),
        "beta is swapped in m alone",
    ),
    ("skew_reverse_kl", lambda p, q, a: kl(q, p), "without any skew"),
    (
        "skew_kl_gradient",
        lambda p, q, a: torch.autograd.functional.jacobian(
            lambda z: kl(p, log_mixture(p, z.log_softmax(-1), a)).sum(), q
        ),
        "the gradient in the logits",
    ),
    (
        "token_log_probs",
        lambda logits, ids: (
            logits[:, :-1].log_softmax(-1).gather(-1, ids[:, :-1, None]).squeeze(-1)
        ),
        "not shifted at all",
    ),
    ("first_stop", lambda ids, stop: ((ids == stop).cumsum(-1) <= 1).sum(-1), "second stop token"),
    (
        "first_stop",
        lambda ids, stop: ((ids == stop).cumsum(-1) == 0).sum(-1) + 1,
        "one token too many",
    ),
    ("masked_mean", lambda x, m: (x * m).sum(-1) / m.sum(-1).clamp(min=1), "holds NaN"),
    (
        "dpkd",
        lambda t, s, lam: lam * dpkd(t, s, 1.0),
        "λ stands outside the sigmoid",
    ),
    (
        "dpkd",
        lambda t, s, lam: (
            1
            + (
                -lam
                * (
                    (t.token_log_q - t.token_log_p).sum(-1)
                    - (s.token_log_q - s.token_log_p).sum(-1)
                )
            ).exp()
        ).log(),
        "padding counts",
    ),
    (
        "adaptive_alpha",
        lambda g, m, a, low, high: (
            torch.full_like(g, a) if m == 0 else adaptive_alpha(g, abs(m), a, low, high)
        ),
        "a mean gap m below 0",
    ),
    (
        "adaptive_alpha",
        lambda g, m, a, low, high: torch.where(g <= 0, low, adaptive_alpha(g, m, a, low, high)),
        "a negative gap while m is not positive",
    ),
    (
        "distillm2",
        lambda t, s, a, b, beta: distillm2(t, s, a, b, 0.7),
        "the values are not",
    ),
    ("distillm2", untrainable(distillm2), "no gradient reaches the student"),
    (
        "distillm2",
        lambda t, s, a, b, beta: (
            (1 - beta) * masked_mean(D.skew_reverse_kl(t.log_p, t.log_q, a), t.mask)
            + beta * masked_mean(D.skew_reverse_kl(s.log_p, s.log_q, b), s.mask)
        )
        / 2,
        "that is DistiLLM",
    ),
    (
        "distillm2",
        lambda t, s, a, b, beta: (
            (1 - beta) * (D.skew_kl(t.log_p, t.log_q, a) * t.mask).sum(-1)
            + beta * (D.skew_reverse_kl(s.log_p, s.log_q, b) * s.mask).sum(-1)
        )
        / 2,
        "sums over the tokens",
    ),
    (
        "win_rate",
        lambda a, b: win_rate(torch.where((a - b).abs() < 0.1, b, a), b),
        "only equal ones do",
    ),
    ("reward_margin", lambda w, l, beta: 0.5 * (log_ratio(w) - log_ratio(l)), "values are not"),
    (
        "reward_margin",
        lambda w, l, beta: (beta * (log_ratio(w) - log_ratio(l))).detach(),
        "no gradient reaches the student",
    ),
    ("best_blind", lambda right: right.double().mean(1).max(-1).values.sum() / 2, "values are not"),
    (
        "rounded",
        lambda w, b, g: torch.cat(
            [
                (part / (part.amax(-1, keepdim=True) / (2 ** (b - 1) - 0.5)))
                .round()
                .clamp(-(2 ** (b - 1)), 2 ** (b - 1) - 1)
                * (part.amax(-1, keepdim=True) / (2 ** (b - 1) - 0.5))
                for part in w.split(g, -1)
            ],
            -1,
        ).nan_to_num(),
        "whose largest weight is negative",
    ),
    (
        "rounded",
        lambda w, b, g: torch.maximum(
            rounded(w, b, g), -(2 ** (b - 1) - 1) * SOLUTIONS["group_steps"](w, b, g).repeat_interleave(g, -1)
        ),
        "the lowest of all",
    ),
    (
        "adapted_layer",
        lambda x, w, a, b: x @ w.T + (x @ a.T.detach()) @ b.T,
        "no gradient reaches A",
    ),
]  # fmt: skip


def with_labels(y, labels):
    labels = torch.zeros_like(y.labels) if isinstance(labels, int) else labels
    return ResponseLogProbs(labels, y.mask, y.log_q, lambda: y.log_p)


@pytest.mark.parametrize(("name", "function", "says"), PLAUSIBLE)
def test_a_plausible_wrong_answer_fails_and_is_told_why(name, function, says):
    result = checks.verdict(EXERCISES[name], function)
    assert not result.passed
    assert says in result.message


@pytest.mark.parametrize("name", EXERCISES)
def test_every_scalar_has_two_values_so_that_none_can_be_typed_in(name):
    exercise = EXERCISES[name]
    cases = [*exercise.cases, *exercise.edges.values()]
    for place, value in enumerate(cases[0]):
        if isinstance(value, float):
            assert len({case[place] for case in exercise.cases}) > 1, f"argument {place}"
        elif isinstance(value, int):
            assert len({case[place] for case in cases}) > 1, f"argument {place}"


def test_the_probability_space_mixture_fails_only_on_the_far_token():
    naive = lambda a, b, alpha: (alpha * a.exp() + (1 - alpha) * b.exp()).log()  # noqa: E731
    message = checks.verdict(EXERCISES["log_mixture"], naive).message
    assert message.startswith("right on ordinary inputs, but for a token 120 nats below")


def test_an_alpha_that_fails_only_at_an_edge_is_told_which():
    def unsigned(gap, m, alpha0, low, high):
        return (1 - (1 - alpha0) * m / gap.detach().abs()).clip(low, high)

    def no_scale(gap, m, alpha0, low, high):
        return torch.where(gap > 0, unsigned(gap, m, alpha0, low, high), low)

    for function, edge in ((unsigned, "a negative gap"), (no_scale, "a mean gap m that is not")):
        message = checks.verdict(EXERCISES["adaptive_alpha"], function).message
        assert message.startswith(f"right on ordinary inputs, but for {edge}")


def test_an_unsolved_stub_prints_the_first_step_and_the_notebook_goes_on(capsys):
    def stub(log_p, log_q):
        raise NotImplementedError

    checks.checker(EXERCISES)("kl", stub)
    assert capsys.readouterr().out.startswith("kl: not solved yet. First step: ")


def test_a_function_that_writes_into_its_inputs_spoils_nothing():
    def vandal(log_p, log_q):
        value = kl(log_p, log_q).clone()
        log_p.data.zero_()
        return value

    assert checks.verdict(EXERCISES["kl"], vandal).passed
    assert checks.verdict(EXERCISES["kl"], kl).passed


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'jsd'"):
        checks.checker(EXERCISES)("jsdd", kl)


def test_within_says_agrees_or_raises(capsys):
    checks.within("lead", torch.tensor([0.11, 0.14]), 0.1, 0.16)
    assert capsys.readouterr().out == "lead: 0.11 to 0.14, expected 0.1 to 0.16: agrees\n"
    checks.within("one number", 3, 2, 4)
    with pytest.raises(AssertionError, match=r"lead: 0\.2, expected 0\.1 to 0\.16: not reproduced"):
        checks.within("lead", 0.2, 0.1, 0.16)
    with pytest.raises(AssertionError):
        checks.within("lead", float("nan"), 0.1, 0.16)
