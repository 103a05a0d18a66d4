"""Pages measured in headless Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

_MEASURE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, box = each => each.getBoundingClientRect();
  const shown = each => box(each).width > 0;
  const wide = [...document.querySelectorAll(".scroll")].filter(
    each => shown(each) && each.scrollWidth > each.clientWidth);
  const cells = wide.map(each => {
    each.scrollLeft = each.scrollWidth;
    const cell = each.querySelector("tbody th");
    return [box(each).left, box(cell).left, each.scrollLeft];
  });
  const found = {
    width: innerWidth, page: root.scrollWidth,
    plots: [...document.querySelectorAll("svg")].filter(shown).map(
      each => [each.getAttribute("aria-label"), box(each).left, box(each).right]),
    cells: cells,
    beyond: [...document.querySelectorAll("body *")].filter(each => shown(each)
      && !each.closest(".scroll, svg") && box(each).right > innerWidth + 0.5).map(
      each => each.outerHTML.slice(0, 80)),
  };
  parent.document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


def chromium():
    """The path of a Chromium; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def measured(page, width, tmp_path):
    """What a page measures in a frame of some width: windows of browsers have a least width."""
    inner = page.replace("</body>", f"{_MEASURE}</body>")
    outer = tmp_path / "frame.html"
    outer.write_text(
        '<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><pre id="found"></pre>'
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(inner)}">'
        "</iframe></body>",
        encoding="utf-8",
    )
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000",
        "--virtual-time-budget=5000", "--dump-dom", outer.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', result.stdout, flags=re.DOTALL)
    assert found and found[1], result.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
