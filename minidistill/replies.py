"""Reading what a judge replied: 'A', 'B', 'tie', or nothing that can be read."""

import re

BRACKETED = re.compile(r"\[\[\W{0,3}(?:response )?(a|b|c|tie)\W{0,3}\]\]", re.I)
NOTES = re.compile(r"<think>.*?(?:</think>|$)", re.S)  # a reasoning model thinks aloud
SENTENCE_END = re.compile(r"[.!;\n]+|,? (?:because|since|as) ")
FILLER = re.compile(
    "the|a|an|my|final|answer|verdict|winner|choice|response|option|assistant|i|it|is|was|prefer|"
    "choose|pick|would|say|think|better|best|one|overall|so"
)
CLAIM = re.compile(
    r"\b([AaB]) is (?:(?!(?:not|no|never|hardly|from)\b)\w+ ){0,2}(?:better|best)\b"
    r"|(?i:prefer|choose|pick|(?:better|best|winner|verdict|answer)(?: \w+)? is)\W+(?:[Rr]esponse )?([AB])\b"
    r"|\b(?i:tie|tied|draw|neither|equal|equally|same)\b"
)
DENIED = re.compile(r"(?:\bnot|n't|\bcannot|\bnever)\b[^.,;:\n]*$", re.I)


def parse_reply(reply: str) -> str | None:
    """'A', 'B' or 'tie', the one that a judge's reply names; None where it names none or several.

    Looked for in this order: '[[A]]' ('[[C]]' is a tie); a first sentence that says nothing but the
    verdict ('a', 'Answer: B', 'The better response is A'); 'A is better' and its like anywhere.
    """
    reply = NOTES.sub("", reply)
    if bracketed := {match.upper() for match in BRACKETED.findall(reply)}:
        found = {name if name in {"A", "B"} else "tie" for name in bracketed}
    else:
        reply = _plain(reply)
        first, claims = _first_sentence(reply), _claims(reply)
        found = first | (claims - {"tie"}) if first else claims
    return found.pop() if len(found) == 1 else None


def _plain(reply: str) -> str:
    """Labels in capitals, the article of 'a tie' gone, and 'A, B or tie' no longer naming anything."""
    reply = re.sub(r"\ba [\"'*]*(?=(?:tie|draw)\b)", "", reply, flags=re.I)
    # 'a' is an article too, but not after 'response', before a mark, or at the end.
    reply = re.sub(r"\b(response|answer|option)(\W+)a\b", r"\1\2A", reply, flags=re.I)
    reply = re.sub(r"\ba(?=\s*(?:[^\w\s]|\n|$))", "A", reply)
    reply = re.sub(r"\bb\b", "B", reply)
    link = r"\W{0,3}(?:or|and|nor|/|,)\W{0,3}(?:[Rr]esponse )?"
    return re.sub(rf"\b(?:A{link}B|B{link}A)\b(?:,? or tie)?", "both", reply)


def _first_sentence(reply: str) -> set[str]:
    """The verdict, if the first sentence that says anything says that and nothing more."""
    for sentence in SENTENCE_END.split(reply):
        words = {
            w for w in re.findall(r"\w+(?:'\w+)?", sentence) if w in {"A", "B"} or not _filler(w)
        }
        if words:
            break
    if words in ({"A"}, {"B"}):
        # 'A. … B. …', line by line, goes through the responses and has not decided.
        other = "B" if words == {"A"} else "A"
        listed = re.search(
            rf"^\W{{0,3}}(?:response )?{other}\W{{0,3}}?(?:[.:\]]|$)", reply, re.I | re.M
        )
        return set() if listed else words
    return {"tie"} if {w.lower() for w in words} in ({"tie"}, {"draw"}) else set()


def _filler(word: str) -> bool:
    return FILLER.fullmatch(word.lower()) is not None


def _claims(reply: str) -> set[str]:
    """Every verdict in 'A is better', 'I prefer A', 'a tie' and the like that its clause does not deny."""
    return {
        (claim[1] or claim[2] or "tie").replace("a", "A")
        for claim in CLAIM.finditer(reply)
        if not DENIED.search(reply[max(0, claim.start() - 99) : claim.start()])
    }
