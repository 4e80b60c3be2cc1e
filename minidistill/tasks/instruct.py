"""The instruct world: ten kinds of small requests about forty things, and a rule judge.

A family is a prompt pattern, several response patterns and a rule. The same patterns write the
references and read a response back: a response that fits none of them has bad *form*; one that
fits is judged for being *correct* (nothing false) and *complete* (nothing missing).

    form 1/3 + correct 1/3 + complete 1/3 = grade;   accuracy counts the grade of 1.

Choices follow Zipf's law, so most prompts have many right answers, a few of them likely.
"""

import random

from minidistill.tasks.grammar import Family, World, join, split, zipf, zipf_subset

KINDS = {
    "creature": "fox red small forest; whale blue huge sea; bee black tiny garden; horse brown big barn;"
    "hawk grey small forest; crab red tiny sea; frog green tiny garden; bear brown huge forest;"
    "cow white big barn; cat black small house",
    "fruit": "peach red small garden; pear green small garden; plum blue tiny garden;"
    "melon green big barn; cherry red tiny garden; lemon yellow small barn; pumpkin yellow huge barn;"
    "berry black tiny forest",
    "vehicle": "car red big city; boat white big sea; train black huge city; bike green small city;"
    "truck yellow huge barn; ship grey huge sea; sled brown small forest; scooter blue small city",
    "tool": "hammer grey small house; saw red small house; brush brown tiny house; spoon white tiny house;"
    "ladder yellow big barn; rope white big barn; spade black small garden; crane yellow huge city",
}
FACTS = {
    name: {"kind": kind, "colour": colour, "size": size, "place": place}
    for kind, lines in KINDS.items()
    for name, colour, size, place in (line.split() for line in lines.split(";"))
}
SIZES = ["tiny", "small", "big", "huge"]
NUMBERS = ["zero", "one", "two", "three", "four", "five"]


def size_of(name: str) -> int:
    return SIZES.index(FACTS[name]["size"])


def plural(kind: str) -> str:
    return kind + "s"


def things(rng: random.Random, low: int, high: int, kinds=tuple(KINDS)) -> list[str]:
    pool = [name for name, fact in FACTS.items() if fact["kind"] in kinds]
    return rng.sample(pool, rng.randint(low, high))


# --- list: any n things of a kind ----------------------------------------------------------------
def list_ask(rng):
    return {"n": rng.choice(NUMBERS[2:5]), "kinds": plural(rng.choice(list(KINDS)))}


def list_answer(rng, ask):
    pool = [name for name, fact in FACTS.items() if plural(fact["kind"]) == ask["kinds"]]
    return {"LIST": join(zipf_subset(rng, pool, NUMBERS.index(ask["n"]))), "kinds": ask["kinds"]}


def list_judge(ask, said):
    names = split(said["LIST"])
    right = all(n in FACTS and plural(FACTS[n]["kind"]) == ask["kinds"] for n in names)
    return right and said.get("kinds", ask["kinds"]) == ask["kinds"], (
        len(set(names)) == len(names) == NUMBERS.index(ask["n"])
    )


# --- story: both heroes, a place that one of them lives in ----------------------------------------
DEEDS = ["sang", "played", "danced", "slept", "talked", "raced", "rested", "laughed"]


def story_ask(rng):
    a, b = rng.sample([n for n, f in FACTS.items() if f["kind"] == "creature"], 2)
    return {"a": a, "b": b}


def story_answer(rng, ask):
    return {
        "a": ask["a"],
        "b": ask["b"],
        "place": FACTS[zipf(rng, [ask["a"], ask["b"]])]["place"],
        "deed": zipf(rng, DEEDS),
        "deed2": zipf(rng, DEEDS[::-1]),
    }


def story_judge(ask, said):
    homes = {FACTS[ask["a"]]["place"], FACTS[ask["b"]]["place"]}
    correct = said["place"] in homes and said["deed"] in DEEDS
    correct = correct and said.get("deed2", DEEDS[0]) in DEEDS
    return correct, {said["a"], said["b"]} == {ask["a"], ask["b"]}


# --- describe: colour, size, kind, place from memory ----------------------------------------------
def describe_ask(rng):
    return {"a": rng.choice(list(FACTS))}


def describe_answer(rng, ask):
    return {"a": ask["a"], **FACTS[ask["a"]]}


def describe_judge(ask, said):
    fact = FACTS[ask["a"]]
    return all(said[k] == fact[k] for k in fact if k in said), said["a"] == ask["a"]


