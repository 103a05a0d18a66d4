"""Baselines: simple models and models of items, each a scorer after ``fit``."""

from emorec.baselines.item_models import EASE, ItemKNN, RidgeKNN
from emorec.baselines.simple import MeanReaction, MostPop, Random

__all__ = ["EASE", "ItemKNN", "MeanReaction", "MostPop", "Random", "RidgeKNN"]
