"""Training runs: a configuration in, a folder with checkpoints, journal, predictions and result out.

`train` needs `pip install graphattn[train]`; loading a run and predicting with it need no Lightning.
"""

from graphattn.training.config import DataConfig, InputsConfig, RunConfig, TrainingConfig, read_config
from graphattn.training.evaluate import evaluate_run, predict_split
from graphattn.training.load import load_run
from graphattn.training.metric import score
from graphattn.training.objective import Objective
from graphattn.training.predictor import GraphPredictor
from graphattn.training.prune import PrunedRun, prune_run
from graphattn.training.run import RunResult, train, train_in
from graphattn.training.search import SearchResult, Trial, tune
from graphattn.training.seeds import mean_and_std, parse_seeds, train_seeds
from graphattn.training.self_ensemble import SelfEnsemble, evaluate_self_ensemble, predict_self_ensemble

__all__ = [
    "DataConfig",
    "GraphPredictor",
    "InputsConfig",
    "Objective",
    "PrunedRun",
    "RunConfig",
    "RunResult",
    "SearchResult",
    "SelfEnsemble",
    "TrainingConfig",
    "Trial",
    "evaluate_run",
    "evaluate_self_ensemble",
    "load_run",
    "mean_and_std",
    "parse_seeds",
    "predict_self_ensemble",
    "predict_split",
    "prune_run",
    "read_config",
    "score",
    "train",
    "train_in",
    "train_seeds",
    "tune",
]
