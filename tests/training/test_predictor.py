"""The module that a run leaves behind."""

import numpy as np
import pytest
import torch

from graphattn.data import load, make_loader
from graphattn.training import GraphPredictor
from graphattn.training.config import resolved


def test_predictions_are_in_label_units_and_in_evaluation_mode(make_config) -> None:
    dataset = load("toy_rings:rings")
    config = resolved(make_config(), dataset)
    labels = dataset.labels[dataset.indices("train")]
    torch.manual_seed(0)
    predictor = GraphPredictor(config, dataset.task, labels).train()
    batches = list(make_loader(dataset, "test", predictor.collate, batch_size=3))
    first, second = predictor.predict(batches), predictor.predict(batches)
    assert first.shape == (10, 2) and first.dtype == np.float64
    np.testing.assert_array_equal(first, second)  # no dropout
    assert predictor.training  # as it was
    predictor.eval()
    with torch.no_grad():
        output = predictor.network(batches[0])
    np.testing.assert_allclose(first[:3], output * predictor.objective.std +
                               predictor.objective.mean, rtol=1e-5)  # fmt: skip
    assert predictor.predict([]).shape == (0, 2)


def test_a_batch_without_labels_has_predictions_and_no_loss(make_config) -> None:
    dataset = load("toy_rings:rings")
    predictor = GraphPredictor(resolved(make_config(), dataset), dataset.task)
    graph = dataset[5].clone()
    del graph.y
    batch = predictor.collate([graph])
    assert predictor(batch).shape == (1, 2)
    with pytest.raises(ValueError, match="no labels"):
        predictor.loss(batch)
