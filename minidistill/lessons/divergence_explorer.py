"""The divergence explorer: drag the bars of p and q and the weight alpha; values, mixture and forces follow.

An anywidget where a kernel runs. Where none does (a committed notebook on a web page, exported HTML) the
same JavaScript draws it from the output itself, without network. `divergence_explorer.js` computes the
numbers; a test in a browser compares them with `minidistill.divergences`.
"""

import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from minidistill.divergences import check_unit_interval
from minidistill.utils import missing_extra_message, unknown_name_message

SCRIPT = Path(__file__).with_suffix(".js")
DIVERGENCES = ("kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "jsd")


def divergence_explorer(
    p: Sequence[float] = (0.48, 0.38, 0.10, 0.04), q: Sequence[float] = (0.15, 0.20, 0.25, 0.40),
    tokens: Sequence[str] = ("tea", "coffee", "water", "soup"), divergence: str = "kl",
    alpha: float = 0.1,
):  # fmt: skip
    """Make the explorer; the last line of a cell. ValueError for what are no two distributions over `tokens`.

    `alpha`: the weight in the mixture of SKL and SRKL, and β of the JSD.
    """
    state = initial_state(p, q, tokens, divergence, alpha)
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra_message(error.name, "course")) from None

    class DivergenceExplorer(anywidget.AnyWidget):
        _esm = SCRIPT.read_text(encoding="utf-8")
        p = traitlets.List(traitlets.Float()).tag(sync=True)
        q = traitlets.List(traitlets.Float()).tag(sync=True)
        tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
        divergence = traitlets.Unicode().tag(sync=True)
        alpha = traitlets.Float().tag(sync=True)

        def _repr_mimebundle_(self, **kwargs):
            made = super()._repr_mimebundle_(**kwargs)
            bundle, metadata = made if isinstance(made, tuple) else (made, {})
            return {**bundle, "text/html": standalone_html(state)}, metadata

    return DivergenceExplorer(**state)


def initial_state(p, q, tokens, divergence: str, alpha: float) -> dict:
    """Check what the explorer starts from and return it as plain numbers and texts."""
    for name, values in (("p", p), ("q", q)):
        if len(values) != len(tokens) or min(values) <= 0 or abs(sum(values) - 1) > 1e-6:
            raise ValueError(
                f"{name} must give each of the {len(tokens)} tokens a probability above 0, "
                f"together 1, but is {list(values)}"
            )
    if divergence not in DIVERGENCES:
        raise ValueError(unknown_name_message("divergence", divergence, DIVERGENCES))
    check_unit_interval("alpha", alpha)
    bars = {"p": [float(x) for x in p], "q": [float(x) for x in q]}
    return {**bars, "tokens": list(tokens), "divergence": divergence, "alpha": float(alpha)}


def standalone_html(state: dict) -> str:
    """Compose the explorer as HTML with its script inside: no kernel, no network."""
    script = SCRIPT.read_text(encoding="utf-8")
    name = "explorer-" + hashlib.sha256(json.dumps(state).encode()).hexdigest()[:10]
    told = json.dumps(state).replace("</", "<\\/")
    return (
        f'<div id="{escape(name)}"></div>\n<script type="module">\n{script}\n'
        f'standalone(document.getElementById("{escape(name)}"), {told});\n</script>'
    )
