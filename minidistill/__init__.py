"""How large language models are distilled into small ones, in code that reads like the equations."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidistill import curriculum, divergences
    from minidistill.evaluation import evaluate
    from minidistill.models import load_model, load_pair
    from minidistill.tasks import load_task
    from minidistill.training import distill

__version__ = "0.1.0"
__all__ = [
    "curriculum", "distill", "divergences", "evaluate", "load_model", "load_pair", "load_task",
]  # fmt: skip


def __getattr__(name: str):
    """Import a public name at its first use: torch takes seconds, and a command speaks before that."""
    if name == "distill":
        import minidistill.scale.responses
        from minidistill.training import distill as found
    elif name == "evaluate":
        from minidistill.evaluation import evaluate as found
    elif name in ("load_model", "load_pair"):
        import minidistill.applications.vision.inputs  # noqa: F401, its kind of pair is known from then on
        from minidistill import models

        found = getattr(models, name)
    elif name == "load_task":
        from minidistill.tasks import load_task as found
    elif name == "curriculum":
        import minidistill.curriculum as found
    elif name == "divergences":
        import minidistill.divergences as found
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
