"""Arms: every kind of run that a claim compares or an explanation needs, by the name that logs call it.

`make_run("cald_swapped", seed)` comes with its tuned settings filled in. An arm takes those of its method,
or of the one named in `tuned_as`; what it changes on top is written here.
"""

from dataclasses import replace
from pathlib import Path

from minidistill.experiments.logs import world_of
from minidistill.experiments.protocol import START, TEACHER, Arm, Protocol, Run
from minidistill.experiments.tuning import tuned
from minidistill.experiments.worlds import WIDTHS
from minidistill.objectives import get_method
from minidistill.utils import unknown_name_message

PROTOCOLS = {world: Protocol(world) for world in ("instruct", "arithmetic", "program")}
# Looking is learnt in thousands of steps.
PROTOCOLS["vision"] = Protocol("vision", prompts=6000, epochs=4, batch_size=16)

# Tuned, each with the same budget, in the worlds named.
TUNED = {
    "instruct": (
        "seqkd", "kd", "rkl", "skl", "srkl", "imitkd", "gkd", "distillm", "speculative_kd", "dpkd",
        "cald", "cald_kl", "distillm2", "distillm2_no_alpha", "distillm2_no_beta",
    ),
    "arithmetic": ("kd", "rkl", "gkd", "distillm", "cald", "distillm2"),
    "program": ("kd", "rkl", "gkd", "distillm", "cald", "distillm2"),
    "vision": ("kd", "gkd", "distillm", "distillm2"),
}  # fmt: skip
EPSILONS = (0.3, 1.0)
FEWER_PROMPTS = (1000, 2000)
ALPHAS, BETAS = (0.0, 0.01, 0.1, 0.3), (0.1, 0.3, 0.5, 0.7, 0.9)


def _by_epoch(*alphas: float) -> Arm:
    settings = {"epochs": len(alphas)}
    return Arm("cald_by_epoch", {}, {"alphas": list(alphas)}, settings, tuned_as="cald")


def _variant(**settings) -> Arm:
    return Arm("distillm2_variant", method_kwargs=settings, tuned_as="distillm2")


