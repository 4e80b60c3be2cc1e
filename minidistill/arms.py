"""The arms of the ledger: each is one kind of run, under the name that logs and contrasts call it by."""

from dataclasses import replace

from minidistill.experiments import Arm


def world_of(name: str) -> str:
    """The tiny world of an arm: 'kd' is instruct's, 'arithmetic/kd' says so."""
    return name.rpartition("/")[0] or "instruct"


def in_world(world: str, label: str) -> str:
    """The name of an arm in a world; the inverse of `world_of`."""
    return label if world == "instruct" else f"{world}/{label}"


def _by_epoch(*alphas: float) -> Arm:
    return Arm("cald_by_epoch", hyper={"alphas": list(alphas)}, settings={"epochs": len(alphas)})


EPSILONS = (0.3, 1.0)
ALPHAS, BETAS = (0.0, 0.01, 0.1, 0.3), (0.1, 0.3, 0.5, 0.7, 0.9)
ARMS: dict[str, Arm] = {
    **{name: Arm(name) for name in ("sft", "kd", "rkl", "skl", "srkl", "gkd", "dpkd", "distillm")},
    **{name: Arm(name) for name in ("cald", "cald_kl", "distillm2", "distillm2_no_alpha")},
    **{name: Arm(name) for name in ("distillm2_no_beta", "distillm2_paper_beta")},
    # C4: who wrote the responses × which direction
    "skl_on_sgo": Arm("skl", {"tgo": "sgo"}),
    "srkl_on_sgo": Arm("srkl", {"tgo": "sgo"}),
    "cald_swapped": Arm("cald", {"tgo": "sgo", "sgo": "tgo"}),
    "cald_all_tgo": Arm("cald", {"sgo": "tgo"}),
    "cald_all_sgo": Arm("cald", {"tgo": "sgo"}),
    # C5, C6: other responses in one slot
    **{
        f"cald_{slot}_mixed_{epsilon:g}": Arm(
            "cald", {slot: "mixed"}, settings={"epsilon": epsilon}
        )
        for slot in ("tgo", "sgo")
        for epsilon in EPSILONS
    },
    "cald_references": Arm("cald", {"tgo": "reference"}),
    "cald_best_tgo": Arm("cald", {"tgo": "best_tgo"}),
    # C7: alpha in the last of one, two, three epochs
    **{f"alpha_e1_{a:g}": _by_epoch(a) for a in (0.3, 0.1, 0.01)},
    **{f"alpha_e2_{a:g}": _by_epoch(0.1, a) for a in (0.3, 0.1, 0.01)},
    **{f"alpha_e3_{a:g}": _by_epoch(0.1, 0.1, a) for a in (0.3, 0.1, 0.01)},
    # C16: how old the student's responses are
    "distillm2_on_policy": Arm("distillm2", {"sgo": "fresh_sgo"}),
    "distillm2_off_policy": Arm("distillm2", {"sgo": "first_sgo"}),
}
# C9: three worlds; C10: fewer prompts; C11: other teachers
DOMAINS = ("instruct", "arithmetic", "program")
BASELINES = ("sft", "seqkd", "kd", "imitkd", "gkd", "distillm", "speculative_kd")
RIVALS = ("gkd", "distillm")  # the paper's in Fig 3 and Table 8
SIZES = (250, 500)
TEACHERS = ("small", "medium")
ARMS |= {in_world(d, name): Arm(name) for d in DOMAINS for name in (*BASELINES, "distillm2")}
ARMS |= {
    in_world(d, f"{name}_p{size}"): Arm(name, prompts=size)
    for d in DOMAINS
    for size in SIZES
    for name in (*RIVALS, "distillm2")
}
ARMS |= {
    f"{name}_{size}_teacher": Arm(name, teacher=f"teacher_{size}")
    for size in TEACHERS
    for name in (*RIVALS, "distillm2")
}
# Not in a claim: what the schedules of DistiLLM-2 do in the other worlds (lesson 09).
CONTROLS = {in_world(d, "cald"): Arm("cald") for d in DOMAINS if d != "instruct"}
ARMS |= CONTROLS
GRID = {
    f"cald_a{a:g}_b{b:g}": Arm("cald", hyper={"alpha": a, "beta": b}) for a in ALPHAS for b in BETAS
}
MAP = {
    f"dpkd_{form}_lam{lam:g}_lr{lr:g}": Arm(
        "dpkd", hyper={"lam": lam, "per_token": form == "token"}, settings={"lr": lr}
    )
    for form in ("sequence", "token")
    for lam in (0.03, 0.1, 0.3, 1.0)
    for lr in (1.5e-4, 5e-4, 1.5e-3)
}
# C15: a draft of one layer for a target of twelve; KD is a control outside the claim
ARMS |= {
    f"draft_{name}": Arm(name, teacher="target", student="draft", stage="draft")
    for name in ("sft", "kd", "gkd", "distillm", "distillm2")
}
CONTROLS["draft_kd"] = ARMS["draft_kd"]
# C12: preference optimisation from four starts; beside it beta, from SFT's, with a push that is felt
ARMS |= {f"dpo_{name}": Arm(name, stage="dpo") for name in ("sft", "gkd", "distillm", "distillm2")}
DPO_BETAS = (0.03, 0.1, 0.3, 1.0, 3.0)
ALIGN = {
    f"dpo_beta_{b:g}": Arm("sft", stage="dpo", options={"beta": b, "lr": 2e-4, "epochs": 2})
    for b in DPO_BETAS
}
ARMS |= ALIGN
CONTROLS |= ALIGN
# C14: the teacher in two bits, healed by adapters. `int_none` is not healed, `int_whole` was never broken;
# SFT proper is SeqKD fed with references, as the name "sft" means a start. Of 5e-4, 1.5e-3 and 3e-3, tried
# with a seed outside the ledger, the first is too slow; the last ("fast") shows what hangs on the choice.
BROKEN = {"stage": "quantize", "options": {"bits": 2, "group": 32, "rank": 16}}
HEALERS = {"sft": Arm("seqkd", {"tgo": "reference"})} | {
    name: Arm(name) for name in ("kd", "gkd", "distillm", "distillm2")
}
ARMS |= {"int_none": Arm("sft", **BROKEN), "int_whole": Arm("sft", student="teacher")}
HEALED = {
    f"int_{name}": replace(arm, prompts=500, settings={"epochs": 2}, **BROKEN)
    for name, arm in HEALERS.items()
}
FAST = {
    f"int_{name}_fast": replace(HEALED[f"int_{name}"], settings={"epochs": 2, "lr": 3e-3})
    for name in (*RIVALS, "distillm2")
}
ARMS |= HEALED | FAST
CONTROLS |= {name: ARMS[name] for name in ("int_whole", "int_sft", "int_kd", *FAST)}
# C13: models that read pictures. The start is SFT's; CALD is a control, as in lesson 09.
SEEING = ("sft", "gkd", "distillm", "distillm2")
ARMS |= {in_world("vision", name): Arm(name) for name in (*SEEING, "cald")}
CONTROLS["vision/cald"] = ARMS["vision/cald"]
