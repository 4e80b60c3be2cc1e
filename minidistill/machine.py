"""Where and with what a run was made: what every log says of its machine."""

import os
import platform
from pathlib import Path

import torch
import transformers

from minidistill.models import pick_device


def machine() -> dict:
    """What a log must say of where it was made."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": f"{pick_device().type} ({name})", "cores": os.cpu_count(), **versions}


def _processor() -> str:
    """The CPU's model where Linux tells it: equal seeds end in equal bits only on equal processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {models[0]}" if models else platform.machine()
