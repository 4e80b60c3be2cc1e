"""Labels of methods and metrics, for every table and figure.

torch is not imported here: a command can name its methods before that is loaded.
"""

MAIN_METHODS = ("kd", "gkd", "skl", "dpkd", "cald", "distillm2")  # of the main table and `run`

METHOD_LABELS = {
    "teacher": "teacher", "sft": "SFT", "seqkd": "SeqKD", "kd": "KD", "rkl": "RKL", "imitkd": "ImitKD",
    "gkd": "GKD", "skl": "SKL", "srkl": "SRKL", "dpkd": "DPKD", "distillm": "DistiLLM",
    "speculative_kd": "Speculative KD", "cald": "CALD", "distillm2": "DistiLLM-2",
}  # fmt: skip
RUN_LABELS = {
    "start": "start (SFT)",
    "draft_none": "start (SFT)",
    "int_none": "broken",
    "int_grid_none": "broken, better grid",
    "int_grid_gkd": "GKD, better grid",
    "int_grid_distillm": "DistiLLM, better grid",
    "int_grid_distillm2": "DistiLLM-2, better grid",
    "cald_kl": "CALD without skew",
    "distillm2_no_alpha": "DistiLLM-2 without α",
    "distillm2_no_beta": "DistiLLM-2 without β",
}  # runs that are not named by a method
# What a run's name begins with, before its method's.
APPLICATIONS = ("dpo_", "int_", "draft_", "lora_")

METRIC_LABELS = {
    "nll_teacher": "NLL on teacher responses", "nll_student": "NLL on student responses",
    "rouge_l": "ROUGE-L", "accuracy": "accuracy", "win_rate": "win rate",
    "acceptance": "share of drafted tokens accepted",
    "separation": "NLL on student minus on teacher responses",
    "accuracy_sampled": "accuracy, T = 0.8", "accuracy_t1": "accuracy, T = 1", "entropy": "entropy",
    "accuracy_on_the_way": "accuracy on the way", "log_seconds": "log seconds",
    "head": "mass in the head", "tail": "mass in the tail",
}  # fmt: skip
MAIN_METRICS = ("nll_teacher", "nll_student", "rouge_l", "accuracy")
REAL_METRIC_LABELS = {  # of a real pair, whose student's own responses stay those of its start
    "nll_teacher": METRIC_LABELS["nll_teacher"],
    "nll_student": "NLL on the first student's responses",
    "rouge_l": METRIC_LABELS["rouge_l"],
}
PREFERENCE_LABELS = {
    "win_rate": "win rate over the start", "margin": "reward margin", "accuracy": "pairs ranked rightly",
    "chosen": "log-prob of chosen (nats)", "rejected": "log-prob of rejected (nats)",
    "kl": "KL to the start (nats a response)",
}  # fmt: skip


def run_label(name: str) -> str:
    """Label a run by its method, whatever its world or application: 'arithmetic/kd' and 'dpo_kd' are KD."""
    label = name.rpartition("/")[2]
    if label in RUN_LABELS:
        return RUN_LABELS[label]
    for application in APPLICATIONS:
        label = label.removeprefix(application)
    return METHOD_LABELS.get(label, label)
