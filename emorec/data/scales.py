"""Scales of ratings: checks for stars, and suggests feedback rules for other scales."""

from __future__ import annotations

import numpy as np

from emorec.data.files import DataError

__all__ = ["require_stars", "suggested_rules"]

# Upper ends of common scales; above the last one, numbers are counts.
_SCALES = (1, 2, 3, 4, 5, 6, 7, 10, 20, 100)
_FEW = 10  # ratings; fewer than that may all be of one star


def require_stars(
    ratings: np.ndarray, source: str, *, is_certain: bool, settable: bool = True
) -> None:
    """Checks that ratings are stars from 1 to 5; the error suggests rules for their scale.

    Read as stars, a thumb up (1) would be an explicit dislike, and a 7 out of 10 would match no
    rule. Every rating must therefore be in 0 .. 5, where 0 means "not rated", and some must be
    above 1. If the rules for stars apply only by default, some ratings must also be above 4, and at
    most half below 2.5, which excludes other scales with few steps, and counts.

    Args:
        ratings: All ratings of a log, float64 ``[N]``, NaN where there is none.
        source: Name of the log in messages.
        is_certain: Whether the user named the rules for stars, instead of leaving them the default.
        settable: Whether these ratings are a log, whose rules can be chosen. False for events of a
            trained model, which may all have one star.

    Raises:
        DataError: If these are not stars.
    """
    given = ratings[np.isfinite(ratings)]
    stars = given[given != 0]
    if not len(stars):
        return
    low, high = given.min(), given.max()
    fits = low >= 0 and high <= 5
    if is_certain:
        looks_right = fits and (high > 1 or len(given) < _FEW or not settable)
    else:
        looks_right = fits and high > 4 and (stars < 2.5).mean() <= 0.5
    if looks_right:
        return
    span = f"ratings go from {low:g} to {high:g}" if low < high else f"all ratings are {low:g}"
    if fits and high > 4:
        span = f"{(stars < 2.5).mean():.0%} of the ratings are below 2.5"
    why = f"{source}: {span}, but the rules 'ratings' are for stars from 1 to 5 (0: not rated)"
    if not settable:
        raise DataError(f"{why}; the model was trained on stars, so rate its events by stars, too")
    sure = ""
    if fits and high > 1 and not is_certain:
        sure = "; if these are stars nevertheless, give --set data.rules=ratings"
    raise DataError(
        f"{why}. Save rules such as these in a file and give --set data.rules=FILE "
        f"(Python: EmoRec(..., 'data.rules=FILE')){sure}:\n"
        f"{suggested_rules(given)}"
    )


def suggested_rules(ratings: np.ndarray) -> str:
    """Feedback rules in TOML for the scale that ratings seem to be on; more is better.

    Args:
        ratings: Finite ratings, float64 ``[N]``, at least one.
    """
    values = np.unique(ratings)
    low, high = float(values[0]), float(values[-1])
    if len(values) == 1:
        return (
            f'explicit_positive = "rating == {low:g}"\n'
            f'# or, for a play, a click or a purchase: implicit_positive = "rating == {low:g}"'
        )
    if len(values) == 2 or set(values) <= {-1.0, 0.0, 1.0}:
        lines = [
            f'explicit_positive = "rating == {high:g}"',
            f'explicit_negative = "rating == {low:g}"',
            f"# {high:g} is assumed to be the better one",
        ]
        if len(values) == 3:
            lines.append("# 0 is neither: those rows match no rule and are left out")
        return "\n".join(lines)
    if _are_counts(ratings):
        return (
            'implicit_positive = "rating > 0"\n'
            "# the ratings look like counts of plays or purchases, which contain no dislikes"
        )
    if low < 0:
        half = _end_of_scale(max(-low, high)) / 2
        return _four_rules(
            f"rating > {half:g}",
            f"0 < rating <= {half:g}",
            f"-{half:g} <= rating < 0",
            f"rating < -{half:g}",
            "0 is neither: those rows match no rule and are left out",
        )
    end = _end_of_scale(high)
    most, more, less = (f"{share * end:.6g}" for share in (0.9, 0.6, 0.4))
    lowest, note = "0 <= rating", "a higher rating is assumed to be better"
    if low > 0:
        lowest = f"{low:g} <= rating"
    elif (ratings == 0).mean() > max((ratings == value).mean() for value in values[1:]):
        lowest = "0 < rating"
        note += '; 0, the most frequent value, is assumed to mean "not rated"'
    return _four_rules(
        f"rating >= {most}",
        f"{more} <= rating < {most}",
        f"{less} <= rating < {more}",
        f"{lowest} < {less}",
        note,
    )


def _four_rules(best: str, good: str, poor: str, worst: str, note: str) -> str:
    return (
        f'explicit_positive = "{best}"\n'
        f'implicit_positive = "{good}"\n'
        f'implicit_negative = "{poor}"\n'
        f'explicit_negative = "{worst}"\n'
        f"# {note}"
    )


def _are_counts(ratings: np.ndarray) -> bool:
    """Whether these are whole numbers from 1 on of which most are small beside the largest."""
    whole = bool((ratings == np.floor(ratings)).all()) and ratings.min() >= 0
    high = ratings.max()
    is_skewed = np.median(ratings) <= 0.2 * high and ratings.min() >= 1
    return whole and (is_skewed or high > _SCALES[-1] or high < 0.75 * _end_of_scale(high))


def _end_of_scale(high: float) -> float:
    """The upper end of the common scale that holds ``high``, or ``high`` itself."""
    return next((float(end) for end in _SCALES if high <= end), high)
