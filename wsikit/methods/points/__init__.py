"""Nuclei from points: learns from some or all of the points of an image where its nuclei lie, and their outlines."""

from wsikit.methods.points.config import Config
from wsikit.methods.points.evaluate import dataset, evaluate
from wsikit.methods.points.model import build_model
from wsikit.methods.points.predict import load_predictor
from wsikit.methods.points.train import train

__all__ = ["Config", "build_model", "dataset", "evaluate", "load_predictor", "train"]
