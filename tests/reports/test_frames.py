import math

import pandas as pd

from emorec.reports.frames import frame_html


def test_values():
    frame = pd.DataFrame(
        {
            "<a>": ["x & y", "z", "v"],
            "events": [1234, 5, 6],
            "length": [5.0, math.inf, math.nan],
            "rate": [0.0021937, 15.678, 2.0],
        }
    )
    found = frame_html(frame)
    assert '<th scope="col" class="model">&lt;a&gt;</th><th scope="col">events</th>' in found
    assert (
        '<th scope="row">x &amp; y</th><td>1,234</td><td>5</td><td>0.002194</td>' in found
    )  # whole numbers stay so
    assert '<th scope="row">z</th><td>5</td><td>∞</td><td>15.68</td>' in found
    assert '<th scope="row">v</th><td>6</td><td>-</td><td>2.000</td>' in found
