"""How large language models are distilled into small ones, in code that reads like the equations."""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["curriculum", "distill", "divergences", "evaluate", "load_pair", "load_task"]
_HOME = {
    "distill": "training",
    "evaluate": "evaluation",
    "load_pair": "models",
    "load_task": "tasks",
}


def __getattr__(name: str):
    """Import a public name at its first use: torch takes seconds, and a command speaks before that."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"minidistill.{_HOME.get(name, name)}")
    return getattr(module, name) if name in _HOME else module


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
