"""Where responses come from, how often each source is asked, and which slot of a method it feeds."""

import copy

import pytest
import torch

from minidistill import distill, sources
from minidistill.config import DistillConfig
from minidistill.evaluation import make_probe
from minidistill.generation import decode
from minidistill.rollouts import Rollouts
from minidistill.sources import SOURCES, AdaptiveSampler, SamplingContext, resolve_sources
from minidistill.tasks import Task
from minidistill.tokenization import encode_references
from tests.conftest import build_pair

QUICK = {"epochs": 2, "batch_size": 4, "max_new_tokens": 4, "progress": False}


def rollouts(pair, few, slots, **settings):
    return Rollouts(
        pair, few, slots, DistillConfig(**{"max_new_tokens": 4, "batch_size": 4, **settings})
    )


# --- which slot is fed -----------------------------------------------------------------------------
def test_a_method_is_fed_what_its_slots_are_named_after_unless_told_otherwise():
    assert resolve_sources(("tgo", "sgo"), None) == {"tgo": "tgo", "sgo": "sgo"}
    assert resolve_sources(("tgo", "sgo"), {"tgo": "sgo"}) == {"tgo": "sgo", "sgo": "sgo"}


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        ({"sgo": "tgo"}, "no slot 'sgo'; it reads: tgo"),
        ({"tgo": "referense"}, "did you mean 'reference'"),
    ],
)
def test_a_slot_or_a_source_that_is_not_there_is_named(feed, says, pair, few):
    with pytest.raises(ValueError, match=says):
        distill(pair, few, "kd", feed=feed, **QUICK)


@pytest.mark.parametrize("feed", [{"sgo": "tgo"}, {"tgo": "referense"}])
def test_a_config_alone_refuses_such_a_feed(feed):
    """So that a grid of arms is refused when it is written down, not after an hour."""
    with pytest.raises(ValueError, match="no slot|unknown source"):
        DistillConfig("kd", source_overrides=feed)


def test_fed_with_the_other_slots_responses_a_method_reads_exactly_those(pair, few):
    """SKL on student-generated outputs is ImitKD at alpha = 0: the same numbers to the bit."""
    imitkd = distill(build_pair(pair.tokenizer), few, "imitkd", **QUICK)
    fed = distill(build_pair(pair.tokenizer), few, "skl", feed={"tgo": "sgo"}, alpha=0.0, **QUICK)
    assert fed.config.source_overrides == {"tgo": "sgo"}
    assert [s["loss"] for s in fed.steps] == [s["loss"] for s in imitkd.steps]


def test_two_slots_with_one_source_share_its_scores(pair, few):
    both = rollouts(pair, few, {"tgo": "tgo", "sgo": "tgo"})
    both.collect(0)
    scored = both.score([0, 1])
    assert scored["tgo"] is scored["sgo"]


def test_swapped_slots_are_swapped(pair, few):
    plain = rollouts(pair, few, {"tgo": "tgo", "sgo": "sgo"})
    swapped = rollouts(pair, few, {"tgo": "sgo", "sgo": "tgo"})
    for each in (plain, swapped):
        each.collect(0)
    a, b = plain.score([0, 1, 2]), swapped.score([0, 1, 2])
    assert torch.equal(a["tgo"].labels, b["sgo"].labels)
    assert torch.equal(a["sgo"].labels, b["tgo"].labels)
    assert not torch.equal(a["tgo"].labels, b["tgo"].labels)


# --- how often each source is asked ----------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in SOURCES if n != "replay"])
def test_a_source_answers_each_prompt_and_is_asked_as_often_as_it_says(
    pair, few, name, monkeypatch
):
    asked, real = [], SOURCES[name]

    def spy(ask: SamplingContext):
        asked.append(len(ask.prompts))
        return real.generate(ask)

    monkeypatch.setitem(SOURCES, name, sources.Source(spy, real.refresh))
    distill(pair, few, "kd", feed={"tgo": name}, **QUICK)
    assert asked == {"once": [8], "epoch": [8, 8], "step": [4, 4, 4, 4]}[real.refresh]


def test_on_policy_responses_are_those_of_the_student_as_it_is(pair, few):
    run = rollouts(pair, few, {"sgo": "on_policy_sgo"})
    run.collect_step(0, 7, [2, 5], 0.0)
    before = copy.deepcopy(run._step_responses["on_policy_sgo"])
    run.collect_step(0, 7, [2, 5], 0.0)
    assert run._step_responses["on_policy_sgo"] == before  # the same moment, the same draw
    assert set(before) == {2, 5}
    with torch.no_grad():
        for weight in pair.student.parameters():
            weight.mul_(-1.0)
    run.collect_step(0, 7, [2, 5], 0.0)
    assert run._step_responses["on_policy_sgo"] != before


def test_the_best_of_several_is_graded_best_and_needs_a_grader(pair, few):
    grade = lambda prompt, text: float(len(text))  # noqa: E731 the longest wins
    longest = Task("long", few.train, few.test, grade)
    run = rollouts(pair, longest, {"tgo": "best_of_n_tgo"}, max_new_tokens=8)
    run.collect(0)
    plain = rollouts(pair, longest, {"tgo": "tgo"}, max_new_tokens=8)
    plain.collect(0)
    length = lambda r, name: sum(map(len, decode(pair, r.responses[name])))  # noqa: E731
    assert length(run, "best_of_n_tgo") > length(plain, "tgo")
    blind = rollouts(pair, Task("blind", few.train, few.test, None), {"tgo": "best_of_n_tgo"})
    with pytest.raises(ValueError, match="grader"):
        blind.collect(0)


