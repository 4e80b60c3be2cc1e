"""What lesson 11 computes and draws, the arms and contrasts of C13, and the command."""

import json
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from minidistill import load_pair, load_task
from minidistill.applications.vision import image_ablation as ablation
from minidistill.experiments.arms import world_of
from minidistill.experiments.hypotheses import get_hypothesis
from minidistill.experiments.worlds import world_dir
from minidistill.lessons import plots as course_plots
from minidistill.logprobs import collate, response_log_probs
from minidistill.tasks import Example
from minidistill.tasks.grammar import join
from minidistill.tasks.vision import WORLD, accuracy_by_family, grade_by_family, scenes
from minidistill.tokenization import encode_response
from tests import commands

pytest.importorskip("PIL.Image", reason="pictures need pillow")
from minidistill.lessons import lesson_11_vision as lesson_11

SCENE = lesson_11.TWO


@pytest.fixture(scope="module")
def pair():
    return load_pair("vision")


@pytest.fixture(scope="module")
def task():
    return load_task("vision")


# --- equations ----------------------------------------------------------------------------------------
def test_11_1_patches_are_what_the_vision_tower_embeds(pair, task):
    """A patch embedding is a matrix times the rows of (11.1)."""
    pixels = ablation.encode_prompts(pair, task.test[:1])[0].pixel_values
    layer = pair.teacher.model.vision_tower.embeddings.patch_embedding
    rows = ablation.patches(pixels[0].double(), scenes.CELL)
    assert rows.shape == (9, 3 * scenes.CELL**2)
    matrix = layer.weight.double().flatten(1)
    wanted = layer.double()(pixels.double()).flatten(2)[0].T
    layer.float()
    torch.testing.assert_close(rows @ matrix.T, wanted)


def test_11_1_patches_by_hand():
    picture = torch.arange(24.0).reshape(1, 4, 6)
    rows = ablation.patches(picture, 2)
    assert rows.tolist()[0] == [0, 1, 6, 7]
    assert rows.tolist()[2] == [4, 5, 10, 11]
    assert rows.tolist()[3] == [12, 13, 18, 19]
    with pytest.raises(ValueError, match="4 × 6 pixels cannot be cut into squares of 4"):
        ablation.patches(picture, 4)


def test_11_3_the_gain_is_the_difference_of_two_log_probs_per_token(pair, task):
    examples = task.test[:5]
    prompts = ablation.encode_prompts(pair, examples)
    responses = [encode_response(pair.tokenizer, e.references[0]) for e in examples]
    for how in ablation.IMAGE_ABLATIONS:
        found = ablation.image_log_prob_gain(pair.teacher, pair, prompts, responses, how)
        for i, y in enumerate(responses):
            rows = []
            for x in (prompts[i], ablation.ablate_image(prompts, how)[i]):
                with torch.no_grad():
                    log_p = response_log_probs(pair.teacher, collate([x], [y], 0), pair.vocab_size)
                rows.append(log_p[0, range(len(y)), y].double().mean())
            assert float(found[i]) == pytest.approx(float(rows[0] - rows[1]), abs=1e-4)
    assert ablation.image_log_prob_gain(pair.teacher, pair, [], []).shape == (0,)


def test_11_3_the_shipped_teacher_looks_and_gains_most_from_its_own_image(pair, task):
    prompts = ablation.encode_prompts(pair, task.test[:60])
    responses = [encode_response(pair.tokenizer, e.references[0]) for e in task.test[:60]]
    gains = [
        ablation.image_log_prob_gain(m, pair, prompts, responses).mean()
        for m in (pair.teacher, pair.student)
    ]
    assert gains[0] > gains[1] > 0.05


def test_11_2_text_only_upper_bound_by_hand():
    right = {
        "colour ?": [["red"], ["red", "blue"], ["blue"], ["red"]],
        "count ?": [["one"], ["two"]],
    }
    assert lesson_11.text_only_upper_bound(right) == pytest.approx((3 + 1) / 6)
    assert lesson_11.text_only_upper_bound({"x": [["a"]]}) == 1
    assert lesson_11.text_only_upper_bound({"x": [["a", "a"], ["b"]]}) == 0.5, (
        "said twice is right once"
    )
    assert lesson_11.text_only_upper_bound({"x": [[], []]}) == 0
    assert lesson_11.text_only_upper_bound({}) == 0
    fresh = {"colour ?": [["blue"], ["red"]], "count ?": [["one"]], "never asked ?": [["x"]]}
    assert lesson_11.text_only_upper_bound(right, fresh) == pytest.approx((1 + 1) / 3), (
        "red, and one"
    )


