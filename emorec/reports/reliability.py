"""The reliability plot: predicted probabilities against what was observed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from emorec.reports.figure import ACCENT, INK, PAGE, SECOND, SOFT, inline_svg, new_figure

__all__ = ["reliability_svg"]

_COLOURS = ((ACCENT, "o"), (SECOND, "s"), (SOFT, "D"))


def reliability_svg(tables: Mapping[str, pd.DataFrame]) -> str:
    """Observed share of positive feedback against the mean predicted P(liked), by bins of events.

    A calibrated model is on the dashed diagonal. Bars behind the points show one standard error of
    the share.

    Args:
        tables: What `emorec.evaluation.calibration.reliability` returns, by model name.

    Raises:
        PlotsUnavailable: If matplotlib is not installed.
    """
    with new_figure(4.6, 4.2) as figure:
        axes = figure.add_subplot()
        axes.set_xlabel("predicted P(liked), mean of the bin")
        axes.set_ylabel("observed share of positive feedback")
        everything = pd.concat([table[["predicted", "observed"]] for table in tables.values()])
        low, high = everything.min().min(), everything.max().max()
        reach = max(0.05, 0.06 * (high - low))
        ends = max(0.0, low - reach), min(1.0, high + reach)
        axes.plot(ends, ends, color=SOFT, lw=1, ls=(0, (4, 3)))
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        for index, (name, table) in enumerate(tables.items()):
            colour, marker = _COLOURS[index % len(_COLOURS)]
            x, y = table["predicted"].to_numpy(), table["observed"].to_numpy()
            error = (y * (1 - y) / table["events"].to_numpy()) ** 0.5
            axes.errorbar(x, y, error, fmt="none", ecolor=colour, elinewidth=1, alpha=0.5)
            axes.plot(
                x, y, color=colour, lw=1.4, marker=marker, ms=5.5, mec=PAGE, mew=0.8,
                label=" ".join(name.split()),
            )  # fmt: skip
        legend = axes.legend(loc="upper left", frameon=False, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return inline_svg(
            figure, "reliability", "Observed share of positive feedback against predicted P(liked)"
        )
