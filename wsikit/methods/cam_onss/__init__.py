"""Tissue from patch labels: activation maps of a classifier, voted over scales, teach a segmenter that is told to doubt
them."""

from wsikit.methods.cam_onss.config import Config
from wsikit.methods.cam_onss.evaluate import dataset, evaluate
from wsikit.methods.cam_onss.model import build_model
from wsikit.methods.cam_onss.predict import load_predictor
from wsikit.methods.cam_onss.train import train

__all__ = ["Config", "build_model", "dataset", "evaluate", "load_predictor", "train"]
