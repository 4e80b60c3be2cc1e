"""Intervals against their definition and by simulation; verdicts, and how often identical arms get one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, t

from minidistill.experiments import statistics as S
from minidistill.experiments.hypotheses import HYPOTHESES


def table(rng, seeds=10, prompts=150, mean=0.0, seed_sd=0.02, prompt_sd=0.3, sd=0.5):
    """Differences with an effect of the seed, of the prompt and of neither."""
    drawn = rng.normal(size=seeds)[:, None] * seed_sd + rng.normal(size=prompts) * prompt_sd
    return mean + drawn + rng.normal(size=(seeds, prompts)) * sd


def test_over_seeds_it_is_the_t_interval():
    values = [0.1, 0.3, 0.2, 0.6]
    found = S.mean_over_seeds(values)
    low, high = t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert found.mean == pytest.approx(0.3)
    assert found.interval() == pytest.approx((low, high))


def test_the_mean_squares_by_definition():
    d = np.random.default_rng(0).normal(size=(3, 4))
    a, b, m = d.mean(1), d.mean(0), d.mean()
    seeds = 4 * sum((x - m) ** 2 for x in a) / 2
    prompts = 3 * sum((x - m) ** 2 for x in b) / 3
    rest = sum((d[i, j] - a[i] - b[j] + m) ** 2 for i in range(3) for j in range(4)) / 6
    variance = max(seeds + prompts - rest, seeds, prompts) / 12
    found = S.mean_over_seeds_and_prompts(d)
    assert found.mean == pytest.approx(m)
    assert found.se**2 == pytest.approx(variance)
    satterthwaite = (12 * variance) ** 2 / (seeds**2 / 2 + prompts**2 / 3 + rest**2 / 6)
    assert found.df == pytest.approx(min(satterthwaite, 2))


def test_a_table_without_spread_is_known_exactly():
    found = S.mean_over_seeds_and_prompts(np.full((3, 5), 0.25))
    assert (found.mean, found.se) == (0.25, 0.0)
    assert S.decide([found], [0.02])[0].verdict == "replicated"
    assert found.p_value(0.02) == 0
    assert found.p_value(0.25) == 1


@pytest.mark.parametrize("bad", [[[0.1, 0.2]], [[0.1], [0.2]], [0.1, 0.2]])
def test_one_seed_or_one_prompt_has_no_interval(bad):
    with pytest.raises(ValueError, match="at least two seeds and two prompts"):
        S.mean_over_seeds_and_prompts(bad)


def test_one_seed_alone_has_no_interval():
    with pytest.raises(ValueError, match="at least two seeds"):
        S.mean_over_seeds([1.0])


@pytest.mark.parametrize(
    "spread",
    [
        {"seed_sd": 0.02},
        {"seed_sd": 0.1},
        {"prompt_sd": 0.0, "seed_sd": 0.0},
        {"seeds": 4, "seed_sd": 0.1},
    ],
)
def test_the_interval_covers_the_mean_in_19_of_20(spread):
    rng, trials = np.random.default_rng(1), 1000
    ends = [
        S.mean_over_seeds_and_prompts(table(rng, mean=0.3, **spread)).interval()
        for _ in range(trials)
    ]
    missed = sum(not low < 0.3 < high for low, high in ends) / trials
    assert missed < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    if spread.get("prompt_sd", 1) > 0:
        least = 0.02 if spread.get("seeds", 10) == 10 else 0.01  # few seeds: wider on purpose
        assert missed > least, "an interval that never misses is too wide"


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (0.05, "replicated"), (0.0, "no difference that matters"), (0.02, "undecided"),
        (-0.02, "undecided"), (-0.05, "opposite"),
    ],
)  # fmt: skip
def test_where_the_interval_lies_decides(mean, verdict):
    assert S.decide([S.Estimate(mean, 0.005, 9)], [0.02])[0].verdict == verdict


@given(
    st.lists(st.tuples(st.floats(-0.1, 0.1), st.floats(1e-4, 0.05)), min_size=1, max_size=6),
    st.floats(0.001, 0.05),
)
def test_holm_is_the_published_step_down(pairs, smallest):
    """Written out: sort by p, compare with level / (n − k), stop at the first that is not below."""
    estimates = [S.Estimate(mean, se, 9) for mean, se in pairs]
    found = S.decide(estimates, [smallest] * len(estimates))
    p = [e.p_value(smallest) for e in estimates]
    decided, order = set(), sorted(range(len(p)), key=p.__getitem__)
    for k, i in enumerate(order):
        if p[i] >= 0.05 / (len(p) - k):
            break
        decided.add(i)
    close = {
        i for i in range(len(p)) if abs(p[i] - found[i].level) < 1e-9
    }  # on the line: rounding decides
    assert {i for i, d in enumerate(found) if d.verdict != "undecided"} - close == decided - close


def test_one_contrast_alone_gets_the_whole_level_and_the_least_clear_of_two_too():
    clear, unclear = S.Estimate(0.5, 0.01, 9), S.Estimate(0.03, 0.004, 9)
    assert [d.level for d in S.decide([unclear, clear], [0.02, 0.02])] == [0.05, 0.025]


@pytest.mark.parametrize(
    ("verdicts", "claim"),
    [
        (["replicated", "replicated"], "replicated"),
        (["replicated", "undecided"], "undecided"),
        (["undecided", "no difference that matters"], "no difference that matters"),
        (["replicated", "no difference that matters", "opposite"], "opposite"),
    ],
)
def test_a_claim_has_the_verdict_that_speaks_most_against_it(verdicts, claim):
    assert S.combine(verdicts) == claim


def simulated_ledgers(count: int, smallest: float, seeds: int = 10, prompts: int = 120):
    """The verdicts of ledgers whose arms are all alike: each run's grades differ by chance alone."""
    rng = np.random.default_rng(2)
    runs = list(dict.fromkeys(name for claim in HYPOTHESES.values() for name in claim.runs))
    for _ in range(count):
        difficulty, start = rng.normal(size=prompts), 0.3 * rng.normal(size=(seeds, 1))
        own = 0.2 * rng.normal(size=(len(runs), seeds, 1))
        chance = 1 / (1 + np.exp(-(difficulty + start + own)))
        grades = dict(zip(runs, rng.random((len(runs), seeds, prompts)) < chance, strict=True))
        ledger = []
        for claim in HYPOTHESES.values():
            estimates = [
                S.mean_over_seeds_and_prompts(sum(w * grades[n] for n, w in c.weights.items()))
                for c in claim.contrasts
                if abs(sum(c.weights.values())) < 1e-9
            ]
            found = S.decide(estimates, [smallest] * len(estimates))
            ledger.append([d.verdict for d in found])
        yield ledger


@pytest.mark.parametrize("seeds", [4, 10])
def test_identical_arms_are_called_different_in_at_most_one_ledger_of_twenty(seeds):
    ledgers = list(simulated_ledgers(150, 0.02, seeds))
    false = sum(any({"replicated", "opposite"} & set(c) for c in ledger) for ledger in ledgers)
    assert false <= binom.ppf(0.99, len(ledgers), 0.05)  # what one in twenty may come to by chance


def test_without_a_smallest_effect_a_claim_is_called_different_in_one_of_twenty_at_most():
    claims = [
        set(claim) for ledger in simulated_ledgers(60, smallest=0.0) for claim in ledger if claim
    ]
    false = sum(bool({"replicated", "opposite"} & claim) for claim in claims)
    assert false <= binom.ppf(0.99, len(claims), 0.05)
