"""Speculative sampling is exact: proved by counting, and by the wrong variants that the count catches."""

import contextlib
import copy
import itertools
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from transformers import LlamaConfig

from minidistill import divergences as D
from minidistill import load_pair, load_task
from minidistill.applications import speculative as S
from minidistill.applications import speculative_metrics as A
from minidistill.applications.speculative import EXACT, Rule, speculate
from minidistill.evaluation import make_probe
from minidistill.experiments import stages
from minidistill.experiments.stages import TrainedRun, get_hook
from minidistill.generation import sample, speculative_mixture, top_p_filter, typical_acceptance
from minidistill.models import Pair, make_pair
from minidistill.tokenization import encode_prompt
from minidistill.utils import data_dir, derive_seed


def distributions(*shape, seed=0, sharp=2.0, dtype=torch.float64):
    """Target and draft, random, with a few zeros in either."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(2, *shape, generator=rng, dtype=dtype)
    logits[torch.rand(2, *shape, generator=rng) < 0.15] = float("-inf")
    logits[..., 0] = logits[..., 0].clamp(min=-1)
    return logits.softmax(-1)


# --- one token ----------------------------------------------------------------------------------------
def test_13_1_13_2_by_definition():
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.6, 0.0, 0.3])
    assert S.acceptance_probability(p, q).tolist() == pytest.approx([1.0, 0.5, 1.0, 0.0])
    assert S.residual(p, q).tolist() == pytest.approx([0.4 / 0.6, 0.0, 0.2 / 0.6, 0.0])


def test_13_1_13_2_together_say_exactly_the_target():
    p, q = distributions(200, 7)
    torch.testing.assert_close(EXACT.said(p, q), p, rtol=0, atol=1e-14)
    same = EXACT.said(p, p)
    torch.testing.assert_close(same, p, rtol=0, atol=1e-14)
    apart = torch.tensor([[0.0, 0, 0.3, 0.7], [0.4, 0.6, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(EXACT.said(*apart), apart[0])
    one_shared = torch.tensor([[0.0, 0.8, 0.2], [0.9, 0.1, 0]], dtype=torch.float64)
    torch.testing.assert_close(EXACT.said(*one_shared), one_shared[0])


WRONG = {
    "everything stays": Rule(lambda p, q: torch.ones_like(p), S.residual),
    "redrawn from p": Rule(S.acceptance_probability, lambda p, q: p),
    "q over p": Rule(lambda p, q: S.acceptance_probability(q, p), S.residual),
    "residual of q": Rule(S.acceptance_probability, lambda p, q: S.residual(q, p)),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_rule_says_something_else(name):
    p, q = distributions(50, 7, seed=1)
    off = 0.5 * (WRONG[name].said(p, q) - p).abs().sum(-1)
    assert float(off.mean()) > 0.03


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_typical_acceptance_says_what_6_2_says(epsilon):
    p, q = distributions(20, 7, seed=2)
    rule = S.typical_rule(epsilon)
    torch.testing.assert_close(
        rule.said(p, q), speculative_mixture(p, q, typical_acceptance(epsilon))
    )
    with pytest.raises(ValueError, match="epsilon must lie in"):
        S.typical_rule(1.5)


def test_13_3_is_the_overlap_and_what_the_rule_keeps():
    p, q = distributions(100, 7, seed=3)
    overlap = torch.minimum(p, q).sum(-1)
    torch.testing.assert_close(A.acceptance(p.log(), q.log()), overlap)
    torch.testing.assert_close((q * S.acceptance_probability(p, q)).sum(-1), overlap)
    torch.testing.assert_close(1 - D.total_variation(p.log(), q.log()), overlap)


def test_13_5_is_bayes_and_weighed_by_the_target_13_3():
    p, q = distributions(100, 7, seed=4)
    ids = torch.arange(7).expand(100, 7)
    chance = A.posterior_acceptance(*(x.log()[:, None].expand(100, 7, 7) for x in (p, q)), ids)
    possible = p > 0
    by_bayes = torch.where(possible, q * S.acceptance_probability(p, q) / p, 0.0)
    torch.testing.assert_close(torch.where(possible, chance, 0.0), by_bayes)
    torch.testing.assert_close((p * by_bayes).sum(-1), torch.minimum(p, q).sum(-1))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_what_is_sampled_from_is_the_temperature_and_the_nucleus(temperature):
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = S.next_token(logits, temperature, 0.8)
    if temperature == 0:
        wanted = torch.nn.functional.one_hot(logits.argmax(-1), 9).double()
    else:
        wanted = top_p_filter(logits / temperature, 0.8)
        assert (found == 0).any()
    torch.testing.assert_close(found, wanted)


# --- closed forms -------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_13_4_13_7_against_the_mean_over_all_outcomes(rate, length):
    mean = 0.0
    for stays in itertools.product((True, False), repeat=length):
        chance = torch.tensor([rate if stay else 1 - rate for stay in stays]).prod()
        kept = next((i for i, stay in enumerate(stays) if not stay), length)
        mean += float(chance) * (kept + 1)
    assert float(A.tokens_per_call(rate, length)) == pytest.approx(mean, abs=1e-6)
    if rate < 1:
        assert mean == pytest.approx((1 - rate ** (length + 1)) / (1 - rate), abs=1e-6)
    faster = float(A.speed_up(rate, length, cost=0.2, reading=1.3))
    assert faster == pytest.approx(mean / (0.2 * length + 1.3), abs=1e-6)


def test_13_4_refuses_a_rate_that_is_no_chance():
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], but got 1.2"):
        A.tokens_per_call(1.2, 4)


def brute_force(stay: list[float], length: int, limit: int) -> tuple[float, float, float, float]:
    """Calls, drafted, tested and accepted of one response, by trying out every coin."""
    total = torch.zeros(4, dtype=torch.float64)
    for coins in itertools.product((True, False), repeat=len(stay)):
        chance, t, counts = 1.0, 0, torch.zeros(4, dtype=torch.float64)
        for coin, s in zip(coins, stay, strict=True):
            chance *= s if coin else 1 - s
        while t < len(stay):
            ahead = min(length, limit - t - 1)
            tested = coins[t : t + ahead]
            kept = next((i for i, coin in enumerate(tested) if not coin), len(tested))
            counts += torch.tensor([1, ahead, min(kept + 1, len(tested)), kept])
            t += kept + 1
        total += chance * counts
    return tuple(total.tolist())


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7])
def test_13_6_against_every_coin(length):
    rng = torch.Generator().manual_seed(5)
    lengths, limit = (5, 2, 1, 4), 5
    stay = torch.rand(4, 5, generator=rng, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    rows = [brute_force(stay[i, :n].tolist(), length, limit) for i, n in enumerate(lengths)]
    calls, drafted, tested, accepted = (sum(column) for column in zip(*rows, strict=True))
    found = A.expected_counts(stay, mask, length, limit)
    assert found.calls == pytest.approx(calls)
    assert found.drafted == pytest.approx(drafted)
    assert sum(found.reached) == pytest.approx(tested)
    assert sum(found.stayed) == pytest.approx(accepted)
    assert found.tokens == sum(lengths)
    assert found.tokens_per_call == pytest.approx(sum(lengths) / calls)


def test_13_6_with_one_rate_for_all_is_13_4():
    stay = torch.full((1, 4000), 0.7)
    found = A.expected_counts(stay, torch.ones(1, 4000, dtype=torch.bool), 4, 5000)
    assert found.tokens_per_call == pytest.approx(float(A.tokens_per_call(0.7, 4)), rel=2e-3)
    assert found.rate == pytest.approx(0.7, abs=1e-3)


# --- the proof: whole sequences, counted --------------------------------------------------------------
class TableModel(torch.nn.Module):
    """A causal model whose logits depend on the *whole* text, which it knows from its cache alone."""

    def __init__(
        self, seed: int, vocab_size: int = 4, sharp: float = 1.5, forbid: dict | None = None
    ):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.config = LlamaConfig(num_hidden_layers=1, vocab_size=vocab_size)
        self.generation_config = SimpleNamespace(eos_token_id=0)
        self.seed, self.vocab_size, self.sharp, self.forbid = seed, vocab_size, sharp, forbid or {}
        self.table = {}

    @property
    def device(self):
        return self.unused.device

    def logits(self, text: tuple[int, ...]) -> torch.Tensor:
        if text not in self.table:
            rng = torch.Generator().manual_seed(hash((self.seed, text)) % 2**31)
            row = self.sharp * torch.randn(self.vocab_size, generator=rng)
            row[self.forbid.get(len(text), [])] = float("-inf")
            self.table[text] = row
        return self.table[text]

    def forward(self, input_ids, past_key_values=None, use_cache=True, logits_to_keep=1):
        ids = input_ids.float()[:, None, :, None]
        text = past_key_values.update(ids, ids, 0)[0].flatten().long().tolist()
        rows = [tuple(text[: len(text) - i]) for i in reversed(range(logits_to_keep))]
        return SimpleNamespace(logits=torch.stack([self.logits(row) for row in rows])[None])


def table_pair(**target) -> Pair:
    """Two models that have nothing to do with each other."""
    tokenizer = SimpleNamespace(eos_token_id=0, pad_token_id=0)
    return Pair(TableModel(1, **target), TableModel(2), tokenizer, 4)


def exact_chances(model, prompt: tuple[int, ...], tokens: int, top_p=1.0) -> dict:
    """Every response up to its stop token 0, with its probability under the model, in float64."""
    chances = {}

    def grow(text, chance):
        response = text[len(prompt) :]
        if len(response) == tokens or (response and response[-1] == 0):
            chances[response] = chance
            return
        row = S.next_token(model.logits(text).double(), 1.0, top_p)
        for token, share in enumerate(row.tolist()):
            if share > 0:
                grow((*text, token), chance * share)

    grow(prompt, 1.0)
    return chances


def surprise(pair, draws: int, tokens: int = 3, rule=EXACT, top_p=1.0, **how) -> float:
    """p-value of the counted responses under the target's own distribution; rare ones are pooled."""
    chances = exact_chances(pair.teacher, (1, 2), tokens, top_p)
    assert sum(chances.values()) == pytest.approx(1)
    how |= {"max_new_tokens": tokens, "rule": rule, "top_p": top_p}
    found = Counter(
        tuple(speculate(pair, [1, 2], seed=seed, **how).tokens) for seed in range(draws)
    )
    if not set(found) <= set(chances):
        return 0.0  # the target never says this
    common = [y for y, chance in chances.items() if chance * draws >= 5]
    counts = [found[y] for y in common]
    wanted = [chances[y] * draws for y in common]
    rest = draws - sum(wanted)
    if rest >= 1:
        counts, wanted = [*counts, draws - sum(counts)], [*wanted, rest]
    return float(stats.chisquare(counts, wanted, sum_check=False).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("draft_length", [1, 3])
def test_20_000_responses_have_the_targets_distribution(draft_length):
    pair = table_pair()
    apart = D.total_variation(
        *(m.logits((1, 2)).log_softmax(-1) for m in (pair.teacher, pair.student))
    )
    assert apart > 0.3  # the draft is a poor one
    assert surprise(pair, 20_000, draft_length=draft_length) > 0.001


@pytest.mark.parametrize("draft_length", [0, 2, 6])
def test_fewer_responses_of_four_tokens_at_other_draft_lengths(draft_length):
    assert surprise(table_pair(), 3000, tokens=4, draft_length=draft_length) > 0.001


def test_the_nucleus_of_both_models_is_exact_too():
    assert surprise(table_pair(sharp=0.5), 3000, top_p=0.8, draft_length=2) > 0.001


@pytest.mark.parametrize("name", [*WRONG, "typical"])
def test_the_count_can_fail(name):
    """Each wrong rule, and typical acceptance, is told from the target by the same test."""
    rule = WRONG.get(name) or S.typical_rule(0.3)
    assert surprise(table_pair(), 3000, draft_length=2, rule=rule) < 1e-6


def test_the_count_sees_a_cache_that_is_not_cropped(monkeypatch):
    monkeypatch.setattr(S, "check_rollback", lambda model: None)  # it would see it at once
    monkeypatch.setattr(S.CachedModel, "forget", lambda self, length: None)
    # Where what was rejected is still there nothing may be new, and it cannot even run.
    with contextlib.suppress(RuntimeError, IndexError):
        assert surprise(table_pair(), 1000, draft_length=2) < 1e-6


def test_a_draft_that_shares_one_token_with_the_target_changes_nothing():
    """At the first place the target never says 1 or 2, and the draft's favourites are those."""
    pair = table_pair(forbid={2: [1, 2]})
    pair.student.forbid = {2: [0]}
    written = [speculate(pair, [1, 2], max_new_tokens=1, seed=i).tokens for i in range(50)]
    assert {y[0] for y in written} <= {0, 3}
    assert surprise(pair, 2000, tokens=2, draft_length=1) > 0.001


# --- real models, with their caches -------------------------------------------------------------------
@pytest.mark.parametrize("draft_length", [0, 1, 2, 5, 9])
def test_greedy_is_the_targets_own_greedy_response(shared_pair, prompts, draft_length):
    own = sample(shared_pair.teacher, prompts[:8], shared_pair, temperature=0, max_new_tokens=12)
    how = {"draft_length": draft_length, "temperature": 0, "max_new_tokens": 12}
    assert [speculate(shared_pair, x, **how).tokens for x in prompts[:8]] == own


class Rereader(S.CachedModel):
    """The same without a cache: all of the text, every time."""

    def ahead(self, text, last=1):
        ids = torch.tensor([text])
        logits = self.model(input_ids=ids, use_cache=False).logits[0, -last:, : self.vocab_size]
        return S.next_token(logits.float(), *self.how)

    def forget(self, length):
        pass


def test_the_cache_changes_nothing(shared_pair, prompts, monkeypatch):
    long = [i for x in prompts for i in x][:90]
    how = {"draft_length": 3, "max_new_tokens": 20}
    cached = [speculate(shared_pair, x, seed=1, **how) for x in (*prompts[:6], long)]
    monkeypatch.setattr(S, "CachedModel", Rereader)
    assert [speculate(shared_pair, x, seed=1, **how) for x in (*prompts[:6], long)] == cached
    assert any(r.kept < 3 for w in cached for r in w.rounds)  # caches were cropped


def test_a_draft_that_is_the_target_is_always_kept(shared_pair, prompts):
    pair = Pair(
        shared_pair.teacher,
        copy.deepcopy(shared_pair.teacher),
        shared_pair.tokenizer,
        shared_pair.vocab_size,
    )
    for seed, prompt in enumerate(prompts[:6]):
        written = speculate(pair, prompt, draft_length=4, max_new_tokens=20, seed=seed)
        assert written.accepted == written.tested
        assert all(len(r.tokens) == 5 for r in written.rounds[:-1])


def always(token: int, vocab_size: int = 4) -> TableModel:
    """A model that says one word."""
    return TableModel(
        0, forbid={n: [i for i in range(vocab_size) if i != token] for n in range(99)}
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8])
def test_a_limit_inside_a_draft(limit):
    tokenizer = SimpleNamespace(eos_token_id=0, pad_token_id=0)
    pair = Pair(always(3), always(3), tokenizer, 4)
    written = speculate(pair, [1], draft_length=4, max_new_tokens=limit)
    assert written.tokens == [3] * limit
    assert all(len(r.tokens) == len(r.drafted) + 1 for r in written.rounds)