# --- compare: which is bigger ---------------------------------------------------------------------
def compare_ask(rng):
    while True:
        a, b = things(rng, 2, 2)
        if size_of(a) != size_of(b):
            return {"a": a, "b": b}


def compare_answer(rng, ask):
    big, little = sorted([ask["a"], ask["b"]], key=size_of, reverse=True)
    return {
        "big": big,
        "little": little,
        "size": FACTS[big]["size"],
        "size2": FACTS[little]["size"],
        "colour": FACTS[big]["colour"],
        "colour2": FACTS[little]["colour"],
    }


def compare_judge(ask, said):
    right = compare_answer(None, ask)
    correct = all(said[k] == right[k] for k in said if k not in ("big", "little"))
    named = {said["big"], said["little"]} == {ask["a"], ask["b"]}
    return correct and said["big"] == right["big"], named


# --- reverse, keep, count, sort: work on a list in the prompt --------------------------------------
def reverse_ask(rng):
    return {"LIST": " ".join(things(rng, 3, 5))}


def reverse_answer(rng, ask):
    return {"LIST": " , ".join(ask["LIST"].split()[::-1])}


def reverse_judge(ask, said):
    want, got = ask["LIST"].split()[::-1], split(said["LIST"])
    return got == want, sorted(got) == sorted(want)


def mixed_ask(rng):
    """A list of 4–5 things with one to three of the kind asked for."""
    kind = rng.choice(list(KINDS))
    wanted = things(rng, 1, 3, kinds=(kind,))
    others = things(rng, 5 - len(wanted), 5 - len(wanted), kinds=[k for k in KINDS if k != kind])
    names = (wanted + others)[: rng.randint(4, 5)]
    rng.shuffle(names)
    return {"kinds": plural(kind), "LIST": " ".join(names)}


def of_kind(ask) -> list[str]:
    return [n for n in ask["LIST"].split() if plural(FACTS[n]["kind"]) == ask["kinds"]]


def keep_answer(rng, ask):
    return {"kinds": ask["kinds"], "LIST": join(of_kind(ask))}


def keep_judge(ask, said):
    got, want = split(said["LIST"]), of_kind(ask)
    correct = said.get("kinds", ask["kinds"]) == ask["kinds"] and set(got) <= set(want)
    return correct, set(got) >= set(want) and len(got) == len(want)


def count_answer(rng, ask):
    names = of_kind(ask)
    return {"n": NUMBERS[len(names)], "kinds": ask["kinds"], "LIST": join(names)}


def count_judge(ask, said):
    correct, complete = keep_judge(ask, said)
    return correct and said["n"] == NUMBERS[len(of_kind(ask))], complete


def sort_ask(rng):
    one_each = [[n for n in FACTS if FACTS[n]["size"] == size] for size in SIZES]
    names = [rng.choice(pool) for pool in one_each]
    names = rng.sample(names, rng.randint(3, 4))
    return {"LIST": " ".join(names)}


def sort_answer(rng, ask):
    return {"LIST": " , ".join(sorted(ask["LIST"].split(), key=size_of))}


def sort_judge(ask, said):
    want, got = sorted(ask["LIST"].split(), key=size_of), split(said["LIST"])
    return got == want, sorted(got) == sorted(want)


# --- why: yes or no with the reason ---------------------------------------------------------------
def why_answer(rng, ask):
    yes = size_of(ask["a"]) > size_of(ask["b"])
    a, b = FACTS[ask["a"]]["size"], FACTS[ask["b"]]["size"]
    return {"yes": "yes" if yes else "no", "a": ask["a"], "b": ask["b"], "size": a, "size2": b}


def why_judge(ask, said):
    right = why_answer(None, ask)
    correct = all(said[k] == right[k] for k in ("yes", "size", "size2"))
    return correct, (said["a"], said["b"]) == (ask["a"], ask["b"])


# --- odd: the one that does not belong ------------------------------------------------------------
def odd_ask(rng):
    kind, other = rng.sample(list(KINDS), 2)
    names = things(rng, 3, 3, kinds=(kind,)) + things(rng, 1, 1, kinds=(other,))
    rng.shuffle(names)
    return {"LIST": " ".join(names)}


def odd_answer(rng, ask):
    kinds = [FACTS[n]["kind"] for n in ask["LIST"].split()]
    odd = next(n for n in ask["LIST"].split() if kinds.count(FACTS[n]["kind"]) == 1)
    rest = next(k for k in kinds if kinds.count(k) > 1)
    return {"a": odd, "kind": FACTS[odd]["kind"], "kinds": plural(rest)}


