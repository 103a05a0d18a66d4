"""Baselines: simple models and models of items, each a scorer after ``fit``."""

from emorec.baselines.item_models import EASE, ItemKNN, RidgeKNN
from emorec.baselines.simple import ItemPrior, MostPop, Random

__all__ = ["EASE", "ItemKNN", "ItemPrior", "MostPop", "Random", "RidgeKNN"]
