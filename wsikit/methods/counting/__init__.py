"""Counts to cells: learns counts, points and masks from nothing but the number of cells in each image."""

from wsikit.methods.counting.config import Config
from wsikit.methods.counting.evaluate import dataset, evaluate
from wsikit.methods.counting.model import build_model
from wsikit.methods.counting.predict import load_predictor
from wsikit.methods.counting.train import train

__all__ = ["Config", "build_model", "dataset", "evaluate", "load_predictor", "train"]
