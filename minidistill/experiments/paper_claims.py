"""The claims of the DistiLLM-2 paper (arXiv 2503.07067) as data: contrasts and reported numbers."""

import math
from dataclasses import replace

from minidistill.experiments import paper_results
from minidistill.experiments.contrasts import Claim, Contrast, pairwise
from minidistill.experiments.paper_results import PaperResult
from minidistill.experiments.run_configs import (
    BASELINES,
    DOMAINS,
    EPSILONS,
    STRONG_BASELINES,
    VISION_METHODS,
    in_world,
)

CLAIMS: dict[str, Claim] = {
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
            Contrast("DPKD 2 nats above CALD", {"dpkd": 1, "cald": -1}, "nll_teacher", 2.0),
            *pairwise("cald", ("kd", "skl", "srkl"), "separation"),
        ),
    ),
    "C3": Claim(
        "CALD beats KL, RKL, SKL, SRKL and CALD without the skew, and is faster",
        "Fig 1(c)",
        "ROUGE-L by step: CALD(SKL) highest throughout",
        pairwise("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"))
        + pairwise("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"), "early"),
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
        discussion="Both pairings read the same two sources and differ only in which of two similar losses "
        "reads which; the interaction of direction and source is there, but small.",
    ),
    "C5": Claim(
        "Responses written by both models hurt, in either slot",
        "Fig 2(a)",
        "SKL best at ε = 1 (the teacher's own), SRKL best at ε = 0 (the student's own)",
        pairwise("cald", [f"cald_{slot}_mixed_{e:g}" for slot in ("tgo", "sgo") for e in EPSILONS]),
        discussion="A response that both write at ε = 0.3 is right as often as the teacher's own, and no "
        "less likely under the student (lesson 06), so neither slot loses by it. The differences are a "
        "thousandth or two of ROUGE-L, whatever their sign.",
    ),
    "C6": Claim(
        "Better responses than the teacher's do not train a better student",
        "Fig 2(b)",
        "y_t from stronger models: below the teacher's own",
        pairwise("cald", ("cald_references", "cald_best_tgo"))
        + pairwise("cald", ("cald_references", "cald_best_tgo"), "accuracy"),
        discussion="ROUGE-L is measured against references, so training on references has the measure on "
        "its side; accuracy is not biased so. The teacher is right 95 times in 100, which leaves little to "
        "be better at, and a response by another writer costs the student little when the world has one "
        "style.",
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
        discussion="The differences between values of α are as small as those between seeds, in every "
        "epoch. The paper's own steps are two or three points of win rate, printed without a spread.",
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
        discussion="The contrast and the replay buffer are about equally good here. A larger β takes "
        "weight off the pull-up: in the grid of constant α and β, β = 0.7 is below β = 0.5 at every α. Why "
        "an α for each sample costs a little is open: a constant α of 0.01 does not.",
    ),
    "C9": Claim(
        "DistiLLM-2 beats every baseline in instruction following, mathematics and code",
        "Tables 2 to 4",
        "Qwen2 win rate: GKD 56.14, DistiLLM 56.35, DistiLLM-2 58.69; GSM8K 75.44, 75.59, 76.27; HumanEval "
        "54.88, 53.65, 59.92",
        tuple(
            c
            for d in DOMAINS
            for c in pairwise(
                in_world(d, "distillm2"), [in_world(d, b) for b in BASELINES], "accuracy"
            )
        ),
        discussion="In arithmetic and program DistiLLM-2 is above every method that reads one model's "
        "responses alone, seed by seed. GKD and DistiLLM read both models' too, and in all three worlds "
        "they are ahead of it. So is CALD, which is DistiLLM-2 without its schedules (lesson 09): what "
        "costs here is the schedules, as in C8, and not the contrast.",
    ),
    "C10": Claim(
        "DistiLLM-2 is above GKD and DistiLLM at every data size",
        "Fig 3",
        "13K, 25K, 50K prompts: the highest curve at each",
        tuple(
            c
            for d in DOMAINS
            for size in ("_p250", "_p500", "")
            for c in pairwise(
                in_world(d, f"distillm2{size}"),
                [in_world(d, f"{r}{size}") for r in STRONG_BASELINES],
                "accuracy",
            )
        ),
        discussion="At every size GKD is ahead, for the reasons given under C9. In each world the three "
        "methods lie closer together at a quarter of the prompts, which are a quarter of the steps too, "
        "than at all of them: how much data there is matters more than which of the three uses it.",
    ),
    "C11": Claim(
        "A stronger teacher helps, and helps DistiLLM-2 most",
        "Table 8",
        "teachers of 1.8B, 7B, 14B: GKD 64.18, 71.15, 72.59; DistiLLM 65.23, 72.11, 72.11; DistiLLM-2 66.31, "
        "74.86, 76.78",
        (
            *(
                contrast
                for method in ("distillm2", *STRONG_BASELINES)
                for stronger, weaker in (
                    ("", "_medium_teacher"),
                    ("_medium_teacher", "_small_teacher"),
                )
                for contrast in pairwise(f"{method}{stronger}", (f"{method}{weaker}",), "accuracy")
            ),
            *(
                Contrast(
                    f"gain from the smallest to the largest teacher, DistiLLM-2 over {rival}",
                    {
                        "distillm2": 1,
                        "distillm2_small_teacher": -1,
                        rival: -1,
                        f"{rival}_small_teacher": 1,
                    },
                    "accuracy",
                )  # fmt: skip
                for rival in STRONG_BASELINES
            ),
        ),
        discussion="From the weakest teacher to the next everybody gains. From there to the strongest, "
        "which is right far more often still, the gains are small: a student this small is not limited by "
        "its teacher any more. That DistiLLM-2 gains more than others is not seen.",
    ),
    "C12": Claim(
        "A student distilled by DistiLLM-2 is a better start for DPO",
        "Table 6",
        "win rate after DPO, Qwen2, mean of two sets: SFT 30.09, GKD 56.66, DistiLLM 56.75, DistiLLM-2 60.33",
        pairwise("dpo_distillm2", ("dpo_sft", "dpo_gkd", "dpo_distillm"), "win_rate"),
        discussion="Every distilled start is far ahead of SFT's, before DPO and after it, in every seed. "
        "DPO adds two to three points of win rate to each of them, and to SFT's nothing that five seeds "
        "resolve, though that policy ends farthest from its start. What DistiLLM-2's start lacks against "
        "GKD's it lacked before DPO (C9).",
    ),
    "C13": Claim(
        "DistiLLM-2 makes the better student where the prompt has a picture",
        "Table 7",
        "LLaVA-1.5-7B to TinyLLaVA-1.4B, OK-VQA/TextVQA: student 36.87/28.34, GKD 41.83/33.84, DistiLLM "
        "39.38/31.10, DistiLLM-2 44.72/34.98, teacher 54.70/42.91",
        pairwise(
            in_world("vision", "distillm2"),
            [in_world("vision", name) for name in VISION_METHODS if name != "distillm2"],
            "accuracy",
        ),
        discussion="Every method lifts the SFT student by five to ten points in every seed, most where a "
        "colour is to be said (questions for a colour, and for names of things). GKD and DistiLLM end "
        "level with one another, a point and a half above DistiLLM-2. Its schedules are not what it lacks: "
        "CALD, without them, ends level with it. In the paper it leads GKD by three points and by one, and "
        "GKD leads DistiLLM.",
    ),
    "C14": Claim(
        "DistiLLM-2 heals a model broken to a few bits, better than GKD and DistiLLM",
        "Table 9",
        "Phi-3.5-mini, mean win rate: BF16 85.05, INT4 78.94; GKD 82.80, DistiLLM 83.35, DistiLLM-2 83.57",
        pairwise("int_distillm2", ("int_none", "int_gkd", "int_distillm"), "accuracy"),
        discussion="Our teacher bears four bits without harm, so it is broken to two: .37 of its responses "
        "are right in place of .94. Adapters bring back most of that by any method, in every seed. The "
        "three that read the student's own responses heal more than SFT and KD, which differ by two "
        "thousandths. DistiLLM-2 and GKD lie a thousandth apart. DistiLLM-2 is above DistiLLM at a "
        "learning rate of 1.5e-3, and at 3e-3 (lesson 12) that too is not resolved.",
    ),
    "C15": Claim(
        "DistiLLM-2 makes a better draft model for speculative decoding",
        "Table 10",
        "Phi-3-medium, speed-up (acceptance): SFT 1.32 (.412), GKD 1.64 (.464), DistiLLM 1.71 (.469), "
        "DistiLLM-2 1.97 (.487)",
        pairwise("draft_distillm2", ("draft_sft", "draft_gkd", "draft_distillm"), "acceptance"),
        discussion="Every method makes a better draft than SFT, in every seed. The three that read both "
        "models' responses lie within four thousandths of one another, with GKD ahead as in C9. The "
        "paper's SFT draft starts at .412 accepted, ours at .70: a draft that shares nine tenths of its "
        "mass with the target has less to gain.",
    ),
    "C16": Claim(
        "Sampling once an epoch is nearly on-policy, at a fraction of the cost",
        "Table 12",
        "ROUGE-L on-policy 26.37, batched 26.20, off-policy 26.13",
        (
            Contrast(
                "batched within .01 of on-policy",
                {"distillm2": 1, "distillm2_on_policy": -1},
                margin=-0.01,
            ),
            Contrast(
                "on-policy costs 1.5 times as much or more",
                {"distillm2_on_policy": 1, "distillm2": -1},
                "log_seconds",
                math.log(1.5),
            ),
        ),
        discussion="An epoch is only 125 steps here, so batched responses are never old, and on-policy "
        "sampling pays for small batches at every step. Where an epoch is thousands of steps the gap can "
        "grow.",
    ),
}


def _in_old_names(result: PaperResult) -> PaperResult:
    """Call the start 'sft', as these runs do, with the teacher first."""
    scores = {"sft" if name == "start" else name: score for name, score in result.scores.items()}
    return replace(result, scores={"teacher": scores.pop("teacher"), **scores})


PAPER_RESULTS = {
    world: _in_old_names(result) for world, result in paper_results.PAPER_RESULTS.items()
}
PAPER_TEACHERS = paper_results.PAPER_TEACHERS