def test_references_change_with_the_epoch(pair, few):
    run = rollouts(pair, few, {"tgo": "reference"})
    for epoch in (0, 1):
        run.collect(epoch)
        assert run.responses["reference"] == encode_references(pair.tokenizer, few.train, epoch)


def test_epsilon_reaches_the_rule(pair, few):
    written = {}
    for epsilon in (0.0, 1.0):
        run = rollouts(pair, few, {"sgo": "speculative_mix"}, epsilon=epsilon)
        run.collect(0)
        written[epsilon] = run.responses["speculative_mix"]
    assert written[0.0] != written[1.0]


def test_a_teacher_that_is_certain_leaves_nothing_to_accept(pair, few):
    """Temperature → 0: every draft but the teacher's own greedy token is forbidden."""
    greedy = {"temperature": 1e-4, "max_new_tokens": 6}
    run = rollouts(pair, few, {"tgo": "tgo", "sgo": "speculative_mix"}, epsilon=1.0, **greedy)
    run.collect(0)
    assert run.responses["speculative_mix"] == run.responses["tgo"]


# --- DistiLLM's replay buffer ------------------------------------------------------------------------
class Asked:
    """A request whose student answers with a mark of the moment."""

    def __init__(self, seed, indices=(0, 1)):
        self.seed, self.indices, self.pair = seed, list(indices), None
        self.pair = type("P", (), {"student": None})

    def sample_responses(self, model):
        return [[100 + self.seed, i] for i in self.indices]


FIXED = [[7, i] for i in range(10)]


def kinds(replay: AdaptiveSampler, moments: int, progress: float) -> dict[str, float]:
    replay.counts.clear()
    for seed in range(moments):
        replay.sample_batch(Asked(seed), FIXED, progress)
    return {kind: n / moments for kind, n in replay.counts.items()}


def test_3_9_phi_rises_by_a_tenth_when_the_validation_loss_does_and_stops_at_one():
    replay = AdaptiveSampler()
    seen = []
    for loss in (1.0, 0.9, 1.1, 1.1, 1.2, 1.0, *range(2, 20)):
        replay.update_phi(loss)
        seen.append(replay.phi)
    assert seen[:6] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert seen[-1] == 1.0


def test_3_9_with_phi_0_all_is_fixed_data():
    replay = AdaptiveSampler()
    assert replay.sample_batch(Asked(3, [4, 2]), FIXED, 0.5) == [(4, [7, 4]), (2, [7, 2])]
    assert kinds(replay, 50, 0.0) == {"fixed": 1.0}
    assert replay.buffer == []


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.9])
def test_3_9_shares_of_fresh_replayed_and_fixed(progress):
    replay = AdaptiveSampler(capacity=4, phi=0.6)
    kinds(replay, 20, progress)  # fills the buffer
    shares = kinds(replay, 3000, progress)
    fresh = 0.6 * (1 - progress)
    assert shares["fresh"] == pytest.approx(fresh, abs=0.03)
    assert shares.get("replayed", 0) == pytest.approx(0.6 - fresh, abs=0.03)
    assert shares["fixed"] == pytest.approx(0.4, abs=0.03)


def test_3_9_the_buffer_keeps_the_newest_and_is_filled_before_it_is_read():
    replay = AdaptiveSampler(capacity=6, phi=1.0)
    for seed in range(3):
        replay.sample_batch(
            Asked(seed), FIXED, 1.0
        )  # at the end of training a full buffer only replays
    assert replay.counts == {"fresh": 3}
    rows = replay.sample_batch(Asked(99), FIXED, 1.0)
    assert replay.counts == {"fresh": 3, "replayed": 1}
    assert all(row in replay.buffer for row in rows)
    replay.sample_batch(Asked(9), FIXED, 0.0)
    assert [y[0] for _, y in replay.buffer] == [101, 101, 102, 102, 109, 109]


def test_3_9_a_replayed_response_comes_with_its_own_prompt(pair, few):
    run = rollouts(pair, few, {"tgo": "tgo", "replay": "replay"})
    run.collect(0)
    run.replay = AdaptiveSampler(capacity=2, phi=1.0, buffer=[(6, [9, 9, 9]), (7, [8])])
    run.collect_step(0, 0, [0, 1, 2], 1.0)
    for i in (0, 1, 2):
        index, response = run._step_responses["replay"][i]
        assert (index, response) in [(6, [9, 9, 9]), (7, [8])]
        batch = run._collate([run._response("replay", i)])
        prompt = batch.input_ids[0, : batch.input_ids.shape[1] - len(response)].tolist()
        assert prompt == run.prompts[index]


def test_3_9_phi_follows_the_held_out_loss_in_a_real_run(pair, few):
    """Twenty looks a run at the NLL of the probe's teacher responses."""
    history = distill(pair, few, "distillm", lr=0.05, **{**QUICK, "epochs": 10})
    phis = [step["phi"] for step in history.steps if "phi" in step]
    assert len(phis) == len(history.steps)
    assert phis == sorted(phis)
    assert phis[-1] > 0


def test_3_9_a_killed_run_resumes_with_its_buffer(tokenizer, few, tmp_path):
    how = {**QUICK, "epochs": 6, "lr": 0.05}
    pair = build_pair(tokenizer)
    probe = make_probe(pair, few, max_new_tokens=4)
    whole = distill(build_pair(tokenizer), few, "distillm", probe=probe, **how)

    def stop(history):
        if len(history.steps) >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            build_pair(tokenizer), few, "distillm", probe=probe, out=tmp_path, callback=stop,
            probe_every=1, **how,
        )  # fmt: skip
    resumed = distill(build_pair(tokenizer), few, "distillm", probe=probe, out=tmp_path, **how)
    assert [s["loss"] for s in resumed.steps] == [s["loss"] for s in whole.steps]
    assert whole.steps[-1]["phi"] > 0
