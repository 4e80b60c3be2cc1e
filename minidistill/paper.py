"""What the DistiLLM-2 paper (arXiv 2503.07067) claims of the method itself, as data: contrasts, figures.

Its applications' claims (C12 to C15) stand in `paper_applications.py`.
"""

import math

from minidistill.arms import BASELINES, DOMAINS, EPSILONS, RIVALS, in_world
from minidistill.contrasts import Claim, Contrast, over
from minidistill.paper_applications import APPLICATIONS

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
            *over("cald", ("kd", "skl", "srkl"), "separation"),
        ),
    ),
    "C3": Claim(
        "CALD beats KL, RKL, SKL, SRKL and CALD without the skew, and is faster",
        "Fig 1(c)",
        "ROUGE-L by step: CALD(SKL) highest throughout",
        over("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"))
        + over("cald", ("kd", "rkl", "skl", "srkl", "cald_kl"), "early"),
    ),
    "C4": Claim(
        "The pairing matters: SKL on the teacher's responses, SRKL on the student's",
        "Sec 3.1",
        "no table; the paper's central argument",
        (
            *over("cald", ("cald_swapped", "cald_all_tgo", "cald_all_sgo")),
            Contrast(
                "each direction on its own source over on the other",
                {"skl": 0.5, "srkl_on_sgo": 0.5, "skl_on_sgo": -0.5, "srkl": -0.5},
            ),
        ),
        why="Both pairings read the same two sources and differ only in which of two similar losses reads "
        "which; the interaction of direction and source is there, but small.",
    ),
    "C5": Claim(
        "Responses written by both models hurt, in either slot",
        "Fig 2(a)",
        "SKL best at ε = 1 (the teacher's own), SRKL best at ε = 0 (the student's own)",
        over("cald", [f"cald_{slot}_mixed_{e:g}" for slot in ("tgo", "sgo") for e in EPSILONS]),
        why="A response that both write at ε = 0.3 is right as often as the teacher's own, and no less "
        "likely under the student (lesson 06), so neither slot loses by it. The differences are a "
        "thousandth or two of ROUGE-L, whatever their sign.",
    ),
    "C6": Claim(
        "Better responses than the teacher's do not train a better student",
        "Fig 2(b)",
        "y_t from stronger models: below the teacher's own",
        over("cald", ("cald_references", "cald_best_tgo"))
        + over("cald", ("cald_references", "cald_best_tgo"), "accuracy"),
        why="ROUGE-L is measured against references, so training on references has the measure on its side; "
        "accuracy is not biased so. The teacher is right 95 times in 100, which leaves little to be better "
        "at, and a response by another writer costs the student little when the world has one style.",
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
        why="The differences between values of α are as small as those between seeds, in every epoch. The "
        "paper's own steps are two or three points of win rate, printed without a spread.",
    ),
    "C8": Claim(
        "Each component of DistiLLM-2 adds: contrast, β, α",
        "Table 5",
        "v1 41.55, contrastive 43.61, + β 44.80, + α 45.22, all 46.50",
        (
            *over("cald", ("distillm",)),
            *over("distillm2_no_alpha", ("cald",)),
            *over("distillm2_no_beta", ("cald",)),
            *over("distillm2", ("distillm2_no_alpha", "distillm2_no_beta")),
        ),
        why="The contrast and the replay buffer are about equally good here. A larger β takes weight off the "
        "pull-up: in the grid of constant α and β, β = 0.7 is below β = 0.5 at every α. Why an α for each "
        "sample costs a little is open: a constant α of 0.01 does not.",
    ),
    "C9": Claim(
        "DistiLLM-2 beats every baseline in instruction following, mathematics and code",
        "Tables 2 to 4",
        "Qwen2 win rate: GKD 56.14, DistiLLM 56.35, DistiLLM-2 58.69; GSM8K 75.44, 75.59, 76.27; HumanEval "
        "54.88, 53.65, 59.92",
        tuple(
            c
            for d in DOMAINS
            for c in over(in_world(d, "distillm2"), [in_world(d, b) for b in BASELINES], "accuracy")
        ),
        why="In arithmetic and program DistiLLM-2 is above every method that reads one model's responses "
        "alone, seed by seed. GKD and DistiLLM read both models' too, and in all three worlds they are ahead "
        "of it. So is CALD, which is DistiLLM-2 without its schedules (lesson 09): what costs here is the "
        "schedules, as in C8, and not the contrast.",
    ),
    "C10": Claim(
        "DistiLLM-2 is above GKD and DistiLLM at every data size",
        "Fig 3",
        "13K, 25K, 50K prompts: the highest curve at each",
        tuple(
            c
            for d in DOMAINS
            for size in ("_p250", "_p500", "")
            for c in over(
                in_world(d, f"distillm2{size}"),
                [in_world(d, f"{r}{size}") for r in RIVALS],
                "accuracy",
            )
        ),
        why="At every size GKD is ahead, for the reasons given under C9. In each world the three methods lie "
        "closer together at a quarter of the prompts, which are a quarter of the steps too, than at all of "
        "them: how much data there is matters more than which of the three uses it.",
    ),
    "C11": Claim(
        "A stronger teacher helps, and helps DistiLLM-2 most",
        "Table 8",
        "teachers of 1.8B, 7B, 14B: GKD 64.18, 71.15, 72.59; DistiLLM 65.23, 72.11, 72.11; DistiLLM-2 66.31, "
        "74.86, 76.78",
        (
            *(
                contrast
                for method in ("distillm2", *RIVALS)
                for stronger, weaker in (
                    ("", "_medium_teacher"),
                    ("_medium_teacher", "_small_teacher"),
                )
                for contrast in over(f"{method}{stronger}", (f"{method}{weaker}",), "accuracy")
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
                for rival in RIVALS
            ),
        ),
        why="From the weakest teacher to the next everybody gains. From there to the strongest, which is "
        "right far more often still, the gains are small: a student this small is not limited by its teacher "
        "any more. That DistiLLM-2 gains more than others is not seen.",
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
        why="An epoch is only 125 steps here, so batched responses are never old, and on-policy sampling "
        "pays for small batches at every step. Where an epoch is thousands of steps the gap can grow.",
    ),
    **APPLICATIONS,
}
CLAIMS = {name: CLAIMS[name] for name in sorted(CLAIMS, key=lambda name: int(name[1:]))}
