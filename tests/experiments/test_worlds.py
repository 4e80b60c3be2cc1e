"""The worlds' splits: nothing twice, nothing in two, families in the same shares; starts stopped early."""

import random
from collections import Counter

import pytest

from minidistill.experiments import teaching, worlds
from minidistill.experiments.worlds import SPLITS, WORLD_RECIPES, load_split
from minidistill.models import load_pair, single_model
from minidistill.tasks import Example, get_world, load_task

SHIPPED = [w for w in WORLD_RECIPES if (worlds.world_dir(w) / "teacher").is_dir()]


def test_there_are_worlds():
    assert "instruct" in SHIPPED


@pytest.mark.parametrize("world", SHIPPED)
def test_no_prompt_stands_twice_and_none_in_two_splits(world):
    found = {split: [(e.prompt, e.image) for e in load_split(world, split)] for split in SPLITS}
    assert tuple(map(len, found.values())) == WORLD_RECIPES[world].sizes
    assert len(found["test"]) >= 1000
    everything = [asked for asks in found.values() for asked in asks]
    assert len(everything) == len(set(everything))


@pytest.mark.slow
def test_no_request_for_a_program_stands_in_two_splits_whatever_its_wording():
    world = get_world("program")
    found = [{world.question(e) for e in part} for part in worlds.write_splits("program").values()]
    for i, ours in enumerate(found):
        assert not any(ours & theirs for theirs in found[i + 1 :])


@pytest.mark.parametrize("world", SHIPPED)
def test_families_have_the_same_shares_in_each_split(world):
    family = get_world(world).family
    shares = {
        split: {name: n / len(part) for name, n in Counter(map(family, part)).items()}
        for split in SPLITS
        if (part := load_split(world, split))
    }
    for name, share in shares["distill"].items():
        for split in SPLITS:
            assert shares[split].get(name, 0) == pytest.approx(share, abs=0.01), (split, name)


@pytest.mark.parametrize("world", SHIPPED)
def test_the_shipped_splits_are_what_the_grammar_writes(world):
    assert worlds.write_splits(world) == {split: load_split(world, split) for split in SPLITS}


def test_dealing_keeps_wordings_together_and_sizes_exact():
    examples = [
        Example(f"{kind} {i} {way}") for kind in "ab" for i in range(30) for way in range(3)
    ]
    family, question = (lambda e: e.prompt[0]), (lambda e: e.prompt.rpartition(" ")[0])
    parts = worlds.deal_by_family(examples, family, question, (108, 72), random.Random(0))
    assert list(map(len, parts)) == [108, 72]
    assert not {question(e) for e in parts[0]} & {question(e) for e in parts[1]}
    assert Counter(map(family, parts[1])) == {"a": 36, "b": 36}


def test_more_prompts_than_are_shipped_are_other_ones():
    shipped = {e.prompt for split in SPLITS for e in load_split("instruct", split)}
    more = worlds.more_prompts("instruct", 40)
    assert len({e.prompt for e in more} - shipped) == 40
    assert all(e.references for e in more)


def test_a_grammar_that_has_no_more_prompts_says_so(monkeypatch):
    class Dull:
        def write_prompt(self, rng):
            return rng.choice(["one", "two"])

    monkeypatch.setattr(worlds, "get_world", lambda name: Dull())
    monkeypatch.setattr(worlds, "DRAWS_WITHOUT_NEWS", 50)
    fresh = worlds.unique_prompts("dull", 0)
    assert {next(fresh).prompt, next(fresh).prompt} == {"one", "two"}
    with pytest.raises(RuntimeError, match="no more than 2 different prompts"):
        next(fresh)


def test_a_picture_is_asked_about_once(monkeypatch):
    class Gallery:
        def write_prompt(self, rng):
            return Example(
                rng.choice(["what ?", "where ?"]), image=rng.choice(["one", "two", "three"])
            )

    monkeypatch.setattr(worlds, "get_world", lambda name: Gallery())
    fresh = worlds.unique_prompts("gallery", 0, [Example("when ?", image="two")])
    assert {next(fresh).image, next(fresh).image} == {"one", "three"}


def test_an_unknown_split_or_world_is_named():
    with pytest.raises(ValueError, match="unknown split 'train'"):
        load_split("instruct", "train")
    with pytest.raises(ValueError, match="did you mean 'instruct'"):
        load_split("instrct", "test")


@pytest.mark.parametrize("world", SHIPPED)
def test_a_task_trains_on_what_is_there_to_distil_on_and_tests_on_the_test_split(world):
    task = load_task(world)
    assert task.train == load_split(world, "distill")
    assert task.test == load_split(world, "test")
    assert worlds.load_world(world, "validation").test == load_split(world, "validation")


def test_a_pair_has_the_start_that_is_asked_for():
    weights = [
        load_pair("instruct", start=start).student.get_input_embeddings().weight for start in (0, 2)
    ]
    assert not weights[0].equal(weights[1])
    drawn = worlds.load_start("instruct", 5).student.get_input_embeddings().weight
    assert weights[1].equal(drawn)


def test_a_seed_draws_its_start():
    weights = [
        worlds.load_start("instruct", seed).student.get_input_embeddings().weight
        for seed in (0, 1, 3)
    ]
    assert weights[0].equal(weights[2])
    assert not weights[0].equal(weights[1])


@pytest.mark.parametrize("start", range(worlds.STARTS))
@pytest.mark.parametrize("world", SHIPPED)
def test_a_start_is_stopped_before_it_knows_its_own_prompts_better(world, start):
    pair = worlds.load_start(world, start)
    own, test = (load_split(world, split)[:1000] for split in ("sft", "test"))
    reader = getattr(pair, "processor", pair.tokenizer)  # of words, or of pictures too
    seen, fresh = (
        teaching.greedy_accuracy(get_world(world), single_model(pair.student, reader), part)
        for part in (own, test)
    )
    assert seen - fresh < 0.05 + 0.03  # five points, and what 1,000 prompts leave open
    assert 0.05 < fresh < 0.6
