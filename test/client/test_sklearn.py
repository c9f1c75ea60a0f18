"""scikit-learn models: logged by hand and by autolog, registered, loaded, evaluated."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeClassifier

from support import OLD_CLIENT, client_3, linked, unique

FEATURES, LABELS = load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=3, random_state=0).fit(FEATURES, LABELS)


@pytest.fixture(autouse=True)
def active_experiment(experiment: str) -> Iterator[str]:
    mlflow.set_experiment(experiment_id=experiment)
    yield experiment
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.sklearn.autolog(disable=True)


def log(tree: DecisionTreeClassifier, **more: Any) -> Any:
    """What log_model says of the model that it logged under the name `tree`."""
    # Given, they are not inferred, which takes seconds.
    more |= {"signature": infer_signature(FEATURES, LABELS), "pip_requirements": ["scikit-learn"]}
    if OLD_CLIENT:
        return mlflow.sklearn.log_model(tree, "tree", **more)
    # The newest client's format takes no trees.
    return mlflow.sklearn.log_model(tree, name="tree", serialization_format="cloudpickle", **more)


def test_loaded_model_predicts_the_same(
    client: MlflowClient, tree: DecisionTreeClassifier, tmp_path: Path
) -> None:
    name = unique("tree")
    with mlflow.start_run() as run:
        info = log(tree, registered_model_name=name)
    client.set_registered_model_alias(name, "champion", "1")
    client.transition_model_version_stage(name, "1", "Production")
    version = client.get_model_version(name, "1")
    assert (version.run_id, version.status) == (run.info.run_id, "READY")

    expected = tree.predict(FEATURES)
    uris = [
        f"runs:/{run.info.run_id}/tree",
        f"models:/{name}/1",
        f"models:/{name}@champion",
        f"models:/{name}/Production",
        f"models:/{name}/latest",
        info.model_uri,
    ]
    for uri in uris:
        assert (mlflow.sklearn.load_model(uri).predict(FEATURES) == expected).all(), uri
        assert (mlflow.pyfunc.load_model(uri).predict(FEATURES) == expected).all(), uri
        assert mlflow.models.get_model_info(uri).signature == info.signature, uri
    down = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=str(tmp_path)))
    assert (down / "MLmodel").is_file()


@client_3("models:/<id>")
def test_loaded_by_the_id_of_the_model(tree: DecisionTreeClassifier) -> None:
    with mlflow.start_run():
        info = log(tree)
    loaded = mlflow.sklearn.load_model(f"models:/{info.model_id}")
    assert (loaded.predict(FEATURES) == tree.predict(FEATURES)).all()


def test_register_a_model_of_a_run(tree: DecisionTreeClassifier) -> None:
    name = unique("tree")
    with mlflow.start_run() as run:
        log(tree)
    for number in ("1", "2"):
        version = mlflow.register_model(f"runs:/{run.info.run_id}/tree", name, tags={"n": number})
        assert (str(version.version), version.run_id) == (number, run.info.run_id)
    found = mlflow.search_model_versions(filter_string=f"name = '{name}'")
    assert sorted((str(v.version), v.tags["n"]) for v in found) == [("1", "1"), ("2", "2")]
    assert [m.name for m in mlflow.search_registered_models(filter_string=f"name = '{name}'")] == [
        name
    ]
    loaded = mlflow.sklearn.load_model(f"models:/{name}/2")
    assert (loaded.predict(FEATURES) == tree.predict(FEATURES)).all()


def test_predict_from_the_command_line(
    server: str, tree: DecisionTreeClassifier, tmp_path: Path
) -> None:
    name = unique("tree")
    with mlflow.start_run():
        log(tree, registered_model_name=name)
    given, wanted = tmp_path / "in.json", tmp_path / "out.json"
    given.write_text(json.dumps({"inputs": FEATURES[::50].tolist()}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"),
            *("-m", f"models:/{name}/1", "-i", str(given), "-o", str(wanted)),
        ],
        env={**os.environ, "MLFLOW_TRACKING_URI": server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(wanted.read_text()) == {"predictions": tree.predict(FEATURES[::50]).tolist()}


def test_autolog(client: MlflowClient, experiment: str) -> None:
    mlflow.sklearn.autolog()
    model = LogisticRegression(C=0.5, max_iter=500).fit(FEATURES, LABELS)
    score = model.score(FEATURES, LABELS)

    [run] = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["C"] == "0.5"
    assert run.data.tags["estimator_name"] == "LogisticRegression"
    assert run.data.metrics["training_accuracy_score"] == pytest.approx(score)
    assert score in run.data.metrics.values()
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert "training_confusion_matrix.png" in files
    logged = linked(client, run.info.run_id)
    [data] = logged.inputs.dataset_inputs
    assert (data.dataset.source_type, [t.value for t in data.tags]) == ("code", ["train"])
    if not OLD_CLIENT:
        [output] = logged.outputs.model_outputs
        assert client.get_logged_model(output.model_id).params["C"] == "0.5"
    loaded = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model")
    assert (loaded.predict(FEATURES) == model.predict(FEATURES)).all()


def test_autolog_of_a_grid_search(client: MlflowClient, experiment: str) -> None:
    mlflow.sklearn.autolog(max_tuning_runs=None)
    search = GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 2, 3]}, cv=3)
    search.fit(FEATURES, LABELS)

    [parent] = client.search_runs([experiment], "tags.estimator_name = 'GridSearchCV'")
    assert parent.data.params["best_max_depth"] == str(search.best_params_["max_depth"])
    assert parent.data.metrics["best_cv_score"] == pytest.approx(search.best_score_)
    children = client.search_runs(
        [experiment],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
        order_by=["params.max_depth"],
    )
    assert [c.data.params["max_depth"] for c in children] == ["1", "2", "3"]
    assert [c.data.metrics["mean_test_score"] for c in children] == pytest.approx(
        search.cv_results_["mean_test_score"].tolist()
    )
    assert {c.info.status for c in children} == {"FINISHED"}
    best = mlflow.sklearn.load_model(f"runs:/{parent.info.run_id}/best_estimator")
    assert (best.predict(FEATURES) == search.predict(FEATURES)).all()
    table = pd.read_csv(
        mlflow.artifacts.download_artifacts(
            run_id=parent.info.run_id, artifact_path="cv_results.csv"
        )
    )
    assert list(table["mean_test_score"]) == pytest.approx(
        search.cv_results_["mean_test_score"].tolist()
    )


def test_evaluate(client: MlflowClient, tree: DecisionTreeClassifier) -> None:
    names = ["a", "b", "c", "d"]
    data = pd.DataFrame(FEATURES, columns=names).assign(species=LABELS)
    with mlflow.start_run() as run:
        info = log(tree)
        result = mlflow.models.evaluate(
            info.model_uri,
            data,
            targets="species",
            model_type="classifier",
            evaluator_config={"log_model_explainability": False},
        )
    found = linked(client, run.info.run_id)
    score = tree.score(FEATURES, LABELS)
    assert result.metrics["accuracy_score"] == pytest.approx(score)
    assert found.data.metrics["accuracy_score"] == pytest.approx(score)
    assert found.data.metrics.keys() >= result.metrics.keys()
    assert "confusion_matrix.png" in {f.path for f in client.list_artifacts(run.info.run_id)}
    assert [len(found.inputs.dataset_inputs), found.data.metrics["example_count"]] == [1, 150]
    assert np.isfinite(list(found.data.metrics.values())).all()
