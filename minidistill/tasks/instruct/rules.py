"""What is asked, what is a right answer, and what is wrong with another one: ten kinds of request.

`X_ask(rng)` → slots of a prompt; `X_answer(rng, ask)` → slots of a right response;
`X_judge(ask, said)` → (correct, complete). How it is put into words is in `__init__.py`.
"""

from minidistill.tasks.grammar import join, split, zipf, zipf_subset
from minidistill.tasks.instruct.facts import FACTS, KINDS, NUMBERS, SIZES, plural, size_of, things


# --- list: any n things of a kind ----------------------------------------------------------------
def list_ask(rng):
    """How many, of which kind."""
    return {"n": rng.choice(NUMBERS[2:5]), "kinds": plural(rng.choice(list(KINDS)))}


def list_answer(rng, ask):
    """That many things of the kind, the likely ones first."""
    pool = [name for name, fact in FACTS.items() if plural(fact["kind"]) == ask["kinds"]]
    return {"LIST": join(zipf_subset(rng, pool, NUMBERS.index(ask["n"]))), "kinds": ask["kinds"]}


def list_judge(ask, said):
    """Correct: all are of the kind asked for. Complete: as many as asked for, none twice."""
    names = split(said["LIST"])
    right = all(n in FACTS and plural(FACTS[n]["kind"]) == ask["kinds"] for n in names)
    return right and said.get("kinds", ask["kinds"]) == ask["kinds"], (
        len(set(names)) == len(names) == NUMBERS.index(ask["n"])
    )


# --- story: both heroes, a place that one of them lives in ----------------------------------------
DEEDS = ["sang", "played", "danced", "slept", "talked", "raced", "rested", "laughed"]


def story_ask(rng):
    """Two creatures."""
    a, b = rng.sample([n for n, f in FACTS.items() if f["kind"] == "creature"], 2)
    return {"a": a, "b": b}


def story_answer(rng, ask):
    """Where one of them lives, and what they did there."""
    return {
        "a": ask["a"],
        "b": ask["b"],
        "place": FACTS[zipf(rng, [ask["a"], ask["b"]])]["place"],
        "deed": zipf(rng, DEEDS),
        "deed2": zipf(rng, DEEDS[::-1]),
    }


def story_judge(ask, said):
    """Correct: one of the two lives in that place, and they did what can be done. Complete: both appear."""
    homes = {FACTS[ask["a"]]["place"], FACTS[ask["b"]]["place"]}
    correct = said["place"] in homes and said["deed"] in DEEDS
    correct = correct and said.get("deed2", DEEDS[0]) in DEEDS
    return correct, {said["a"], said["b"]} == {ask["a"], ask["b"]}


# --- describe: colour, size, kind, place from memory ----------------------------------------------
def describe_ask(rng):
    """Any thing."""
    return {"a": rng.choice(list(FACTS))}


def describe_answer(rng, ask):
    """All that is known of it."""
    return {"a": ask["a"], **FACTS[ask["a"]]}


def describe_judge(ask, said):
    """Correct: every property told is the thing's own. Complete: it speaks of the thing asked about."""
    fact = FACTS[ask["a"]]
    return all(said[k] == fact[k] for k in fact if k in said), said["a"] == ask["a"]


# --- compare: which is bigger ---------------------------------------------------------------------
def compare_ask(rng):
    """Two things of different size."""
    while True:
        a, b = things(rng, 2, 2)
        if size_of(a) != size_of(b):
            return {"a": a, "b": b}


def compare_answer(rng, ask):
    """The bigger, the smaller, and how both look."""
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
    """Correct: the right one is bigger and all properties hold. Complete: both are named."""
    right = compare_answer(None, ask)
    correct = all(said[k] == right[k] for k in said if k not in ("big", "little"))
    named = {said["big"], said["little"]} == {ask["a"], ask["b"]}
    return correct and said["big"] == right["big"], named


# --- reverse, keep, count, sort: work on a list in the prompt --------------------------------------
def reverse_ask(rng):
    """Three to five things in a row."""
    return {"LIST": " ".join(things(rng, 3, 5))}