def test_a_stop_token_inside_a_draft_ends_the_response():
    tokenizer = SimpleNamespace(eos_token_id=0, pad_token_id=0)
    both = TableModel(0, forbid={n: [0, 1, 2] if n < 3 else [1, 2, 3] for n in range(99)})
    pair = Pair(both, copy.deepcopy(both), tokenizer, 4)
    written = speculate(pair, [1], draft_length=5)
    assert written.tokens == [3, 3, 0]
    assert written.rounds == (S.Round((3, 3, 0, 0, 0), 3, None),)
    assert (written.drafted, written.accepted, written.tested) == (5, 3, 3)


def test_a_stop_token_in_the_prompt_does_not_end_the_response():
    pair = Pair(always(3), always(3), SimpleNamespace(eos_token_id=0, pad_token_id=0), 4)
    assert speculate(pair, [1, 0], max_new_tokens=2).tokens == [3, 3]


def test_tokens_that_only_the_target_has_are_never_said(tokenizer, shared_pair, prompts):
    wide = copy.deepcopy(shared_pair.teacher)
    wide.resize_token_embeddings(len(tokenizer) + 64, mean_resizing=False)
    with pytest.warns(UserWarning, match="are cut to"):
        pair = make_pair(wide, tokenizer, shared_pair.student, tokenizer)
    written = speculate(pair, prompts[0], max_new_tokens=30, temperature=5.0)
    assert max(t for r in written.rounds for t in (*r.drafted, *r.tokens)) < len(tokenizer)


