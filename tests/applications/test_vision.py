"""The vision world, multimodal models, and the one loop on both."""

import copy
import json
import math
import random
from dataclasses import replace

import pytest
import torch

from minidistill import distill, evaluate
from minidistill.applications.pruning import prune_layers
from minidistill.applications.vision import image_ablation as ablation
from minidistill.applications.vision import inputs
from minidistill.applications.vision.inputs import (
    ImagePrompt,
    check_same_preprocessing,
    require_text_model,
)
from minidistill.applications.vision.tiny_llava import (
    init_vision_tower_from,
    tiny_llava,
    tiny_processor,
)
from minidistill.checkpoint import fingerprint
from minidistill.config import DistillConfig
from minidistill.evaluation import HeldOutResponses, make_probe, nll
from minidistill.experiments.before_and_after import distill_and_evaluate
from minidistill.generation import sample, speculative_drafts, typical_acceptance
from minidistill.judging import LLMJudge
from minidistill.lessons.lesson_11_vision import text_only_upper_bound
from minidistill.logprobs import collate, response_log_probs
from minidistill.models import load_model, make_pair, single_model, word_tokenizer
from minidistill.objectives import METHODS
from minidistill.rollouts import Rollouts
from minidistill.tasks import Example, Task, get_world, read_prompts, write_examples, write_jsonl
from minidistill.tasks.vision import scenes
from minidistill.tasks.vision.images import open_image
from minidistill.tokenization import EncodedPrompt, encode_response, max_batch_size
from minidistill.utils import data_dir
from tests.conftest import sharpen

Image = pytest.importorskip("PIL.Image", reason="pictures need pillow")
WORLD = get_world("vision")
QUICK = {"epochs": 1, "batch_size": 4, "max_new_tokens": 5, "progress": False}
SCENE = (
    "scene:7: large red circle top left; small blue ring middle centre; small red ring bottom right"
)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(word_tokenizer(WORLD.words))


@pytest.fixture(scope="module")
def task():
    train, test = (
        write_examples("vision", n, seed=1, held_out=h, references=2)
        for n, h in ((8, False), (6, True))
    )
    return Task("vision", train, test, lambda x, y: WORLD.judge(x, y).grade, WORLD.judge)


def build(processor, seed=0):
    teacher, student = (
        tiny_llava(name, processor, seed + i) for i, name in enumerate(("teacher", "student"))
    )
    for model in (
        teacher,
        student,
    ):  # the language model alone: a sharper vision tower would drown the text
        sharpen(model.model.language_model, 3.0)
    return make_pair(teacher, processor, student, processor)


@pytest.fixture
def pair(processor):
    return build(processor)


@pytest.fixture(scope="module")
def shared(processor):
    """A pair that no test may change."""
    return build(processor, seed=5)


def ask(text, scene=SCENE):
    return Example(text, image=scene)


# --- scenes and pictures ------------------------------------------------------------------------------
def test_a_scene_is_read_as_it_was_written():
    rng = random.Random(3)
    for _ in range(200):
        scene = scenes.sample_scene(rng)
        shapes = scenes.parse_scene(scene)
        number = int(scene.split(":")[1])
        assert scenes.format_scene(list(shapes), number) == scene
        assert 1 <= len(shapes) <= scenes.MAX_SHAPES
        assert len({s.place for s in shapes}) == len(shapes)


