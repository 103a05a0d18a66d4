"""EmoRec: recommendations for people who both like and dislike things."""

import os

# Threads that wait for each other must sleep, not spin: where other work wants the cores too, two
# spinning threads are over ten times slower than one. OpenMP reads this when PyTorch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.recommender import EmoRec

__all__ = ["EmoRec", "Feedback", "Interactions", "__version__"]

__version__ = "0.1.0"