def test_the_same_seed_says_the_same_and_leaves_the_world_alone(shared_pair, prompts):
    shared_pair.student.train()
    before = torch.random.get_rng_state()
    one, again, other = (speculate(shared_pair, prompts[0], seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one == again != other
    assert shared_pair.student.training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"draft_length": -1}, "draft_length must be a whole number from 0, but got -1"),
        ({"draft_length": 2.5}, "draft_length must be a whole number from 0, but got 2.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1, but got 0"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"prompt": []}, "prompt must hold at least one token id"),
    ],
)
def test_numbers_that_cannot_be_are_refused(shared_pair, prompts, wrong, message):
    arguments = {"prompt": prompts[0], **wrong}
    with pytest.raises(ValueError, match=message):
        speculate(shared_pair, **arguments)


def test_without_a_teacher_there_is_no_target(shared_pair, prompts):
    alone = Pair(None, shared_pair.student, shared_pair.tokenizer, shared_pair.vocab_size)
    with pytest.raises(ValueError, match="it is the target"):
        speculate(alone, prompts[0])


def test_logits_that_are_no_numbers_stop_it(pair, prompts):
    with torch.no_grad():
        pair.student.model.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        speculate(pair, prompts[0])


# --- what the ledger measures -------------------------------------------------------------------------
def shipped(draft: str = "draft_0") -> Pair:
    folder = data_dir() / "instruct"
    return load_pair("instruct", teacher=folder / "target", student=folder / draft)