@pytest.mark.parametrize(
    ("scene", "complaint"),
    [
        ("scene:1", "a scene reads"),
        ("scene:x: large red circle top left", "a scene reads"),
        ("scene:1: red circle top left", "a shape reads"),
        ("scene:1: large beige circle top left", "a shape reads"),
        ("scene:1: large red circle top left; small blue ring top left", "two shapes in one place"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(scene, complaint):
    with pytest.raises(ValueError, match=complaint):
        scenes.parse_scene(scene)


def test_a_picture_depends_on_its_text_alone_and_shows_each_thing_in_its_place():
    first, again = scenes.render(SCENE), scenes.render(SCENE)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != scenes.render(SCENE.replace(":7:", ":8:")).tobytes()
    assert first.size == (scenes.SIDE, scenes.SIDE)
    half = scenes.CELL // 2

    def centre(row, column):
        return first.getpixel((column * scenes.CELL + half, row * scenes.CELL + half))

    r, g, b = centre(0, 0)
    assert r > 150 > 100 > max(g, b), "the red circle"
    assert min(centre(1, 1)) > 200, "a ring is open in its middle"
    assert min(centre(0, 2)) > 200, "nothing stands at the top right"


@pytest.mark.parametrize("shape", scenes.SHAPES)
@pytest.mark.parametrize("colour", scenes.COLOURS)
def test_every_shape_and_colour_looks_like_no_other(shape, colour):
    def seen(size, tint, form):
        return torch.tensor(
            list(scenes.render(f"scene:1: {size} {tint} {form} middle centre").tobytes())
        ).float()

    here = seen("large", colour, shape)
    others = [
        seen("large", c, s)
        for c in scenes.COLOURS
        for s in scenes.SHAPES
        if (c, s) != (colour, shape)
    ]
    assert min(float((here - other).abs().mean()) for other in others) > 0.5


def test_a_larger_scale_is_the_same_picture():
    small, large = scenes.render(SCENE), scenes.render(SCENE, scale=4)
    assert large.size == (4 * scenes.SIDE, 4 * scenes.SIDE)
    again = large.resize(small.size, Image.Resampling.BOX)
    pixels = [torch.tensor(list(i.tobytes())).float() for i in (small, again)]
    assert float((pixels[0] - pixels[1]).abs().mean()) < 3


# --- prompts with pictures ----------------------------------------------------------------------------
def test_an_example_is_its_text_and_its_image():
    example = ask("where is the blue ring ?")
    assert example == ask("where is the blue ring ?")
    assert example != ask("where is the blue ring ?", SCENE + "; small red ring top right")
    assert example != Example("where is the blue ring ?")
    assert len({example, ask("where is the blue ring ?"), ask("find it")}) == 2


def test_examples_survive_a_file_with_their_scenes(tmp_path, task):
    write_jsonl(tmp_path / "x.jsonl", task.train)
    assert read_prompts(tmp_path / "x.jsonl") == task.train
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["image"].startswith(
        "scene:"
    )


def test_the_split_goes_by_picture():
    train = write_examples("vision", 300, seed=0, held_out=False)
    test = write_examples("vision", 300, seed=0, held_out=True)
    assert not {e.image for e in train} & {e.image for e in test}
    assert {e.prompt for e in train} & {e.prompt for e in test}, "the same questions come in both"


def test_the_fingerprint_of_a_run_sees_the_picture(shared, task, tmp_path):
    def of(example):
        return fingerprint(shared, replace(task, train=[example]), DistillConfig("kd"), {})

    first = task.train[0]
    assert of(first) == of(replace(first)) != of(replace(first, image=SCENE))
    path = tmp_path / "a.png"
    found = []
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (40, 40), colour).save(path)
        found.append(of(replace(first, image=str(path))))
    assert found[0] == found[2] != found[1], "a file counts by its content"


# --- the judge ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("question", "response", "grade"),
    [
        ("what colour is the ring ?", "it is blue .", 1),
        ("what colour is the ring ?", "red .", 1),
        ("what colour is the ring ?", "it is green .", 2 / 3),
        ("what colour is the ring ?", "the circle is red .", 2 / 3),
        ("what colour is the ring ?", "i see a large red ring .", 2 / 3),
        ("what colour is the ring ?", "i see a small red ring .", 1),
        ("what colour is the ring ?", "it is red . it is blue .", 0),
        ("where is the blue ring ?", "it is at the middle centre .", 1),
        ("where is the blue ring ?", "it is at the bottom right .", 2 / 3),
        ("where is the blue ring ?", "the red ring is at the bottom right .", 2 / 3),
        ("where is the blue ring ?", "middle right .", 2 / 3),
        ("what is at the top left ?", "a red circle .", 1),
        ("what is at the top left ?", "a small red circle .", 2 / 3),
        ("what is at the top left ?", "at the bottom right is a red ring .", 2 / 3),
        ("how many rings are there ?", "there are two .", 1),
        ("how many rings are there ?", "two .", 1),
        ("how many rings are there ?", "there are three rings .", 2 / 3),
        ("how many rings are there ?", "there are two circles .", 2 / 3),
        ("how many red things are there ?", "i count two red things .", 1),
        ("how many crosses are there ?", "there are zero .", 1),
        ("are there more circles or rings ?", "more rings , two to one .", 1),
        ("are there more circles or rings ?", "more circles , two to one .", 2 / 3),
        ("are there more circles or rings ?", "more rings , two to zero .", 2 / 3),
        ("name two of the things", "i see a red circle and a blue ring .", 1),
        ("name two of the things", "i see a red circle and a red circle .", 1 / 3 + 1 / 3),
        ("name two of the things", "i see a red circle .", 2 / 3),
        ("name two of the things", "i see a red circle and a green ring .", 2 / 3),
        ("name two of the things", "i see a red circle , a blue ring and a red ring .", 2 / 3),
        ("name one of the things", "well , i see a red ring . i am sure .", 1),
        ("name one of the things", "", 0),
    ],
)
def test_the_judge_knows_the_scene(question, response, grade):
    assert WORLD.judge(ask(question), response).grade == pytest.approx(grade)


def test_the_same_answer_to_the_same_question_is_judged_by_the_picture():
    question, answer = "where is the blue ring ?", "it is at the middle centre ."
    moved = SCENE.replace("ring middle centre", "ring top right")
    assert WORLD.judge(ask(question), answer).grade == 1
    assert WORLD.judge(ask(question, moved), answer).grade < 1


def test_a_question_without_a_picture_is_not_graded():
    with pytest.raises(ValueError, match="nothing is shown"):
        WORLD.judge("where is the blue ring ?", "top left .")


def test_no_family_can_be_guessed_without_looking():
    """(11.2)'s bound, question by question, for the likeliest answers that the world itself would write."""
    rng, right = random.Random(5), {}
    for _ in range(6000):
        prompt = WORLD.write_prompt(rng)
        name, asked_ = WORLD.read_prompt(prompt)
        answers = {
            json.dumps(WORLD.families[name].answer(rng, asked_), sort_keys=True) for _ in range(3)
        }
        right.setdefault((name, prompt.prompt), []).append(sorted(answers))
    often = {x: pictures for x, pictures in right.items() if len(pictures) >= 20}
    assert len({name for name, _ in often}) >= 3
    assert text_only_upper_bound(often) < 0.4


# --- files of strangers ---------------------------------------------------------------------------------
def saved(path, mode, size=(50, 40), **how):
    Image.new(mode, size, {"1": 1, "I;16": 40000, "F": 0.5}.get(mode, 0)).save(path, **how)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("RGBA", "png"), ("LA", "png"), ("L", "png"), ("P", "png"), ("1", "png"),
     ("I;16", "png"),
     ("I", "tiff"), ("F", "tiff"), ("CMYK", "jpg"), ("YCbCr", "jpg"), ("RGB", "bmp"), ("P", "gif")],
)  # fmt: skip
def test_pictures_of_every_mode_become_rgb(tmp_path, mode, suffix):
    image = open_image(saved(tmp_path / f"x.{suffix}", mode))
    assert (image.mode, image.size) == ("RGB", (50, 40))


