"""Figures as inline SVG, in the colours and the font of the page around them."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "ACCENT",
    "INK",
    "LINE",
    "LOSS",
    "PAGE",
    "SECOND",
    "SOFT",
    "STANDALONE",
    "PlotsUnavailable",
    "inline_svg",
    "new_figure",
]

# Placeholders for the page's colours: matplotlib writes them, `inline_svg` replaces them.
INK, SOFT, LINE, ACCENT, SECOND, PAGE, LOSS = (f"#01020{digit}" for digit in range(1, 8))
_PAGE_COLOURS = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    PAGE: "var(--page)",
    LOSS: "var(--loss)",
}
_STYLE: Any = {
    "svg.hashsalt": "emorec",  # the same figure, the same bytes
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's font
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
}
# A plot in a file of its own has the page's colours and font.
STANDALONE = (
    "<style>svg{--page:#ffffff;--ink:#1c2128;--soft:#667080;--line:#e3e6ea;--accent:#1f6feb;"
    "--second:#c2410c;background:var(--page);"
    'font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}'
    "@media(prefers-color-scheme:dark){svg{--page:#14171c;--ink:#e6e9ee;--soft:#98a2b0;"
    "--line:#2c323b;--accent:#6cabff;--second:#fb9460}}</style>"
)


class PlotsUnavailable(ImportError):
    """Matplotlib is not installed."""


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches, in the report's style while the context lasts."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsUnavailable(
            'plots need matplotlib: pip install "emorec[plots]", then write the report again'
        ) from error
    with rc_context(_STYLE):
        figure = Figure((width, height), dpi=72, layout="constrained")  # SVG has 72 dots per inch
        FigureCanvasAgg(figure)
        yield figure


def inline_svg(figure: Any, name: str, description: str) -> str:
    """The figure as an ``<svg>`` element whose ids begin with ``name``."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Two figures on a page must not share ids.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for placeholder, colour in _PAGE_COLOURS.items():
        svg = svg.replace(placeholder, colour)
    label = html.escape(description)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
