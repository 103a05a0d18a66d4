import pytest

from emorec.data.feedback import Feedback


def test_the_four_kinds_span_polarity_and_explicitness() -> None:
    assert [(kind.value, kind.label, kind.polarity, kind.is_explicit) for kind in Feedback] == [
        (0, "explicit_positive", 1, True),
        (1, "implicit_positive", 1, False),
        (2, "implicit_negative", -1, False),
        (3, "explicit_negative", -1, True),
    ]


def test_labels_find_their_kind() -> None:
    assert Feedback.from_label("implicit_negative") is Feedback.IMPLICIT_NEGATIVE


# The second label starts its second word with a Cyrillic letter that looks the same.
@pytest.mark.parametrize("label", ["like", "expli\u0441it_negative", "EXPLICIT_POSITIVE", ""])
def test_other_labels_are_refused_with_the_right_ones(label: str) -> None:
    with pytest.raises(ValueError, match="explicit_positive, implicit_positive"):
        Feedback.from_label(label)