def test_sixteen_bits_are_scaled_and_the_transparent_is_white(tmp_path):
    assert open_image(saved(tmp_path / "deep.png", "I;16")).getpixel((0, 0))[0] == pytest.approx(
        156, abs=2
    )
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((4, 4)) == (255, 255, 255)


def broken(tmp_path, kind):
    """A path that is no picture, in one of the ways that files come."""
    path = tmp_path / f"{kind}.png"
    noise = Image.frombytes("RGB", (60, 60), random.Random(0).randbytes(60 * 60 * 3))
    if kind == "cut":
        noise.save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "cut_jpeg":
        path = path.with_suffix(".jpg")
        noise.save(path)
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "large":
        Image.new("1", (10_000, 9_000)).save(path)
    elif kind == "narrow":
        Image.new("L", (1, 5000)).save(path)
    return path


COMPLAINTS = {
    "missing": "there is no such file", "folder": "there is no such file", "empty": "the file is empty",
    "text": "not a picture", "cut": "cannot be decoded", "cut_jpeg": "cannot be decoded",
    "bomb": "more than 67,108,864 pixels", "large": "more than 67,108,864 pixels", "narrow": "too narrow",
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", COMPLAINTS)
def test_a_file_that_is_no_picture_is_named_with_its_line(tmp_path, kind):
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    path = broken(tmp_path, kind)
    lines = [{"prompt": "what is it ?", "image": name} for name in ("good.png", path.name)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=COMPLAINTS[kind]) as error:
        read_prompts(tmp_path / "p.jsonl")
    assert "p.jsonl, line 2: " in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [(5, "field 'image' must be a text"), (["a"], "field 'image' must be a text"),
     ("https://x.org/a.png", "pictures are not fetched"), ("scene:1: a ball", "a shape reads")],
)  # fmt: skip
def test_an_image_that_is_none_is_named_with_its_line(tmp_path, image, complaint):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "what is it ?", "image": image}))
    with pytest.raises(ValueError, match=complaint) as error:
        read_prompts(tmp_path / "p.jsonl")
    assert "p.jsonl, line 1: " in str(error.value)