def spoken(question: str, fact: str) -> str:
    """A fact in a wording that the judge reads."""
    kind, words = question.split()[0], fact.split()
    if kind == "what":
        return f"a {fact} ."
    if kind == "name":
        return f"{join([f'a {name}' for name in fact.split(', ')])} ."
    if kind == "count":
        return f"{words[0]} ."
    return f"more {words[1]} , {words[0]} to {words[2]} ." if kind == "compare" else f"{fact} ."


def test_11_2_the_gold_answers_are_those_that_the_judge_accepts():
    rng, facts = random.Random(4), {}
    for _ in range(400):
        prompt = WORLD.write_prompt(rng)
        question, right = lesson_11.gold_answers(prompt)
        facts.setdefault(question.split()[0], set()).update(right)
        accepted = {spoken(question, fact) for fact in right}
        for text in {spoken(question, fact) for fact in facts[question.split()[0]]}:
            assert (WORLD.judge(prompt, text).grade == 1) == (text in accepted), (prompt, text)
    assert len(facts) == 6


def test_11_2_language_priors_are_bounds_by_family_that_no_blind_answer_exceeds(pair, task):
    found = lesson_11.language_prior_accuracy(12_000)
    assert list(found) == [*WORLD.families, "all"]
    assert found["all"] == pytest.approx(sum(found[n] for n in WORLD.families) / 6)
    blind = grade_by_family(
        task, ablation.generate_responses(pair.teacher, pair, task.test, "grey")
    )
    assert blind["all"] < found["all"] < 0.25
    assert found["what"] < 0.1 < found["count"] < 0.4
    assert abs(found["where"] - 1 / 9) < 0.05, "nine places, hardly any likelier than another"


# --- ablation -----------------------------------------------------------------------------------------
def test_an_ablated_prompt_gets_background_or_the_image_of_another(pair, task):
    prompts = ablation.encode_prompts(pair, task.test[:4])
    grey, moved = (ablation.ablate_image(prompts, how) for how in ablation.IMAGE_ABLATIONS)
    assert [[*x] for x in grey] == [[*x] for x in moved] == [[*x] for x in prompts]
    assert not torch.cat([x.pixel_values for x in grey]).any()
    for i, x in enumerate(moved):
        assert torch.equal(x.pixel_values, prompts[i - 1].pixel_values)
    with pytest.raises(ValueError, match="did you mean 'shuffled'"):
        ablation.ablate_image(prompts, "shufled")


def test_the_shipped_pair_is_worth_distilling_and_neither_is_right_without_looking(pair, task):
    few = replace(task, test=task.test[:200])
    scores = {
        (who, blind): grade_by_family(
            few, ablation.generate_responses(model, pair, few.test, blind)
        )["all"]
        for who, model in (("teacher", pair.teacher), ("student", pair.student))
        for blind in ("", *ablation.IMAGE_ABLATIONS)
    }
    assert scores["teacher", ""] > 0.9
    assert 0.2 < scores["student", ""] < 0.6
    for who in ("teacher", "student"):
        for blind in ablation.IMAGE_ABLATIONS:
            assert scores[who, blind] < 0.2


# --- scores by family ---------------------------------------------------------------------------------
def test_scores_by_family_count_full_grades_alone():
    ask = [
        Example(text, image=SCENE)
        for text in ("how many circles are there ?", "count the rings", "find the red circle")
    ]
    found = accuracy_by_family(ask, [1, 2 / 3, 1])
    assert found == {"count": 0.5, "where": 1, "all": pytest.approx(2 / 3)}


