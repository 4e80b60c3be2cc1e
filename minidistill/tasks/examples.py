"""What a task is made of: prompts with references, and grades."""

from collections.abc import Callable
from dataclasses import dataclass

NO_ANSWER = "no answer"  # the reason of a grade of 0 where there was nothing to grade


@dataclass(frozen=True)
class Example:
    """Hold a prompt, what the data set calls right (may be none), and the image it is about, if any.

    `image`: the path of a file, or a scene of the vision world. `history`: the turns before the prompt, as
    (role, text): a system prompt, and what user and assistant have said.
    """

    prompt: str
    references: tuple[str, ...] = ()
    image: str | None = None
    history: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict]:
        """The conversation up to the answer, as chat templates read it."""
        turns = [*self.history, ("user", self.prompt)]
        return [{"role": role, "content": text} for role, text in turns]

    def content(self) -> tuple:
        """List all that the example says, for a fingerprint: an image file counts by its bytes."""
        values = {name: value for name, value in vars(self).items() if name != "image"}
        if not self.history:
            values.pop("history")
        texts = tuple(values.values())
        if self.image is None:
            return texts
        from minidistill.tasks.vision.images import content_hash

        return (*texts, content_hash(self.image))


def as_example(prompt: "Example | str") -> Example:
    """Make an example of a prompt that is text alone; an example stays what it is."""
    if not isinstance(prompt, str | Example):
        raise TypeError(f"a prompt must be a text or an Example, but is {prompt!r:.80}")
    return Example(prompt) if isinstance(prompt, str) else prompt


@dataclass(frozen=True, kw_only=True)
class Preference(Example):
    """A prompt, the response that was preferred, and the one it was preferred to."""

    chosen: str
    rejected: str


@dataclass(frozen=True)
class Grade:
    """A grade in [0, 1] and its reason: "right", "wrong", NO_ANSWER or a sentence."""

    grade: float
    reason: str


@dataclass(frozen=True)
class Task:
    """Hold prompts and their grader: `grade(example, response)` in [0, 1], None where there is none.

    `explain(example, response)`, where there is one, gives that grade and its reason. The graders of this
    package also take a prompt that is text alone in the example's place.
    """

    name: str
    train: list[Example]
    test: list[Example]
    grade: Callable[[Example, str], float] | None = None
    explain: Callable[[Example, str], Grade] | None = None
