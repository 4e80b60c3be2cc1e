"""The exercises that `checks.check` knows: the right function, inputs, and the usual wrong ones.

An exercise is data. To add one, write an entry beside those of its lesson; a test then asks that every
mistake differs from the answer and from the other mistakes, and gets its own hint.
"""

from minidistill.exercises_benchmarks import BENCHMARKS
from minidistill.exercises_curriculum import CURRICULUM
from minidistill.exercises_divergences import DIVERGENCES
from minidistill.exercises_preference import PREFERENCE
from minidistill.exercises_quantization import QUANTIZATION
from minidistill.exercises_responses import RESPONSES
from minidistill.exercises_speculative import SPECULATIVE
from minidistill.lessons.lesson_11_vision import EXERCISES as VISION

EXERCISES = (
    DIVERGENCES
    | RESPONSES
    | CURRICULUM
    | BENCHMARKS
    | PREFERENCE
    | VISION
    | QUANTIZATION
    | SPECULATIVE
)