ARMS: dict[str, Arm] = {
    START: Arm(""),
    TEACHER: Arm("", student=TEACHER),
    **{name: Arm(name) for name in TUNED["instruct"]},
    # C4: who wrote the responses × which direction × how old the student's are
    "skl_on_sgo": Arm("skl", {"tgo": "sgo"}),
    "srkl_on_sgo": Arm("srkl", {"tgo": "sgo"}),
    "rkl_on_sgo": Arm("rkl", {"tgo": "sgo"}),
    "cald_swapped": Arm("cald", {"tgo": "sgo", "sgo": "tgo"}),
    "cald_all_tgo": Arm("cald", {"sgo": "tgo"}),
    "cald_all_sgo": Arm("cald", {"tgo": "sgo"}),
    # C5, C6: other responses in one slot
    **{
        f"cald_{slot}_mixed_{epsilon:g}": Arm(
            "cald", {slot: "speculative_mix"}, settings={"epsilon": epsilon}
        )
        for slot in ("tgo", "sgo")
        for epsilon in EPSILONS
    },
    "cald_references": Arm("cald", {"tgo": "reference"}),
    "cald_best_tgo": Arm("cald", {"tgo": "best_of_n_tgo"}),
    # C7: alpha in the last of one or of three epochs
    **{f"alpha_e1_{a:g}": _by_epoch(a) for a in (0.3, 0.1, 0.01)},
    **{f"alpha_e3_{a:g}": _by_epoch(0.1, 0.1, a) for a in (0.3, 0.1, 0.01)},
    # C8: what the schedules do, and is it the rule?
    "distillm2_paper_beta": Arm("distillm2_paper_beta", tuned_as="distillm2"),
    "distillm2_detached": _variant(detach_mixture=True),
    "distillm2_not_halved": _variant(halved=False),
    "alpha_rule": _variant(beta0=0.5, beta_end=0.5),
    "alpha_shuffled": _variant(beta0=0.5, beta_end=0.5, rule="shuffled"),
    "alpha_reversed": _variant(beta0=0.5, beta_end=0.5, rule="reversed"),
    "alpha_exact": _variant(beta0=0.5, beta_end=0.5, rule="exact"),
    "alpha_last_epoch": _variant(beta0=0.5, beta_end=0.5, rule="last_epoch"),
    "alpha_to_0.3": _variant(beta0=0.5, beta_end=0.5, high=0.3),
    "alpha_to_1": _variant(beta0=0.5, beta_end=0.5, low=0.0, high=1.0),
    "cald_alpha_0.01": Arm("cald", method_kwargs={"alpha": 0.01}),
    "cald_alpha_0.1": Arm("cald", method_kwargs={"alpha": 0.1}),
    "switch": _by_epoch(0.1, 0.01, 0.01),
    "switch_adam_0.95": replace(
        _by_epoch(0.1, 0.01, 0.01), settings={"epochs": 3, "adam_beta2": 0.95}
    ),
    "distillm2_adam_0.95": Arm("distillm2", settings={"adam_beta2": 0.95}),
    # C10: fewer prompts, for as many epochs or for as many steps
    **{
        f"{name}_p{count}": Arm(name, prompts=count)
        for count in FEWER_PROMPTS
        for name in ("kd", "gkd", "distillm", "cald", "distillm2")
    },
    **{
        f"{name}_p1000_same_steps": Arm(name, prompts=1000, settings={"epochs": 12})
        for name in ("gkd", "distillm", "distillm2")
    },
    # C16: how old the student's responses are
    "distillm2_on_policy": Arm("distillm2", {"sgo": "on_policy_sgo"}),
    "distillm2_off_policy": Arm("distillm2", {"sgo": "initial_sgo"}),
}
TEACHERS = ("small", "medium")
COMPARED = ("gkd", "distillm", "distillm2")
ARMS |= {  # C11: weaker teachers
    f"{name}_{size}_teacher": Arm(name, teacher=f"teacher_{size}")
    for size in TEACHERS
    for name in ("kd", "cald", *COMPARED)
}
# C6: where the teacher is mostly wrong, the data set's answers are better than its own.
ARMS["cald_small_teacher_references"] = Arm("cald", {"tgo": "reference"}, teacher="teacher_small")
ARMS["sft"] = Arm("sft", tuned_as="seqkd")  # the same answers, read as words
# Lesson 08's map: CALD adds the contrast, DistiLLM-2 its schedules.
MAPPED = ("kd", "cald", "distillm2")
RATE_FACTORS = (0.5, 2.0)
ARMS |= {  # off the rate that was searched
    f"{name}_rate_{factor:g}": Arm(name, settings={"lr_factor": factor})
    for factor in RATE_FACTORS
    for name in MAPPED
}
ARMS |= {f"dpo_{name}": Arm(name, hook="dpo") for name in COMPARED}  # C12
ARMS["dpo_start"] = Arm("", hook="dpo")
DPO_BETAS = (0.03, 0.1, 0.3, 1.0, 3.0)
ARMS |= {  # the price of a nat in lesson 10, at twice the rate; from a student that no claim compares
    f"dpo_beta_{beta:g}": Arm("kd", hook="dpo", hook_kwargs={"beta": beta, "lr": 2e-4})
    for beta in DPO_BETAS
}
APPLICATIONS: dict[str, Arm] = {  # other models than the world's pair: each has a rate of its own
    **{  # C14: the teacher in two bits, healed by adapters; on 1,000 prompts any method heals all of it
        f"int_{name}": Arm(
            name, student=TEACHER, hook="quantize", prompts=250,
            hook_kwargs={"bits": 2, "group": 128, "rank": 16},
        )
        for name in COMPARED
    },
    **{  # C15: a draft of one layer for a target of twelve
        f"draft_{name}": Arm(name, teacher="target", student="draft", hook="draft", prompts=2000)
        for name in ("seqkd", *COMPARED)
    },
    # C9: the world's own pair, but nothing is trained except adapters
    **{f"lora_{name}": Arm(name, hook="lora", hook_kwargs={"rank": 16}) for name in ("kd", "distillm2")},
}  # fmt: skip
ARMS |= {name: replace(arm, tuned_as=name) for name, arm in APPLICATIONS.items()}
ARMS["int_none"] = replace(APPLICATIONS["int_gkd"], method="")
ARMS |= {  # C14: in as many bytes, but steps are searched for the least error
    f"int_grid_{name}": replace(
        ARMS[f"int_{name}"], hook_kwargs=ARMS[f"int_{name}"].hook_kwargs | {"scale": "mse"}
    )
    for name in ("none", *COMPARED)
}
ARMS["draft_none"] = replace(APPLICATIONS["draft_gkd"], method="")
ARMS["kd_e9"] = Arm("kd", settings={"epochs": 9})  # C9: where a start is too young for the budget
ARMS["gkd_beta_0.9"] = Arm("gkd", method_kwargs={"beta": 0.9})  # C9: the rival as it was released
DIAL = ("kd", "rkl", "gkd", "distillm", "cald", "distillm2")
ARMS |= {  # C9: how much the student can copy, by its width
    f"{name}_{width}": Arm("" if name == START else name, student=width)
    for width in WIDTHS
    for name in (START, *DIAL)
}
MORE_PROMPTS = 12_000
ARMS |= {
    f"{name}_p{MORE_PROMPTS}": Arm(name, prompts=MORE_PROMPTS) for name in DIAL
}  # C10: on the other side
# The grid of constant alpha and beta of lessons 05 and 08, one seed.
CALD_GRID = {
    f"cald_a{a:g}_b{b:g}": Arm("cald", method_kwargs={"alpha": a, "beta": b})
    for a in ALPHAS
    for b in BETAS
}
ARMS |= CALD_GRID


