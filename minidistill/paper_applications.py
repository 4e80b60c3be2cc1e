"""What the DistiLLM-2 paper (arXiv 2503.07067) claims distillation is good for: C12 to C15."""

from minidistill.contrasts import Claim

APPLICATIONS: dict[str, Claim] = {}
