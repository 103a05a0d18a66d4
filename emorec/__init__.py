"""EmoRec: recommendations for people who both like and dislike things."""

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.recommender import EmoRec

__all__ = ["EmoRec", "Feedback", "Interactions", "__version__"]

__version__ = "0.1.0"
