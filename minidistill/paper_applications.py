"""What the DistiLLM-2 paper (arXiv 2503.07067) claims distillation is good for: C12 to C15."""

from minidistill.arms import SEEING, in_world
from minidistill.contrasts import Claim, over

APPLICATIONS: dict[str, Claim] = {
    "C12": Claim(
        "A student distilled by DistiLLM-2 is a better start for DPO",
        "Table 6",
        "win rate after DPO, Qwen2, mean of two sets: SFT 30.09, GKD 56.66, DistiLLM 56.75, DistiLLM-2 60.33",
        over("dpo_distillm2", ("dpo_sft", "dpo_gkd", "dpo_distillm"), "win_rate"),
        why="Every distilled start is far ahead of SFT's, before DPO and after it, in every seed. DPO adds "
        "two to three points of win rate to each of them, and to SFT's nothing that five seeds resolve, "
        "though that policy ends farthest from its start. What DistiLLM-2's start lacks against GKD's it "
        "lacked before DPO (C9).",
    ),
    "C13": Claim(
        "DistiLLM-2 makes the better student where the prompt has a picture",
        "Table 7",
        "LLaVA-1.5-7B to TinyLLaVA-1.4B, OK-VQA/TextVQA: student 36.87/28.34, GKD 41.83/33.84, DistiLLM "
        "39.38/31.10, DistiLLM-2 44.72/34.98, teacher 54.70/42.91",
        over(
            in_world("vision", "distillm2"),
            [in_world("vision", name) for name in SEEING if name != "distillm2"],
            "accuracy",
        ),
        why="Every method lifts the SFT student by five to ten points in every seed, most where a colour "
        "is to be said (questions for a colour, and for names of things). GKD and DistiLLM end level with "
        "one another, a point and a half above DistiLLM-2. Its schedules are not what it lacks: CALD, "
        "without them, ends level with it. In the paper it leads GKD by three points and by one, and GKD "
        "leads DistiLLM.",
    ),
    "C14": Claim(
        "DistiLLM-2 heals a model broken to a few bits, better than GKD and DistiLLM",
        "Table 9",
        "Phi-3.5-mini, mean win rate: BF16 85.05, INT4 78.94; GKD 82.80, DistiLLM 83.35, DistiLLM-2 83.57",
        over("int_distillm2", ("int_none", "int_gkd", "int_distillm"), "accuracy"),
        why="Our teacher bears four bits without harm, so it is broken to two: .37 of its responses are "
        "right in place of .94. Adapters bring back most of that by any method, in every seed. The "
        "three that read the student's own responses heal more than SFT and KD, which differ by two "
        "thousandths. DistiLLM-2 and GKD lie a thousandth apart. DistiLLM-2 is above DistiLLM at a "
        "learning rate of 1.5e-3, and at 3e-3 (lesson 12) that too is not resolved.",
    ),
    "C15": Claim(
        "DistiLLM-2 makes a better draft model for speculative decoding",
        "Table 10",
        "Phi-3-medium, speed-up (acceptance): SFT 1.32 (.412), GKD 1.64 (.464), DistiLLM 1.71 (.469), "
        "DistiLLM-2 1.97 (.487)",
        over("draft_distillm2", ("draft_sft", "draft_gkd", "draft_distillm"), "acceptance"),
        why="Every method makes a better draft than SFT, in every seed. The three that read both models' "
        "responses lie within four thousandths of one another, with GKD ahead as in C9. The paper's SFT "
        "draft starts at .412 accepted, ours at .70: a draft that shares nine tenths of its mass with the "
        "target has less to gain.",
    ),
}