def test_a_file_is_found_from_where_the_prompts_are_and_scaled_to_what_the_model_reads(
    tmp_path, shared
):
    (tmp_path / "images").mkdir()
    saved(tmp_path / "images" / "a.png", "RGB", (200, 90))
    lines = [{"prompt": "what is it ?", "image": "images/a.png", "references": ["black"]}]
    (tmp_path / "p.jsonl").write_text(json.dumps(lines[0]))
    (example,) = read_prompts(tmp_path / "p.jsonl")
    prompt = shared.encode(example)
    assert prompt.pixel_values.shape == (1, 3, scenes.SIDE, scenes.SIDE)


# --- prompts as ids that carry pixels -------------------------------------------------------------------
def test_a_prompt_has_a_token_for_each_patch_and_its_pixels(shared, processor):
    prompt = shared.encode(ask("where is the blue ring ?"))
    patches = (scenes.SIDE // scenes.CELL) ** 2
    words = shared.tokenizer.convert_ids_to_tokens(prompt)
    assert words == [
        "<user>",
        *["<image>"] * patches,
        *["where", "is", "the", "blue", "ring", "?"],
        "<assistant>",
    ]
    assert prompt.pixel_values.shape == (1, 3, scenes.SIDE, scenes.SIDE)
    assert json.dumps(prompt) == json.dumps(list(prompt))


def test_images_and_texts_go_to_those_who_read_them(shared, shared_pair):
    with pytest.raises(
        ValueError, match="read text alone, and this prompt has an image: 'find it'"
    ):
        shared_pair.encode(ask("find it"))
    for prompt in ("find it", Example("find it")):
        with pytest.raises(ValueError, match="read pictures, and this prompt has none: 'find it'"):
            shared.encode(prompt)
    with pytest.raises(ValueError, match="must not hold <image> itself"):
        shared.encode(ask("find the <image>"))


def test_a_processor_for_tiles_is_refused(shared, processor):
    class Tiled:
        image_processor, image_token, chat_template = object(), "<image>", None
        tokenizer = processor.tokenizer

        def __call__(self, **_):
            return {
                "input_ids": [[1]],
                "pixel_values": [torch.zeros(5, 3, 9, 9)],
                "image_sizes": [[9, 9]],
            }

    with pytest.raises(ValueError, match="Tiled makes image_sizes besides pixels"):
        replace(shared, processor=Tiled()).encode(ask("find it"))


def prompts_of(pair, task):
    return [pair.encode(example) for example in (*task.train, *task.test)]


def test_a_batch_holds_the_pictures_in_the_order_of_its_rows(shared, task):
    prompts = prompts_of(shared, task)[:3]
    batch = collate(prompts, [[7, 1], [], [7, 8, 9, 1]], pad=0)
    assert list(batch.extra_inputs) == ["pixel_values"]
    assert torch.equal(
        batch.extra_inputs["pixel_values"], torch.cat([x.pixel_values for x in prompts])
    )
    (image,) = shared.forbidden_ids
    assert (batch.input_ids == image).sum(-1).tolist() == [9, 9, 9]
    assert batch.mask.sum(-1).tolist() == [2, 0, 4]
    assert not (batch.labels[batch.mask] == image).any(), (
        "a place for a picture is never trained on"
    )
    for text in ([1, 2], EncodedPrompt([1, 2])):
        assert collate([text], [[3]], pad=0).extra_inputs == {}


def test_what_a_model_says_depends_on_the_picture_and_only_on_its_own(shared, task):
    """Padding, company in the batch and order change nothing; another picture does."""
    prompts = prompts_of(shared, task)[:4]
    responses = [encode_response(shared.tokenizer, e.references[0]) for e in task.train[:4]]
    for model in (shared.teacher, shared.student):
        with torch.no_grad():
            batch = collate(prompts, responses, shared.pad_token_id)
            together = response_log_probs(model, batch, shared.vocab_size)
            for i, (x, y) in enumerate(zip(prompts, responses, strict=True)):
                alone = response_log_probs(
                    model, collate([x], [y], shared.pad_token_id), shared.vocab_size
                )
                torch.testing.assert_close(alone[0], together[i, : len(y)], rtol=1e-3, atol=1e-4)
            other = [prompts[0].with_pixels(prompts[1].pixel_values), *prompts[1:]]
            moved = response_log_probs(
                model, collate(other, responses, shared.pad_token_id), shared.vocab_size
            )
        n = len(responses[0])
        assert (moved[0, :n] - together[0, :n]).abs().max() > 1e-3
        torch.testing.assert_close(moved[1:], together[1:])


def test_each_source_is_written_and_scored_with_its_own_picture(pair, task):
    """The teacher's cache, the student's pass over both sources, and what each says alone agree."""
    settings = DistillConfig("distillm2", **{k: v for k, v in QUICK.items() if k != "progress"})
    rollouts = Rollouts(pair, task, {"tgo": "tgo", "sgo": "sgo"}, settings)
    rollouts.collect(0)
    picked = [3, 0, 6]
    with torch.no_grad():
        scored = rollouts.score(picked)
        for name, source in scored.items():
            for row, i in enumerate(picked):
                y = rollouts.responses[name][i]
                batch = collate([pair.encode(task.train[i])], [y], pair.pad_token_id)
                for model, found in ((pair.teacher, source.log_p), (pair.student, source.log_q)):
                    alone = response_log_probs(model, batch, pair.vocab_size)[0]
                    torch.testing.assert_close(found[row, : len(y)], alone, rtol=1e-3, atol=1e-4)


def test_large_images_are_read_anew_and_small_ones_cached(shared, monkeypatch):
    prompt, reads = shared.encode(ask("find it")), []

    def load(processor, image):
        reads.append(image)
        return load_pixel_values(processor, image)

    load_pixel_values = inputs.load_pixel_values
    monkeypatch.setattr(inputs, "load_pixel_values", load)
    assert prompt.pixel_values is prompt.pixel_values
    assert reads == []
    monkeypatch.setattr(inputs, "MAX_CACHED_VALUES", 10)
    large = shared.encode(ask("find it"))
    for other in (large, large + [7], copy.copy(large)):
        assert other.pixel_values.equal(prompt.pixel_values)
    assert reads == [SCENE] * 3
    grey = large.with_pixels(torch.zeros_like(prompt.pixel_values))
    assert not grey.pixel_values.any()
    assert reads == [SCENE] * 3, "other pixels need no file"


def test_a_prompt_carried_on_keeps_its_image_and_leaves_the_first_alone(shared):
    prompt = shared.encode(ask("find it"))
    longer = prompt + [7, 8]
    assert isinstance(longer, ImagePrompt)
    assert list(longer) == [*prompt, 7, 8]
    assert longer.pixel_values is prompt.pixel_values
    assert len(longer) == len(prompt) + 2
    assert list(EncodedPrompt([1]) + [2]) == [1, 2]


# --- writing ------------------------------------------------------------------------------------------
def test_a_model_writes_about_the_picture_it_is_shown(shared, task):
    prompts = prompts_of(shared, task)[:6]
    said = sample(shared.teacher, prompts, shared, temperature=0, max_new_tokens=6)
    alone = [
        sample(shared.teacher, [x], shared, temperature=0, max_new_tokens=6)[0] for x in prompts
    ]
    assert said == alone
    for how in ablation.IMAGE_ABLATIONS:
        other = ablation.ablate_image(prompts, how)
        assert sample(shared.teacher, other, shared, temperature=0, max_new_tokens=6) != said


def test_nobody_writes_a_place_for_a_picture(shared, task):
    """Even a model that wants nothing else: its next pass would look for pixels that are not there."""
    model = copy.deepcopy(shared.student)
    with torch.no_grad():
        model.get_output_embeddings().weight[shared.forbidden_ids[0]] *= 100
    for temperature in (0, 1):
        said = sample(
            model, prompts_of(shared, task), shared, temperature=temperature, max_new_tokens=5
        )
        assert not any(shared.forbidden_ids[0] in y for y in said)


def test_drafts_go_on_where_they_stopped(shared, task):
    """Nothing rejected, nothing drawn: three words at a time must end in what is written at once."""
    prompts, how = prompts_of(shared, task)[:6], {"temperature": 0.0, "max_new_tokens": 8}
    drafts = speculative_drafts(prompts, shared, lambda p: p >= 0, draft=3, **how)
    assert drafts == sample(shared.student, prompts, shared, **how)
    assert max(map(len, drafts)) > 3


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_drafts_keep_their_pictures(shared, task, epsilon):
    prompts = prompts_of(shared, task)[:5]
    drafts = speculative_drafts(
        prompts, shared, typical_acceptance(epsilon), max_new_tokens=7, draft=3, seed=3
    )
    assert all(1 <= len(y) <= 7 for y in drafts)
    other = speculative_drafts(
        ablation.ablate_image(prompts, "grey"),
        shared,
        typical_acceptance(epsilon),
        max_new_tokens=7,
        draft=3,
        seed=3,
    )
    assert drafts != other


# --- the loop -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("cald_by_epoch", "dpo")])
def test_every_method_trains_a_multimodal_model(pair, task, name):
    before = copy.deepcopy(pair.student.state_dict())
    history = distill(pair, task, name, **QUICK)
    assert all(math.isfinite(step["loss"]) and step["loss"] > 0 for step in history.steps)
    tower = [
        k
        for k in before
        if "vision_tower" in k and "post_layernorm" not in k and before[k].is_floating_point()
    ]
    now = pair.student.state_dict()
    assert all(
        not torch.equal(now[k], before[k]) for k in tower if k.endswith("patch_embedding.weight")
    )
    assert not torch.equal(now["model.multi_modal_projector.linear_1.weight"],
                           before["model.multi_modal_projector.linear_1.weight"])  # fmt: skip


def test_a_stopped_run_resumes_with_its_pictures_to_the_same_bits(processor, task, tmp_path):
    runs = {}
    for name in ("whole", "halves"):
        pair = build(processor)
        how = {**QUICK, "epochs": 2, "out": tmp_path / name}
        if name == "halves":
            distill(
                pair,
                task,
                "distillm2",
                **how,
                callback=lambda h: h.steps[-1]["step"] >= 1,
                probe_every=1,
            )
            pair = build(processor)
        history = distill(pair, task, "distillm2", **how)
        runs[name] = pair.student.state_dict(), [p["nll_teacher"] for p in history.evals][-1]
    assert runs["whole"][1] == runs["halves"][1]
    assert all(torch.equal(runs["whole"][0][k], runs["halves"][0][k]) for k in runs["whole"][0])


def test_a_probe_is_stored_as_ids_and_gets_its_pictures_back(shared, task):
    probe = make_probe(shared, task, max_new_tokens=5)
    stored = json.loads(json.dumps(probe.to_dict()))
    again = HeldOutResponses.from_dict(stored, shared, task)
    assert [[*x] for x in again.prompts] == [[*x] for x in probe.prompts]
    values = [nll(shared.student, shared, p.prompts, p.tgo) for p in (probe, again)]
    assert values[0] == values[1]
    with pytest.raises(ValueError, match="held-out prompts are others"):
        HeldOutResponses.from_dict(stored, shared, replace(task, test=task.test[::-1]))


def test_a_pair_is_distilled_saved_and_loaded_again(pair, task, tmp_path):
    settings = DistillConfig("kd", epochs=1, batch_size=4, max_new_tokens=5)
    result = distill_and_evaluate(pair, task, settings, {}, tmp_path / "run")
    assert {"before", "after"} <= result.keys()
    model, reader = load_model(tmp_path / "run" / "student")
    student = single_model(model, reader)
    prompts = prompts_of(pair, task)
    assert [[*x] for x in prompts_of(student, task)] == [[*x] for x in prompts]
    how = {"temperature": 0, "max_new_tokens": 6}
    assert sample(model, prompts_of(student, task), student, **how) == sample(
        pair.student, prompts, pair, **how
    )
    assert evaluate(student, task).accuracy is not None


# --- pairs --------------------------------------------------------------------------------------------
def test_pairs_whose_inputs_differ_are_refused(processor, shared, shared_pair):
    check_same_preprocessing(processor, processor)
    other = copy.deepcopy(processor)
    other.patch_size = 6
    with pytest.raises(ValueError, match="in 9 tokens, the student's in 36"):
        check_same_preprocessing(processor, other)
    dark = copy.deepcopy(processor)
    dark.image_processor.image_mean = [0.1, 0.1, 0.1]
    with pytest.raises(ValueError, match="prepare a picture differently"):
        check_same_preprocessing(processor, dark)
    talk = copy.deepcopy(processor)
    talk.chat_template = talk.chat_template.replace(
        "<assistant>{% endif %}", "<assistant> <assistant>{% endif %}"
    )
    with pytest.raises(ValueError, match="chat templates of teacher and student differ"):
        check_same_preprocessing(processor, talk)
    multimodal, text = (shared.teacher, processor), (shared_pair.student, shared_pair.tokenizer)
    with pytest.raises(ValueError, match="the teacher reads images and text and the student text"):
        make_pair(*multimodal, *text)
    with pytest.raises(ValueError, match="the teacher reads text and the student images and text"):
        make_pair(*text, *multimodal)
    with pytest.raises(ValueError, match="in 9 tokens, the student's in 36"):
        make_pair(*multimodal, shared.student, other)
    with pytest.raises(ValueError, match="comes with its processor, not a tokenizer"):
        single_model(shared.student, processor.tokenizer)


def test_without_pillow_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(inputs, "is_vision_available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pillow: pip install .minidistill\[adapt\]"):
        load_model(data_dir() / "vision" / "student_0")
    load_model(data_dir() / "instruct" / "student_0")


def test_a_folder_without_a_processor_is_named(tmp_path):
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for name in files:
        (tmp_path / name).write_bytes((data_dir() / "vision" / "student_0" / name).read_bytes())
    with pytest.raises(OSError, match="cannot load a model from") as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_what_reads_text_alone_refuses_a_multimodal_model(shared, shared_pair, processor):
    with pytest.raises(ValueError, match="a judge reads text alone, and this is a model of pict"):
        require_text_model("a judge", shared)
    require_text_model("a judge", shared_pair)
    with pytest.raises(ValueError, match="one token for each of A, B and C"):
        LLMJudge(shared.teacher, processor)("which ?", "a", "b")


def test_a_multimodal_model_loses_layers_of_its_language_model_and_keeps_its_vision_tower(
    shared, processor, task, tmp_path
):
    student = prune_layers(shared.teacher, 2)
    student.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = load_model(tmp_path)
    tower, kept = (
        shared.teacher.model.vision_tower.state_dict(),
        again.model.vision_tower.state_dict(),
    )
    assert all(torch.equal(tower[name], kept[name]) for name in tower)
    assert len(again.get_decoder().layers) == 2 < len(shared.teacher.get_decoder().layers)
    pair = make_pair(shared.teacher, processor, again, reader)
    assert distill(pair, task, "kd", **QUICK).steps
    with pytest.raises(ValueError, match="keep must lie between 2 and 4, but got 5"):
        prune_layers(shared.teacher, 5)


def test_a_student_starts_from_the_first_layers_of_its_teachers_vision_tower(processor):
    teacher, student = (tiny_llava(name, processor, 3) for name in ("teacher", "student"))
    init_vision_tower_from(student, teacher)
    ours, theirs = (model.model.vision_tower.state_dict() for model in (student, teacher))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if "post_layernorm" not in k)
    assert {k for k in theirs if ".layers.1." in k}, "the teacher's has more layers"
    narrow = copy.deepcopy(teacher)
    narrow.model.vision_tower.embeddings.patch_embedding = torch.nn.Conv2d(
        3, 32, 12, 12, bias=False
    )
    with pytest.raises(ValueError, match="the towers differ"):
        init_vision_tower_from(student, narrow)
    with pytest.raises(ValueError, match="unknown preset 'techer'; did you mean 'teacher'"):
        tiny_llava("techer", processor, 0)


