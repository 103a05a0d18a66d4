"""EmoRec: recommendations for people who both like and dislike things."""

__version__ = "0.1.0"