def reverse_answer(rng, ask):
    """The same from the end."""
    return {"LIST": " , ".join(ask["LIST"].split()[::-1])}


def reverse_judge(ask, said):
    """Correct: exactly the list of the prompt from its end. Complete: the same things in any order."""
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
    """Those in the prompt's list that are of the kind asked for."""
    return [n for n in ask["LIST"].split() if plural(FACTS[n]["kind"]) == ask["kinds"]]


def keep_answer(rng, ask):
    """The wanted ones, in their order."""
    return {"kinds": ask["kinds"], "LIST": join(of_kind(ask))}


def keep_judge(ask, said):
    """Correct: nothing that is not of the kind. Complete: every one that is, once."""
    got, want = split(said["LIST"]), of_kind(ask)
    correct = said.get("kinds", ask["kinds"]) == ask["kinds"] and set(got) <= set(want)
    return correct, set(got) >= set(want) and len(got) == len(want)


def count_answer(rng, ask):
    """Their number, and which they are."""
    names = of_kind(ask)
    return {"n": NUMBERS[len(names)], "kinds": ask["kinds"], "LIST": join(names)}


def count_judge(ask, said):
    """Correct: the number, and nothing that is not of the kind. Complete: every one that is, once."""
    correct, complete = keep_judge(ask, said)
    return correct and said["n"] == NUMBERS[len(of_kind(ask))], complete


def sort_ask(rng):
    """Three or four things, all of different size."""
    one_each = [[n for n in FACTS if FACTS[n]["size"] == size] for size in SIZES]
    names = [rng.choice(pool) for pool in one_each]
    names = rng.sample(names, rng.randint(3, 4))
    return {"LIST": " ".join(names)}


def sort_answer(rng, ask):
    """Smallest first."""
    return {"LIST": " , ".join(sorted(ask["LIST"].split(), key=size_of))}


def sort_judge(ask, said):
    """Correct: exactly the list of the prompt, smallest first. Complete: the same things in any order."""
    want, got = sorted(ask["LIST"].split(), key=size_of), split(said["LIST"])
    return got == want, sorted(got) == sorted(want)


# --- why: yes or no with the reason ---------------------------------------------------------------
def why_answer(rng, ask):
    """Yes or no, and both sizes as the reason."""
    yes = size_of(ask["a"]) > size_of(ask["b"])
    a, b = FACTS[ask["a"]]["size"], FACTS[ask["b"]]["size"]
    return {"yes": "yes" if yes else "no", "a": ask["a"], "b": ask["b"], "size": a, "size2": b}


def why_judge(ask, said):
    """Correct: yes or no, and both sizes. Complete: the two things in the order asked."""
    right = why_answer(None, ask)
    correct = all(said[k] == right[k] for k in ("yes", "size", "size2"))
    return correct, (said["a"], said["b"]) == (ask["a"], ask["b"])


# --- odd: the one that does not belong ------------------------------------------------------------
def odd_ask(rng):
    """Three things of one kind and one of another."""
    kind, other = rng.sample(list(KINDS), 2)
    names = things(rng, 3, 3, kinds=(kind,)) + things(rng, 1, 1, kinds=(other,))
    rng.shuffle(names)
    return {"LIST": " ".join(names)}


def odd_answer(rng, ask):
    """The odd one, its kind, and the kind of the rest."""
    kinds = [FACTS[n]["kind"] for n in ask["LIST"].split()]
    odd = next(n for n in ask["LIST"].split() if kinds.count(FACTS[n]["kind"]) == 1)
    rest = next(k for k in kinds if kinds.count(k) > 1)
    return {"a": odd, "kind": FACTS[odd]["kind"], "kinds": plural(rest)}


def odd_judge(ask, said):
    """Correct: the odd one, and the kinds told are true. Complete: it is one of those in the list."""
    right = odd_answer(None, ask)
    return all(said[k] == right[k] for k in said), said["a"] in ask["LIST"].split()
