"""How large language models are distilled into small ones, in code that reads like the equations."""

from minidistill.quiet import quiet

with quiet():  # transformers imports torchao where that is installed
    import transformers.modeling_utils  # noqa: F401

from minidistill import curriculum, divergences
from minidistill.applications.vision.inputs import VisionPair  # noqa: F401, so that load_pair knows it
from minidistill.evaluation import evaluate
from minidistill.models import load_pair
from minidistill.tasks import load_task
from minidistill.training import distill

__version__ = "0.1.0"
__all__ = ["curriculum", "distill", "divergences", "evaluate", "load_pair", "load_task"]