@pytest.fixture(scope="module")
def shipped_pair():
    return shipped()


@pytest.mark.slow
def test_13_6_is_what_real_runs_count(shipped_pair):
    """Expected counts on responses of the target against counts of 200 responses that were speculated."""
    task = load_task("instruct")
    asked = [encode_prompt(shipped_pair.tokenizer, e.prompt) for e in task.test[:200]]
    seen = A.score_responses(
        shipped_pair, asked, sample(shipped_pair.teacher, asked, shipped_pair, seed=7)
    )
    real = A.count_rounds([speculate(shipped_pair, x, seed=i) for i, x in enumerate(asked)], 4)
    expected = seen.counts(4)
    error = (expected.acceptance * (1 - expected.acceptance) / real.drafted) ** 0.5
    assert (
        abs(real.acceptance - expected.acceptance) < 5 * error
    )  # drafts of one response are alike
    assert real.tokens_per_call == pytest.approx(expected.tokens_per_call, rel=0.05)
    assert real.rate == pytest.approx(expected.rate, abs=0.03)


def test_counted_by_hand():
    rounds = (S.Round((5, 6), 1, 7), S.Round((8, 9), 2, 4), S.Round((3, 0), 1, None))
    found = A.count_rounds([S.SpeculativeOutput(rounds)], 2)
    assert found == A.Counts(6.0, 3.0, 6.0, (3.0, 2.0), (3.0, 1.0))
    assert found.acceptance == pytest.approx(4 / 6)
    assert found.rate == pytest.approx(4 / 5)


