"""The claims of the DistiLLM-2 paper (arXiv 2503.07067) as contrasts of runs, with the numbers it reports.

Each says what would refute the reason that its discussion gives, as an arm.
"""

from minidistill.experiments.arms import COMPARED, EPSILONS, FEWER_PROMPTS, MORE_PROMPTS
from minidistill.experiments.verdicts import Claim, Contrast, pairwise
from minidistill.utils import unknown_name_message

BASELINES = ("seqkd", "kd", "imitkd", "gkd", "distillm", "speculative_kd")  # of Table 2
STRONG_BASELINES = ("gkd", "distillm")  # of Fig 3 and Table 8, beside KD of Tables 3 and 4

HYPOTHESES: dict[str, Claim] = {
    "C1": Claim(
        "KL pulls up where the teacher is high, RKL pushes down where it is low",
        "Fig 1(a)",
        "80 tokens, curves after 1, 5, 10 steps",
        (
            Contrast("KL's head over RKL's", {"toy_kl": 1, "toy_rkl": -1}, "head"),
            Contrast("RKL's tail under KL's", {"toy_kl": 1, "toy_rkl": -1}, "tail"),
        ),
    ),
    "C2": Claim(
        "DPKD collapses; CALD separates teacher's and student's responses",
        "Fig 1(b)",
        "NLL on teacher/student responses: DPKD 20.29/91.25, CALD 2.06/2.18, KL 2.50/1.61",
        (
            Contrast("DPKD's NLL is above its start's", {"dpkd": 1, "start": -1}, "nll_teacher"),
            Contrast("DPKD is right less often than its start", {"start": 1, "dpkd": -1}),
            *pairwise("cald", ("kd", "skl", "srkl"), "separation"),
        ),
    ),
    "C3": Claim(
        "CALD beats KL, RKL, SKL, SRKL and CALD without the skew, and is faster",
        "Fig 1(c)",
        "ROUGE-L by step: CALD(SKL) highest throughout",
        pairwise("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"))
        + pairwise("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"), "accuracy_on_the_way"),
        discussion="CALD differs from KD in two things: its pull-up is skewed, and half of the weight pushes "
        "down. The skew alone (a tenth of the weight pushes down) costs as much as both; the weight alone "
        "(no skew) leans the same way, undecided. Without either CALD is not behind KD.",
        explanation=(
            *pairwise("cald_a0.1_b0.1", ("kd",)),
            *pairwise("cald_kl", ("kd",)),
            *pairwise("cald_a0.1_b0.1", ("cald",)),
            *pairwise("cald_a0_b0.1", ("cald_kl", "cald_a0.1_b0.1", "kd")),
            *pairwise("cald_a0_b0.1", ("kd",), "accuracy_sampled"),
        ),
    ),
    "C4": Claim(
        "The pairing matters: SKL on the teacher's responses, SRKL on the student's",
        "Sec 3.1",
        "no table; the paper's central argument",
        (
            *pairwise("cald", ("cald_swapped", "cald_all_tgo", "cald_all_sgo")),
            Contrast(
                "each direction on its own source over on the other",
                {"skl": 0.5, "srkl_on_sgo": 0.5, "skl_on_sgo": -0.5, "srkl": -0.5},
            ),
        ),
        explanation=(
            Contrast(
                "the teacher's responses over the student's, whatever the direction",
                {"skl": 0.5, "srkl": 0.5, "skl_on_sgo": -0.5, "srkl_on_sgo": -0.5},
            ),
            Contrast(
                "SKL over SRKL, whatever the source",
                {"skl": 0.5, "skl_on_sgo": 0.5, "srkl": -0.5, "srkl_on_sgo": -0.5},
            ),
        ),
    ),
    "C5": Claim(
        "Responses written by both models hurt, in either slot",
        "Fig 2(a)",
        "SKL best at ε = 1 (the teacher's own), SRKL best at ε = 0 (the student's own)",
        pairwise("cald", [f"cald_{slot}_mixed_{e:g}" for slot in ("tgo", "sgo") for e in EPSILONS]),
    ),
    "C6": Claim(
        "Better responses than the teacher's do not train a better student",
        "Fig 2(b)",
        "y_t from stronger models: below the teacher's own",
        pairwise("cald", ("cald_references", "cald_best_tgo")),
        discussion="This teacher is right on 99 prompts of 100, so nothing can be much better. With one that "
        "is right on four of ten the data set's answers are better for certain, and still make no difference "
        "that matters: at each place the student copies the *teacher's* distribution, whoever wrote it. "
        "Read as words alone (SFT) the same answers must then teach much more (last row).",
        explanation=(
            *pairwise("cald", ("cald_references", "cald_best_tgo"), "rouge_l"),
            *pairwise("cald_small_teacher", ("cald_small_teacher_references",)),
            *pairwise("sft", ("cald_small_teacher_references",)),
        ),
    ),
    "C7": Claim(
        "The best α falls from epoch to epoch",
        "Table 1",
        "Mistral, Evol: epoch 1 .3/.1/.01 76.2/79.8/76.4; epoch 3 .1/.01 82.9/84.7",
        tuple(
            Contrast(
                f"α = {small:g} gains on {large:g} from epoch 1 to 3",
                {
                    f"alpha_e3_{small:g}": 1,
                    f"alpha_e3_{large:g}": -1,
                    f"alpha_e1_{small:g}": -1,
                    f"alpha_e1_{large:g}": 1,
                },
            )
            for small, large in ((0.01, 0.1), (0.1, 0.3))
        ),
    ),
    "C8": Claim(
        "Each component of DistiLLM-2 adds: contrast, β, α",
        "Table 5",
        "v1 41.55, contrastive 43.61, + β 44.80, + α 45.22, all 46.50",
        (
            *pairwise("cald", ("distillm",)),
            *pairwise("distillm2_no_alpha", ("cald",)),
            *pairwise("distillm2_no_beta", ("cald",)),
            *pairwise("distillm2", ("distillm2_no_alpha", "distillm2_no_beta")),
        ),
        explanation=(
            *pairwise("alpha_rule", ("alpha_shuffled", "alpha_reversed", "alpha_exact", "alpha_to_0.3")),
            *pairwise("cald_alpha_0.01", ("cald_alpha_0.1", "switch")),
            *pairwise("switch_adam_0.95", ("switch",)),
            *pairwise("distillm2_adam_0.95", ("distillm2",)),
            *pairwise("distillm2", ("distillm2_detached", "distillm2_paper_beta", "distillm2_not_halved")),
        ),
    ),
    "C9": Claim(
        "DistiLLM-2 beats every baseline in instruction following, mathematics and code",
        "Tables 2 to 4",
        "Qwen2 win rate: GKD 56.14, DistiLLM 56.35, DistiLLM-2 58.69; GSM8K 75.44, 75.59, 76.27; HumanEval "
        "54.88, 53.65, 59.92",
        (
            *pairwise("distillm2", ("start", *BASELINES)),
            *(
                contrast
                for world in ("arithmetic", "program")
                for contrast in pairwise(
                    f"{world}/distillm2",
                    [f"{world}/{name}" for name in ("start", "kd", *STRONG_BASELINES)],
                )
            ),
        ),
        discussion="A rival is a method and its settings. GKD's β was searched here, as every method's own; "
        "at the 0.9 of the released code it loses its lead (below): then DistiLLM-2 is level with it.",
        explanation=(
            *pairwise("distillm2", BASELINES, "accuracy_sampled"),
            *(
                Contrast(
                    f"DistiLLM-2 over KD, at {width} against 96",
                    {f"distillm2_{width}": 1, f"kd_{width}": -1, "distillm2_width_96": -1, "kd_width_96": 1},
                )
                for width in ("width_32", "width_48")
            ),
            Contrast("DistiLLM-2 over KD, adapters alone", {"lora_distillm2": 1, "lora_kd": -1}),
            Contrast("program: nine epochs of KD over three", {"program/kd_e9": 1, "program/kd": -1}),
            *pairwise("distillm2", ("gkd_beta_0.9",)),
            *pairwise("gkd", ("gkd_beta_0.9",)),
        ),
    ),
    "C10": Claim(
        "DistiLLM-2 is above GKD and DistiLLM at every data size",
        "Fig 3",
        "13K, 25K, 50K prompts: the highest curve at each",
        tuple(
            c
            for size in (*(f"_p{count}" for count in FEWER_PROMPTS), "")
            for c in pairwise(f"distillm2{size}", [f"{rival}{size}" for rival in STRONG_BASELINES])
        ),
        discussion="The distance to the tuned GKD grows with the data. Rates that were searched on 4,000 "
        "prompts and suit fewer badly do not explain that: at 4,000 DistiLLM-2 is farthest behind.",
        explanation=pairwise(
            f"distillm2_p{MORE_PROMPTS}",
            [f"{rival}_p{MORE_PROMPTS}" for rival in ("kd", "cald", *STRONG_BASELINES)],
        ),
    ),
    "C11": Claim(
        "A stronger teacher helps, and helps DistiLLM-2 most",
        "Table 8",
        "teachers of 1.8B, 7B, 14B: GKD 64.18, 71.15, 72.59; DistiLLM 65.23, 72.11, 72.11; DistiLLM-2 66.31, "
        "74.86, 76.78",
        (
            *(
                contrast
                for method in COMPARED
                for stronger, weaker in (("", "_medium_teacher"), ("_medium_teacher", "_small_teacher"))
                for contrast in pairwise(f"{method}{stronger}", (f"{method}{weaker}",))
            ),
            *(
                Contrast(
                    f"gain from the smallest to the largest teacher, DistiLLM-2 over {rival}",
                    {"distillm2": 1, "distillm2_small_teacher": -1, rival: -1, f"{rival}_small_teacher": 1},
                )
                for rival in STRONG_BASELINES
            ),
        ),
    ),
    "C12": Claim(
        "A student distilled by DistiLLM-2 is a better start for DPO",
        "Table 6",
        "win rate after DPO, Qwen2, mean of two sets: SFT 30.09, GKD 56.66, DistiLLM 56.75, DistiLLM-2 60.33",
        pairwise("dpo_distillm2", ("dpo_start", "dpo_gkd", "dpo_distillm"), "win_rate"),
        discussion="DPO adds one to four points of win rate to any student, distillation a quarter: the "
        "order after DPO is the order before it. A student whose place DPO changed would refute that.",
    ),
    "C13": Claim(
        "DistiLLM-2 makes the better student where the prompt has a picture",
        "Table 7",
        "LLaVA-1.5-7B to TinyLLaVA-1.4B, OK-VQA/TextVQA: student 36.87/28.34, GKD 41.83/33.84, DistiLLM "
        "39.38/31.10, DistiLLM-2 44.72/34.98, teacher 54.70/42.91",
        pairwise("vision/distillm2", ("vision/start", "vision/gkd", "vision/distillm")),
        explanation=pairwise("vision/distillm2", ("vision/kd",)),
    ),
    "C14": Claim(
        "DistiLLM-2 heals a model broken to a few bits, better than GKD and DistiLLM",
        "Table 9",
        "Phi-3.5-mini, mean win rate: BF16 85.05, INT4 78.94; GKD 82.80, DistiLLM 83.35, DistiLLM-2 83.57",
        pairwise("int_distillm2", ("int_none", "int_gkd", "int_distillm")),
        discussion="What adapters heal is mostly a poor choice of steps. Steps of the least squared error, "
        "in the same bytes and without an example, leave about as much right (first row below); if "
        "rounding to two bits itself were the damage, they would stay far behind.",
        explanation=(
            Contrast("a better grid alone over healing", {"int_grid_none": 1, "int_distillm2": -1}),
            *pairwise("int_grid_distillm2", ("int_grid_none", "int_grid_gkd", "int_grid_distillm")),
        ),
    ),
    "C15": Claim(
        "DistiLLM-2 makes a better draft model for speculative decoding",
        "Table 10",
        "Phi-3-medium, speed-up (acceptance): SFT 1.32 (.412), GKD 1.64 (.464), DistiLLM 1.71 (.469), "
        "DistiLLM-2 1.97 (.487)",
        pairwise("draft_distillm2", ("draft_seqkd", "draft_gkd", "draft_distillm"), "acceptance"),
        discussion="A draft is accepted as often as it overlaps with its target, 1 − TV (13.3), and that is "
        "not its NLL: SeqKD's has the lowest and gains least. The three that read the target's probabilities "
        "and the draft's own responses gain alike; which of the two does it a run of KD would tell.",
        explanation=pairwise("draft_distillm2", ("draft_none",), "acceptance"),
    ),
    "C16": Claim(
        "Sampling once an epoch is nearly on-policy, at a fraction of the cost",
        "Table 12",
        "ROUGE-L on-policy 26.37, batched 26.20, off-policy 26.13",
        (
            Contrast(
                "batched as good as on-policy", {"distillm2": 1, "distillm2_on_policy": -1}, alike=True
            ),
            Contrast("on-policy costs more", {"distillm2_on_policy": 1, "distillm2": -1}, "log_seconds"),
        ),
        discussion="Responses sampled once, before training, show mistakes that the student soon makes no "
        "more; were their age harmless, the row below would be zero.",
        explanation=pairwise("distillm2", ("distillm2_off_policy",)),
    ),
}  # fmt: skip


def get_hypothesis(name: str) -> Claim:
    """Return the claim of that name; ValueError lists all of them and the nearest."""
    if name.upper() not in HYPOTHESES:
        raise ValueError(unknown_name_message("claim", name, HYPOTHESES))
    return HYPOTHESES[name.upper()]