def test_logged_scores_are_those_of_greedy_responses_seed_by_seed(tmp_path, task):
    rows = []
    for seed in (1, 0):
        grades = [str(3 * seed) * 1000, "0" * 1000]  # as logs keep them, in thirds
        rows.append({"run": {"name": "vision/gkd", "seed": seed}, "scores": {}, "grades": grades})
    (tmp_path / "vision.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = lesson_11.logged_accuracy(task, tmp_path)
    assert list(found) == ["gkd"]
    assert [row["all"] for row in found["gkd"]] == [0, 1]
    assert set(found["gkd"][0]) == {"colour", "where", "what", "count", "compare", "name", "all"}
    sampled = lesson_11.logged_accuracy(task, tmp_path, row=1)["gkd"]
    assert [row["all"] for row in sampled] == [0, 0]


# --- one image, edited --------------------------------------------------------------------------------
def test_a_scene_is_edited_in_one_shape_alone():
    moved = lesson_11.edit_scene(SCENE, 2, row="top", column="right")
    assert scenes.parse_scene(moved)[:2] == scenes.parse_scene(SCENE)[:2]
    assert scenes.parse_scene(moved)[2].place == ("top", "right")
    assert moved.startswith("scene:7:"), "the same ground and tints"
    with pytest.raises(ValueError, match="two shapes in one place"):
        lesson_11.edit_scene(SCENE, 2, row="top", column="left")
    with pytest.raises(ValueError, match="a shape reads"):
        lesson_11.edit_scene(SCENE, 2, colour="beige")


def test_the_next_word_follows_the_picture_and_the_mixture_mixes(pair):
    for colour in ("green", "purple"):
        scene = lesson_11.edit_scene(
            lesson_11.edit_scene(SCENE, 0, colour=colour), 2, colour=colour
        )
        example = Example(lesson_11.QUESTION, image=scene)
        found = lesson_11.next_token_distributions(pair, example, lesson_11.BEGUN, 0.25)
        word = pair.tokenizer.convert_tokens_to_ids(colour)
        assert int(found["teacher"].argmax()) == word
        mixed = 0.25 * found["teacher"] + 0.75 * found["student"]
        torch.testing.assert_close(found["mixture"], mixed, rtol=1e-4, atol=1e-6)
        assert float(found["teacher"].sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("values", [(0, 0, 0.0), (2, 4, 0.1), (5, 6, 1.0)])
def test_the_slider_answers_at_both_ends_and_in_the_middle(pair, values):
    picture = lesson_11.colour_explorer(pair)(*values)
    left, right = picture.axes
    assert right.get_ylim() == (0, 1)
    assert list(scenes.COLOURS)[values[0]] in left.get_title(loc="left")
    assert len(course_plots.png(picture, 80)) > 1000


# --- drawings -----------------------------------------------------------------------------------------
def test_a_gallery_shows_every_picture_with_all_that_was_said(task):
    said = {"teacher": ["yes ."] * 5, "student": [e.references[0] for e in task.test[:5]]}
    figure = lesson_11.gallery(task.test[:5], said, task.grade)
    texts = ["\n".join(t.get_text() for t in ax.texts) for ax in figure.axes]
    texts = [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]
    assert sum("asked:" in text for text in texts) == 5
    assert all("– teacher: yes ." in text and "+ student:" in text for text in texts[:5])
    assert [len(ax.images) for ax in figure.axes] == [1] * 5 + [0] * 3


def test_patches_are_drawn_in_reading_order(task):
    axes = course_plots.axes(2)
    lesson_11.draw_patches(axes, SCENE, scenes.CELL, "(11.1)")
    assert [t.get_text() for t in axes[1].texts] == [str(n) for n in range(1, 10)]
    first, sixth = (axes[1].images[i].get_array() for i in (0, 5))
    assert first.mean() != sixth.mean()


def test_family_bars_carry_their_spread():
    rows = {
        "start": [{"count": 0.2, "all": 0.3}, {"count": 0.4, "all": 0.3}],
        "gkd": [{"count": 0.5, "all": 0.6}],
    }
    ax = lesson_11.draw_families(course_plots.axes(), rows, "accuracy", "x")
    assert sorted(round(p.get_height(), 2) for p in ax.patches) == [0.3, 0.3, 0.5, 0.6]
    assert len(ax.collections) == 2, "a whisker where there are two seeds"
    guess = {"count": 0.25, "all": 0.2}
    ax = lesson_11.draw_families(course_plots.axes(), rows, "accuracy", "x", guess)
    assert [float(line[0][1]) for line in ax.collections[-1].get_segments()] == [0.25, 0.2]
    assert "best guess" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_gains_are_drawn_as_a_share_of_responses():
    ax = lesson_11.draw_log_prob_gains(
        course_plots.axes(), {"teacher": torch.tensor([2.0, -1.0, 0.5])}
    )
    assert ax.lines[0].get_xdata().tolist() == [-1.0, 0.5, 2.0]
    assert list(ax.lines[0].get_ydata()) == pytest.approx([1 / 6, 0.5, 5 / 6])


def test_the_lab_trains_a_multimodal_model(task):
    lab = pytest.importorskip("minidistill.lessons.lab")
    panel = lab.Lab(lab.world("vision", prompts=32, test=8), ["gkd"], epochs=2)
    run = lab.LabRun("here", "gkd", panel.told())
    panel.runs = [run]
    panel._work(run)
    assert run.finished, panel.message.value
    assert len(run.answers) > 0


# --- the ledger ---------------------------------------------------------------------------------------
def test_c13_compares_accuracies_in_the_world_of_pictures():
    claim = get_hypothesis("C13")
    assert all(world_of(name) == "vision" for name in claim.runs)
    for contrast in claim.contrasts:
        assert contrast.metric == "accuracy"
        assert contrast.weights["vision/distillm2"] == 1


# --- the command --------------------------------------------------------------------------------------
call = partial(commands.call, "apply", "vision")


def last_line(*arguments) -> str:
    done = call(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


def photographs(folder, lines=8):
    """Prompts about files of several sizes and modes."""
    from PIL import Image

    records = []
    for i in range(lines):
        mode = ("RGB", "RGBA", "L", "P")[i % 4]
        Image.new(mode, (40 + 10 * i, 60)).save(folder / f"{i}.png")
        records.append(
            {
                "prompt": "what is at the top left ?",
                "image": f"{i}.png",
                "references": ["a black square ."],
            }
        )
    path = folder / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_apply_vision_distils_a_pair_on_files_draws_and_resumes(tmp_path):
    prompts = photographs(tmp_path)
    folder = world_dir("vision")
    models = (
        "--teacher",
        folder / "teacher",
        "--student",
        folder / "student_0",
        "--prompts",
        prompts,
    )
    arguments = (*models, "--epochs", 1, "--out", tmp_path / "run", "--show", tmp_path / "a.png")
    first = call(*arguments)
    assert first.returncode == 0, first.stderr
    assert "before" in first.stdout
    assert "rouge_l" in first.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "student" / "processor_config.json").is_file()
    again = call(*arguments)
    assert again.stdout == first.stdout


def test_apply_vision_tells_by_family_what_was_gained(tmp_path):
    done = call("--limit", 16, "--epochs", 1, "--out", tmp_path / "run", "--method", "kd")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.strip().splitlines()[-6:-1]
    assert head.split() == ["colour", "where", "what", "count", "compare", "name", "all"]
    assert [row.split()[0] for row in rows] == ["teacher", "before", "after", "blind"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--method", "distilm2"), "unknown method 'distilm2'; did you mean 'distillm2'?"),
        (("--teacher", "x"), "--teacher and --student go with --prompts"),
        (("--prompts", "p.txt"), "p.txt: not a file of prompts"),
        (("--prompts", "none.jsonl"), "none.jsonl"),
        (("--lr", "0"), "lr must be positive"),
    ],
)
def test_apply_vision_answers_mistakes_in_a_sentence(tmp_path, arguments, complaint):
    line = last_line(*arguments, "--out", tmp_path / "run")
    assert line.startswith("error: ")
    assert complaint in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["distill", "evaluate"])