def test_the_stage_measures_what_it_says(pair, task):
    probe = make_probe(pair, task, size=12, seed=0, temperature=1.0)
    trained = TrainedRun(pair, task, probe, 5, {}, lambda: pair, lambda count, seed: [])
    found = get_hook("draft").after_training(trained, sampled=3)
    json.dumps(found)
    written = sample(pair.teacher, probe.prompts, pair, seed=derive_seed(5, "target"))
    seen = A.score_responses(pair, probe.prompts, written)
    assert found["scores"]["acceptance"] == seen.counts(4).acceptance
    assert found["draft"]["overlap"] == pytest.approx(
        float(torch.minimum(seen.log_p.exp(), seen.log_q.exp()).sum(-1)[seen.mask].mean())
    )
    assert set(found["draft"]["by_length"]) == {str(n) for n in stages.DRAFT_LENGTHS}
    assert found["draft"]["sampled"]["calls"] >= 3
    other = get_hook("draft").after_training(replace(trained, seed=6), sampled=1)
    assert other["draft"]["overlap"] != found["draft"]["overlap"]  # other responses


def test_responses_past_the_limit_of_rows_are_left_out(pair, task):
    probe = make_probe(pair, task, size=6, seed=0, temperature=1.0)
    assert A.score_responses(pair, probe.prompts, probe.tgo, rows=4).labels.shape[0] == 4
