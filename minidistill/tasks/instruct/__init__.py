"""The instruct world: ten kinds of small requests about forty things, and a rule judge.

A family is a prompt pattern, several response patterns and a rule. The same patterns write the
references and read a response back: a response that fits none of them has bad *form*; one that
fits is judged for being *correct* (nothing false) and *complete* (nothing missing).

    form 1/3 + correct 1/3 + complete 1/3 = grade;   accuracy counts the grade of 1.

Here are the words; what is true and what is asked for stand in `facts.py` and `rules.py`.
Choices follow Zipf's law, so most prompts have many right answers, a few of them likely.
"""

import inspect
import random
import re

from minidistill.tasks.grammar import Family, World, zipf
from minidistill.tasks.instruct import rules
from minidistill.tasks.instruct.facts import FACTS, NUMBERS, plural

FAMILIES = {
    "list": Family(
        ["name {n} {kinds}", "give me {n} {kinds}", "i need {n} {kinds} , please"],
        ["here they are : {LIST} .", "some {kinds} are {LIST} .", "i can think of {LIST} .",
         "{LIST} are all {kinds} .", "there is {LIST} , for example ."],
        rules.list_ask, rules.list_answer, rules.list_judge,
    ),
    "story": Family(
        ["tell a story about a {a} and a {b}", "write about a {a} and a {b}"],
        ["once a {a} met a {b} in the {place} . they {deed} all day . the end .",
         "one day a {a} and a {b} {deed} in the {place} . then they {deed2} . the end .",
         "long ago a {a} lived in the {place} . it met a {b} and they {deed} until night . the end .",
         "a {b} saw a {a} in the {place} . they {deed} and {deed2} , and they were happy . the end ."],
        rules.story_ask, rules.story_answer, rules.story_judge,
    ),
    "describe": Family(
        ["describe a {a}", "what is a {a} ?", "tell me about the {a}", "i never saw a {a}"],
        ["a {a} is a {size} {colour} {kind} . look for it in the {place} .",
         "the {a} is a {kind} . it is {colour} and {size} . you find it in the {place} .",
         "a {a} is {size} and {colour} . this {kind} belongs in the {place} ."],
        rules.describe_ask, rules.describe_answer, rules.describe_judge,
    ),
    "compare": Family(
        ["compare a {a} and a {b}", "{a} or {b} : which is bigger ?"],
        ["the {big} is bigger than the {little} . one is {size} , the other is {size2} .",
         "the {little} is smaller : it is {size2} , but the {big} is {size} .",
         "a {big} is {colour} and {size} . a {little} is {colour2} and {size2} ."],
        rules.compare_ask, rules.compare_answer, rules.compare_judge,
    ),
    "reverse": Family(
        ["reverse : {LIST}"],
        ["backwards this is : {LIST} .", "in reverse it goes : {LIST} .", "from the end : {LIST} ."],
        rules.reverse_ask, rules.reverse_answer, rules.reverse_judge,
    ),
    "keep": Family(
        ["keep the {kinds} : {LIST}"],
        ["the {kinds} here : {LIST} , nothing more .", "i keep {LIST} , the rest goes away .",
         "only {LIST} can stay here ."],
        rules.mixed_ask, rules.keep_answer, rules.keep_judge,
    ),
    "count": Family(
        ["how many {kinds} : {LIST}"],
        ["the number of {kinds} is {n} : {LIST} .", "i see {n} of them , {LIST} .",
         "as {kinds} i see {LIST} , so {n} in all ."],
        rules.mixed_ask, rules.count_answer, rules.count_judge,
    ),
    "sort": Family(
        ["sort by size : {LIST}"],
        ["from small to big : {LIST} .", "sorted by size this is : {LIST} .",
         "the smallest comes first : {LIST} ."],
        rules.sort_ask, rules.sort_answer, rules.sort_judge,
    ),
    "why": Family(
        ["is a {a} bigger than a {b} ?"],
        ["{yes} , because a {a} is {size} and a {b} is {size2} .",
         "{yes} . the {a} is {size} , and the {b} is {size2} .",
         "a {a} is {size} and a {b} is {size2} , so {yes} ."],
        rules.compare_ask, rules.why_answer, rules.why_judge,
    ),
    "odd": Family(
        ["which one does not belong : {LIST}"],
        ["the {a} , because it is a {kind} . the others are {kinds} .",
         "all are {kinds} , but the {a} is a {kind} .",
         "i would take away the {a} : it is a {kind} ."],
        rules.odd_ask, rules.odd_answer, rules.odd_judge,
    ),
}  # fmt: skip
VOCABULARY = [
    w for name, fact in FACTS.items() for w in (name, *fact.values(), plural(fact["kind"]))
] + [*NUMBERS[1:], *rules.DEEDS, "yes", "no"]
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


def rubric_table() -> str:
    """Markdown: what is correct and complete in each family of the instruct world, with an example.

    Each gives a third of the grade; the last third is form, a response that reads as one of the family's
    sentences. Both meanings come from the docstring beside the rule (ValueError if it has none), the
    example from the family itself (seed 0).
    """
    rows = [
        "| family | correct | complete | prompt | response of grade 1 |",
        "|---|---|---|---|---|",
    ]
    for name, family in WORLD.families.items():
        said = " ".join((inspect.getdoc(family.judge) or "").split())
        meaning = re.fullmatch(r"Correct: (.+)\. Complete: (.+)\.", said)
        if not meaning:
            raise ValueError(f"family {name!r}: its judge must say 'Correct: …. Complete: ….'")
        rng = random.Random(0)
        prompt = zipf(rng, family.prompts).format(**family.ask(rng))
        response = WORLD.write_reference(rng, prompt)
        rows.append("| " + " | ".join([name, *meaning.groups(), prompt, response]) + " |")
    return "\n".join(rows) + "\n"