def in_world(world: str, label: str) -> str:
    """Name an arm in a world: the other way round."""
    return label if world == "instruct" else f"{world}/{label}"


def get_protocol(world: str) -> Protocol:
    """Return a world's protocol; ValueError lists those that have one and the nearest."""
    if world not in PROTOCOLS:
        raise ValueError(unknown_name_message("world of the ledger", world, PROTOCOLS))
    return PROTOCOLS[world]


def searched_arm(world: str, name: str, folder: Path | None = None) -> Arm | None:
    """Return the arm that a search of this name runs: None for a method's own, which has defaults.

    An application's arm begins with the settings of its method, all but the rate.
    """
    if name not in APPLICATIONS:
        return None
    arm = APPLICATIONS[name]
    return replace(arm, method_kwargs=tuned(PROTOCOLS[world], arm.method, folder).method_kwargs)


def make_run(name: str, seed: int, folder: Path | None = None) -> Run:
    """Make the run of an arm with a seed, its tuned settings filled in; ValueError for an unknown one."""
    world, label = world_of(name), name.rpartition("/")[2]
    protocol = get_protocol(world)
    if label not in ARMS:
        raise ValueError(unknown_name_message("claim or arm", label, ARMS))
    arm = ARMS[label]
    if arm.method:
        searched = arm.tuned_as or arm.method
        found = tuned(protocol, searched, folder, searched_arm(world, searched, folder))
        kwargs = found.method_kwargs | arm.method_kwargs
        if arm.method != found.method:  # another method may lack one of the tuned ones
            kwargs = {k: v for k, v in kwargs.items() if k in get_method(arm.method).settings}
        settings = found.settings | arm.settings
        if factor := settings.pop("lr_factor", None):
            settings["lr"] *= factor
        arm = replace(arm, method_kwargs=kwargs, settings=settings)
    return Run(protocol, name, arm, seed)