def test_large_pictures_go_through_a_model_few_at_a_time(shared, task, monkeypatch):
    prompts = prompts_of(shared, task)
    assert max_batch_size(prompts, 128) == 128
    assert max_batch_size([[1, 2], [3]], 128) == 128, "texts alone are not held back"
    how = {"temperature": 1, "max_new_tokens": 4}
    said = sample(shared.student, prompts, shared, temperature=0, max_new_tokens=4)
    whole = nll(shared.student, shared, prompts, said)
    gain = ablation.image_log_prob_gain(shared.student, shared, prompts, said)
    size = prompts[0].pixel_values.numel()
    monkeypatch.setattr("minidistill.tokenization.MAX_BATCH_VALUES", 2 * size)
    assert max_batch_size(prompts, 128) == 2
    assert sample(shared.student, prompts, shared, temperature=0, max_new_tokens=4) == said
    assert nll(shared.student, shared, prompts, said) == pytest.approx(whole, abs=1e-5)
    again = ablation.image_log_prob_gain(shared.student, shared, prompts, said)
    torch.testing.assert_close(again, gain)
    monkeypatch.setattr("minidistill.tokenization.MAX_BATCH_VALUES", 1)
    assert max_batch_size(prompts, 128) == 1
    assert len(sample(shared.student, prompts[:3], shared, **how)) == 3