def odd_judge(ask, said):
    right = odd_answer(None, ask)
    return all(said[k] == right[k] for k in said), said["a"] in ask["LIST"].split()


FAMILIES = {
    "list": Family(
        ["name {n} {kinds}", "give me {n} {kinds}", "i need {n} {kinds} , please"],
        ["here they are : {LIST} .", "some {kinds} are {LIST} .", "i can think of {LIST} .",
         "{LIST} are all {kinds} .", "there is {LIST} , for example ."],
        list_ask, list_answer, list_judge,
    ),
    "story": Family(
        ["tell a story about a {a} and a {b}", "write about a {a} and a {b}"],
        ["once a {a} met a {b} in the {place} . they {deed} all day . the end .",
         "one day a {a} and a {b} {deed} in the {place} . then they {deed2} . the end .",
         "long ago a {a} lived in the {place} . it met a {b} and they {deed} until night . the end .",
         "a {b} saw a {a} in the {place} . they {deed} and {deed2} , and they were happy . the end ."],
        story_ask, story_answer, story_judge,
    ),
    "describe": Family(
        ["describe a {a}", "what is a {a} ?", "tell me about the {a}", "i never saw a {a}"],
        ["a {a} is a {size} {colour} {kind} . look for it in the {place} .",
         "the {a} is a {kind} . it is {colour} and {size} . you find it in the {place} .",
         "a {a} is {size} and {colour} . this {kind} belongs in the {place} ."],
        describe_ask, describe_answer, describe_judge,
    ),
    "compare": Family(
        ["compare a {a} and a {b}", "{a} or {b} : which is bigger ?"],
        ["the {big} is bigger than the {little} . one is {size} , the other is {size2} .",
         "the {little} is smaller : it is {size2} , but the {big} is {size} .",
         "a {big} is {colour} and {size} . a {little} is {colour2} and {size2} ."],
        compare_ask, compare_answer, compare_judge,
    ),
    "reverse": Family(
        ["reverse : {LIST}"],
        ["backwards this is : {LIST} .", "in reverse it goes : {LIST} .", "from the end : {LIST} ."],
        reverse_ask, reverse_answer, reverse_judge,
    ),
    "keep": Family(
        ["keep the {kinds} : {LIST}"],
        ["the {kinds} here : {LIST} , nothing more .", "i keep {LIST} , the rest goes away .",
         "only {LIST} can stay here ."],
        mixed_ask, keep_answer, keep_judge,
    ),
    "count": Family(
        ["how many {kinds} : {LIST}"],
        ["the number of {kinds} is {n} : {LIST} .", "i see {n} of them , {LIST} .",
         "as {kinds} i see {LIST} , so {n} in all ."],
        mixed_ask, count_answer, count_judge,
    ),
    "sort": Family(
        ["sort by size : {LIST}"],
        ["from small to big : {LIST} .", "sorted by size this is : {LIST} .",
         "the smallest comes first : {LIST} ."],
        sort_ask, sort_answer, sort_judge,
    ),
    "why": Family(
        ["is a {a} bigger than a {b} ?"],
        ["{yes} , because a {a} is {size} and a {b} is {size2} .",
         "{yes} . the {a} is {size} , and the {b} is {size2} .",
         "a {a} is {size} and a {b} is {size2} , so {yes} ."],
        compare_ask, why_answer, why_judge,
    ),
    "odd": Family(
        ["which one does not belong : {LIST}"],
        ["the {a} , because it is a {kind} . the others are {kinds} .",
         "all are {kinds} , but the {a} is a {kind} .",
         "i would take away the {a} : it is a {kind} ."],
        odd_ask, odd_answer, odd_judge,
    ),
}  # fmt: skip
VOCABULARY = [
    w for name, fact in FACTS.items() for w in (name, *fact.values(), plural(fact["kind"]))
] + [*NUMBERS[1:], *DEEDS, "yes", "no"]
OPENINGS = [
    "",
    "sure , ",
    "well , ",
    "okay , ",
    "of course , ",
    "let me see , ",
    "hm , ",
    "good one , ",
]
CLOSINGS = ["", " that is it .", " i hope this helps .", " good luck .", " ask me more .", " bye ."]
WORLD = World(FAMILIES, VOCABULARY, OPENINGS, CLOSINGS)
