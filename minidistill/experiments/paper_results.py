"""What the DistiLLM-2 paper (arXiv 2503.07067) reports by method, to stand beside the ledger's numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperResult:
    """Hold what the paper reports of one domain: where, what was measured, scores in per cent."""

    section: str
    measure: str
    scores: dict[str, float]


PAPER_RESULTS = {
    "instruct": PaperResult(
        "Table 2",
        "win rate, Qwen2 7B → 1.5B",
        {
            "start": 30.33, "seqkd": 41.83, "kd": 41.19, "imitkd": 43.29, "gkd": 56.14, "distillm": 56.35,
            "speculative_kd": 54.43, "distillm2": 58.69, "teacher": 76.12,
        },
    ),
    "arithmetic": PaperResult(
        "Table 3",
        "GSM8K, Qwen2-Math",
        {"start": 74.53, "gkd": 75.44, "distillm": 75.59, "distillm2": 76.27, "teacher": 83.93},
    ),
    "program": PaperResult(
        "Table 4",
        "HumanEval, DS-Coder",
        {"start": 50.61, "gkd": 54.88, "distillm": 53.65, "distillm2": 59.92, "teacher": 85.37},
    ),
}  # fmt: skip
# Table 8: win rate of a Qwen1.5-0.5B student by the teacher's parameters in billions.
PAPER_TEACHERS = {
    "gkd": {1.8: 64.18, 7: 71.15, 14: 72.59},
    "distillm": {1.8: 65.23, 7: 72.11, 14: 72.11},
    "distillm2": {1.8: 66.31, 7: 74.86, 14: 76.78},
}