@pytest.mark.parametrize(
    ("world", "line", "complaint"),
    [
        ("instruct", {"prompt": "what is it ?", "image": "0.png"}, "these models read text alone"),
        ("vision", {"prompt": "what is it ?"}, "these models want a picture"),
    ],
)
def test_other_commands_name_the_line_whose_picture_is_missing_or_too_much(
    tmp_path, command, world, line, complaint
):
    prompts, folder = photographs(tmp_path), world_dir(world)
    whole = prompts.read_text().splitlines()
    if world == "instruct":
        whole = ['{"prompt": "say it"}'] * len(whole)
    prompts.write_text("\n".join([*whole, json.dumps(line)]))
    models = ("--teacher", folder / "teacher", "--student", folder / "student_0")
    out = ("--out", tmp_path / "run") * (command == "distill")
    done = commands.call(command, "--prompts", prompts, *models, *out)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "p.jsonl, line 9: " in last
    assert complaint in last
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "who"),
    [
        (
            ("speculate", "--prompts", "p.jsonl", "--target", "T", "--draft", "S"),
            "speculative decoding",
        ),
        (("preference", "--task", "vision"), "preference optimisation"),
        (("quantize", "--prompts", "p.jsonl", "--model", "T"), "quantization"),
    ],
)
def test_applications_of_text_alone_refuse_models_that_see(tmp_path, arguments, who):
    (tmp_path / "p.jsonl").write_text('{"prompt": "say it"}\n{"prompt": "again"}\n')
    folder = world_dir("vision")
    models = {"T": folder / "teacher", "S": folder / "student_0"}
    done = commands.call("apply", *(models.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"{who} here reads text alone" in done.stderr.strip().splitlines()[-1]


def test_apply_vision_names_the_line_without_a_picture_and_the_models_that_do_not_read_one(
    tmp_path,
):
    prompts = photographs(tmp_path)
    text = world_dir("instruct")
    models = ("--teacher", text / "teacher", "--student", text / "student_0", "--prompts", prompts)
    assert "these models read text alone" in last_line(*models, "--out", tmp_path / "run")
    prompts.write_text(prompts.read_text() + '\n{"prompt": "what is it ?"}\n')
    assert "p.jsonl, line 9: no field 'image'" in last_line(
        "--prompts", prompts, "--out", tmp_path / "run"
    )
