"""The forty-odd things of the instruct world: kind, colour, size and place of each."""

import random

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
    """Rank of a thing's size, 0 (tiny) to 3 (huge)."""
    return SIZES.index(FACTS[name]["size"])


def plural(kind: str) -> str:
    """'fruit' → 'fruits'."""
    return kind + "s"


def things(rng: random.Random, low: int, high: int, kinds=tuple(KINDS)) -> list[str]:
    """Between `low` and `high` different things of the given kinds."""
    pool = [name for name, fact in FACTS.items() if fact["kind"] in kinds]
    return rng.sample(pool, rng.randint(low, high))
