"""Draw contrasts of the old ledger, one point a seed, with their intervals."""

from minidistill.lessons import plots


def differences(results: dict, ax=None, title: str = "", xlabel: str = "ROUGE-L minus CALD's"):
    """A row a contrast: one point a seed, the interval of the mean as a line. `results` by name."""
    ax = plots.axes() if ax is None else ax
    ax.axvline(0, color=plots.BLACK, linewidth=0.8)
    plots.seed_points({name: result.values for name, result in results.items()}, ax, xlabel, title)
    ax.locator_params(axis="x", nbins=5)
    for row, result in enumerate(results.values()):
        ax.plot([result.low, result.high], [row + 0.22] * 2, color=plots.BLACK, linewidth=2.5)
    return ax
