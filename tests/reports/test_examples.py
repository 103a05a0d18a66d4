from emorec.data.feedback import Feedback
from emorec.reports.examples import Example, ListedItem, PastEvent, examples_html


def test_shows_history_list_and_what_is_held_out():
    example = Example(
        "anna",
        12,
        2,
        [PastEvent("Heat", Feedback.EXPLICIT_NEGATIVE)],
        [
            ListedItem("Alien", 0.567, "raised by Heat", Feedback.EXPLICIT_POSITIVE),
            ListedItem("Big", None),
        ],
    )
    found = examples_html([example], "chosen so")
    assert '<p class="note">chosen so</p>' in found
    assert "user anna <small>12 events, 2 held-out items</small>" in found
    mark = '<span class="mark"><i class="k3"></i>explicit negative</span>'
    assert f"<li>{mark} Heat</li>" in found
    assert '<li value="1">Alien <span class="liked">0.57</span>' in found
    assert '<i class="k0"></i>held out: explicit positive' in found
    assert "<small>raised by Heat</small>" in found
    assert '<li value="2">Big</li>' in found


def test_text_is_escaped_and_shortened():
    event = PastEvent("<b>" + 200 * "x" + "\x1b\u202e", Feedback.IMPLICIT_POSITIVE)
    found = examples_html([Example("a", 1, 0, [event])], "")
    assert "&lt;b&gt;" + 117 * "x" + "…</li>" in found
    assert "\x1b" not in examples_html([Example("\x1b", 1, 0)], "")


def test_nothing_without_users():
    assert examples_html([], "chosen so") == ""
