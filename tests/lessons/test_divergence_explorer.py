"""The explorer's Python side: what it starts from, and that its output stands alone."""

import pytest

from minidistill.lessons import divergence_explorer as explorer


def test_it_shows_as_a_widget_and_as_html_that_needs_no_kernel_and_no_network():
    widget = explorer.divergence_explorer(alpha=0.3, divergence="skew_kl")
    bundle, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    page = bundle["text/html"]
    assert '"alpha": 0.3' in page
    assert "standalone(document.getElementById" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"p": (0.5, 0.6, 0.1, 0.1)}, "p must give each of the 4 tokens"),
        ({"q": (0.5, 0.5)}, "q must give each of the 4 tokens"),
        ({"q": (1.0, 0.0, 0.0, 0.0)}, "a probability above 0"),
        ({"divergence": "kld"}, "did you mean 'kl'"),
        ({"alpha": 1.5}, "alpha must lie in"),
    ],
)
def test_what_are_no_distributions_is_refused(changed, says):
    with pytest.raises(ValueError, match=says):
        explorer.divergence_explorer(**changed)


def test_equal_states_give_equal_pages():
    state = explorer.initial_state((0.5, 0.5), (0.9, 0.1), ("a", "b"), "kl", 0.1)
    assert explorer.standalone_html(state) == explorer.standalone_html(dict(state))
