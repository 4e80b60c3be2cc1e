"""Guesses before the figures: asked with buttons, kept, and answered where the lesson gets there."""

import json
from contextlib import suppress
from html import escape
from pathlib import Path

from minidistill.runlog import atomic_write
from minidistill.utils import missing_extra_message

FOLDER = Path("out") / "predictions"


class Predictions:
    """The questions of a lesson's "Predict", each a tuple of answers to choose from, and what was chosen.

    Choices are kept in out/predictions/LESSON.json beside the notebook: a kernel that starts anew still
    knows them. `guesses[number]`, counted from 1, is the choice as text, None before there is one.
    """

    def __init__(self, lesson: str, *questions: tuple):
        self.path = FOLDER / f"{lesson}.json"
        self.options = {n: tuple(map(str, options)) for n, options in enumerate(questions, start=1)}
        self.guesses = dict.fromkeys(self.options)
        kept = {}
        with suppress(OSError, ValueError):
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        for number, options in self.options.items():
            if isinstance(kept, dict) and kept.get(str(number)) in options:
                self.guesses[number] = kept[str(number)]

    def __getitem__(self, number: int) -> str | None:
        return self.guesses[number]

    def __setitem__(self, number: int, guess: object) -> None:
        """Choose, and keep it where the folder can be written; ValueError for what is no answer."""
        if str(guess) not in self.options[number]:
            raise ValueError(f"{guess!r} is none of the answers: {', '.join(self.options[number])}")
        self.guesses[number] = str(guess)
        with suppress(OSError):  # not kept, but answered all the same
            atomic_write(self.path, json.dumps(self.guesses).encode())

    def buttons(self):
        """A row of buttons for each question, to be the last line of a cell; without a kernel a list."""
        try:
            import ipywidgets as w
        except ModuleNotFoundError:
            raise ModuleNotFoundError(missing_extra_message("ipywidgets", "course")) from None
        rows = []
        for number, options in self.options.items():
            choices = w.ToggleButtons(options=options, value=self[number])
            choices.style.button_width = "auto"
            choices.observe(lambda change, n=number: self.__setitem__(n, change["new"]), "value")
            rows.append(w.HBox([w.Label(f"{number}."), choices]))
        items = "".join(f"<li>{escape(' · '.join(row))}</li>" for row in self.options.values())

        class Buttons(w.VBox):
            def _repr_mimebundle_(self, **kwargs):
                made = super()._repr_mimebundle_(**kwargs)
                bundle, metadata = made if isinstance(made, tuple) else (made, {})
                return {**bundle, "text/html": f"<ol class='standalone'>{items}</ol>"}, metadata

        return Buttons(rows)

    def answer(self, number: int, right: object, sentence: str) -> None:
        """Print what came out, and whether the guess was right; of numbers the nearest answer is right."""
        with suppress(ValueError):
            right = min(self.options[number], key=lambda option: abs(float(option) - float(right)))
        guess = self[number]
        verdict = (
            "You made no guess." if guess is None
            else "You were right." if guess == str(right)
            else f"No: you said {guess}."
        )  # fmt: skip
        print(f"{number}. {sentence} {verdict}")
