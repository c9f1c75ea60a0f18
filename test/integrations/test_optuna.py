"""Optuna: its callback that tracks each trial, and mlflow as the store of a study."""

import mlflow
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.optuna.storage import MlflowStorage
from optuna_integration import MLflowCallback

from support import unique

TRIALS = 6


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return x**2 + (kind == "b")


@pytest.fixture
def sampler() -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=1)


def test_callback(server: str, client: MlflowClient, sampler: optuna.samplers.BaseSampler) -> None:
    name = unique("study")
    study = optuna.create_study(study_name=name, sampler=sampler)
    callback = MLflowCallback(
        tracking_uri=server, metric_name="loss", mlflow_kwargs={"tags": {"team": "ada"}}
    )

    @callback.track_in_mlflow()
    def tracked(trial: optuna.Trial) -> float:
        mlflow.log_param("number", trial.number)
        return objective(trial)

    study.optimize(tracked, n_trials=TRIALS, callbacks=[callback])

    found = client.get_experiment_by_name(name)
    assert found is not None
    runs = client.search_runs([found.experiment_id], order_by=["metrics.loss"])
    assert [r.data.metrics["loss"] for r in runs] == sorted(t.value for t in study.trials)
    for run in runs:
        trial = study.trials[int(run.data.params["number"])]
        assert run.info.status == "FINISHED"
        assert run.data.params.items() >= {k: str(v) for k, v in trial.params.items()}.items()
        assert run.data.tags["team"] == "ada"
        assert run.data.tags["direction"] == "MINIMIZE"
    best = client.search_runs([found.experiment_id], order_by=["metrics.loss"], max_results=1)
    assert float(best[0].data.params["x"]) == study.best_params["x"]


def test_study_is_kept(
    client: MlflowClient, experiment: str, sampler: optuna.samplers.BaseSampler
) -> None:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    name = unique("study")
    study = optuna.create_study(
        study_name=name,
        storage=MlflowStorage(experiment_id=found.experiment_id),
        sampler=sampler,
    )
    study.optimize(objective, n_trials=TRIALS)

    # Another process would see the same.
    again = optuna.load_study(
        study_name=name, storage=MlflowStorage(experiment_id=found.experiment_id)
    )
    assert len(again.trials) == TRIALS
    assert [(t.number, t.state, t.value, t.params) for t in again.trials] == [
        (t.number, t.state, t.value, t.params) for t in study.trials
    ]
    assert again.best_params == study.best_params
