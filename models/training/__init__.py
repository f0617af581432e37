"""Data, transforms, the loop, evaluation and prediction."""

from models.training.evaluation import evaluate, score
from models.training.folder import TrainSummary
from models.training.launch import run_training
from models.training.loop import finetune
from models.training.options import DetectionData, EvaluateOptions, PredictOptions, TrainOptions
from models.training.predict import Prediction, predict
from models.training.progress import TrainingDisplay

__all__ = [
    "DetectionData",
    "EvaluateOptions",
    "PredictOptions",
    "Prediction",
    "TrainOptions",
    "TrainSummary",
    "TrainingDisplay",
    "evaluate",
    "finetune",
    "predict",
    "run_training",
    "score",
]
