"""What a learner guessed: chosen with buttons, kept over a restart, and answered."""

import json
from pathlib import Path

import pytest

from minidistill.lessons.predictions import FOLDER, Predictions


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def guesses():
    return Predictions("07", ("KL", "RKL"), (0.5, 0.25, 0))


@pytest.mark.parametrize(
    ("guess", "says"),
    [(None, "You made no guess."), ("RKL", "You were right."), ("KL", "No: you said KL.")],
)
def test_a_guess_is_answered(guesses, capsys, guess, says):
    if guess:
        guesses[1] = guess
    guesses.answer(1, "RKL", "RKL is larger.")
    assert capsys.readouterr().out == f"1. RKL is larger. {says}\n"


@pytest.mark.parametrize(
    ("right", "says"), [(0.21, "You were right."), (0.6, "No: you said 0.25."), (0, "No: you")]
)
def test_of_numbers_the_nearest_answer_is_right(guesses, capsys, right, says):
    guesses[2] = 0.25
    guesses.answer(2, right, f"It is {right}.")
    assert says in capsys.readouterr().out


def test_an_outcome_that_was_no_choice_makes_no_guess_right(guesses, capsys):
    guesses[1] = "KL"
    guesses.answer(1, "neither", "Neither.")
    assert "No: you said KL." in capsys.readouterr().out


def choices(guesses):
    return [row.children[1] for row in guesses.buttons().children]


def test_buttons_choose_and_a_restarted_kernel_still_knows(guesses):
    first, second = choices(guesses)
    assert (first.options, first.value, second.options) == (
        ("KL", "RKL"), None, ("0.5", "0.25", "0")
    )  # fmt: skip
    first.value, second.value = "RKL", "0"
    again = Predictions("07", ("KL", "RKL"), (0.5, 0.25, 0))
    assert (again[1], again[2]) == ("RKL", "0")
    assert [row.value for row in choices(again)] == ["RKL", "0"]
    assert Predictions("08", ("KL", "RKL"))[1] is None, "each lesson has its own"


def test_without_a_kernel_the_answers_are_a_list(guesses):
    bundle = guesses.buttons()._repr_mimebundle_()[0]
    assert "<li>KL · RKL</li><li>0.5 · 0.25 · 0</li>" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("text", ["", "[1]", '{"1": "JSD", "2": 5}', "\x00"])
def test_what_was_kept_and_is_no_answer_any_more_is_no_guess(text):
    FOLDER.mkdir(parents=True)
    (FOLDER / "07.json").write_text(text)
    assert Predictions("07", ("KL", "RKL"))[1] is None


def test_a_folder_that_cannot_be_written_loses_no_guess(guesses, folder, capsys):
    Path("out").write_text("a file where the folder would be")
    guesses[1] = "RKL"
    guesses.answer(1, "RKL", "So.")
    assert "You were right." in capsys.readouterr().out


def test_what_is_no_answer_is_refused(guesses):
    with pytest.raises(ValueError, match="'JSD' is none of the answers: KL, RKL"):
        guesses[1] = "JSD"
    assert not FOLDER.exists()


def test_without_ipywidgets_the_extra_is_named(guesses, hide):
    hide("ipywidgets")
    with pytest.raises(ModuleNotFoundError, match="course"):
        guesses.buttons()


def test_what_is_kept_can_be_read(guesses):
    guesses[2] = 0
    assert json.loads((FOLDER / "07.json").read_text()) == {"1": None, "2": "0"}
