"""Gradient boosting, which mlflow logs round by round."""

from collections.abc import Iterator

import lightgbm
import mlflow
import mlflow.lightgbm
import mlflow.xgboost
import numpy as np
import pytest
import xgboost
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.datasets import load_breast_cancer

from support import linked

FEATURES, LABELS = load_breast_cancer(return_X_y=True)
ROUNDS = 7


@pytest.fixture(autouse=True)
def autolog() -> Iterator[None]:
    mlflow.xgboost.autolog()
    mlflow.lightgbm.autolog()
    yield
    mlflow.xgboost.autolog(disable=True)
    mlflow.lightgbm.autolog(disable=True)


def only_run(client: MlflowClient, experiment: str) -> Run:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    [run] = client.search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    return run


def check(client: MlflowClient, run: Run, key: str, expected: list[float]) -> None:
    """That the run has this metric for each round, and has logged its data and importances."""
    history = client.get_metric_history(run.info.run_id, key)
    assert [m.step for m in history] == list(range(ROUNDS))
    assert [m.value for m in history] == pytest.approx(expected)
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert any(f.startswith("feature_importance_") and f.endswith(".png") for f in files)
    inputs = linked(client, run.info.run_id).inputs.dataset_inputs
    assert {t.value for i in inputs for t in i.tags} == {"train", "eval"}


def test_xgboost(client: MlflowClient, experiment: str) -> None:
    train = xgboost.DMatrix(FEATURES[:400], LABELS[:400])
    held_out = xgboost.DMatrix(FEATURES[400:], LABELS[400:])
    result: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 2, "nthread": 1},
        train,
        num_boost_round=ROUNDS,
        evals=[(held_out, "held_out")],
        evals_result=result,
        verbose_eval=False,
    )
    run = only_run(client, experiment)
    assert run.data.params["max_depth"] == "2"
    check(client, run, "held_out-logloss", result["held_out"]["logloss"])
    loaded = mlflow.xgboost.load_model(f"runs:/{run.info.run_id}/model")
    assert np.allclose(loaded.predict(held_out), booster.predict(held_out))


def test_lightgbm(client: MlflowClient, experiment: str) -> None:
    train = lightgbm.Dataset(FEATURES[:400], LABELS[:400])
    held_out = lightgbm.Dataset(FEATURES[400:], LABELS[400:], reference=train)
    result: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        {"objective": "binary", "max_depth": 2, "num_threads": 1, "verbosity": -1},
        train,
        num_boost_round=ROUNDS,
        valid_sets=[held_out],
        valid_names=["held_out"],
        callbacks=[lightgbm.record_evaluation(result)],
    )
    run = only_run(client, experiment)
    assert run.data.params["max_depth"] == "2"
    check(client, run, "held_out-binary_logloss", result["held_out"]["binary_logloss"])
    loaded = mlflow.lightgbm.load_model(f"runs:/{run.info.run_id}/model")
    assert np.allclose(loaded.predict(FEATURES[400:]), booster.predict(FEATURES[400:]))
