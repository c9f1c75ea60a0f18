"""Logged models: what log_model and load_model of MLflow 3 rest on."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
import numpy as np
import pytest
from conformance import covers
from mlflow import MlflowClient, entities
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LogisticRegression

from support import Api, client_3, linked, unique

pytestmark = client_3("logged models")

FEATURES = np.array([[0.0], [1.0], [2.0], [3.0]])
LABELS = np.array([0, 0, 1, 1])


@pytest.fixture
def classifier() -> LogisticRegression:
    return LogisticRegression().fit(FEATURES, LABELS)


@pytest.fixture(autouse=True)
def active_experiment(experiment: str) -> Iterator[str]:
    mlflow.set_experiment(experiment_id=experiment)
    yield experiment
    while mlflow.active_run():
        mlflow.end_run()


def log(classifier: LogisticRegression, **more: object) -> "mlflow.models.model.ModelInfo":
    # Requirements that are not given are inferred, which takes seconds.
    return mlflow.sklearn.log_model(
        classifier, name="digits", pip_requirements=["scikit-learn"], **more
    )


def test_log_and_load(
    client: MlflowClient, classifier: LogisticRegression, experiment: str
) -> None:
    with mlflow.start_run() as run:
        mlflow.log_params({"c": 1, "solver": "lbfgs"})
        info = log(classifier)
    loaded = mlflow.sklearn.load_model(info.model_uri)
    assert (loaded.predict(FEATURES) == classifier.predict(FEATURES)).all()
    assert (mlflow.pyfunc.load_model(info.model_uri).predict(FEATURES) == LABELS).all()

    model = client.get_logged_model(info.model_id)
    assert model.status == entities.LoggedModelStatus.READY
    assert (model.name, model.experiment_id, model.source_run_id) == (
        "digits",
        experiment,
        run.info.run_id,
    )
    assert model.params == {"c": "1", "solver": "lbfgs"}
    assert (
        model.artifact_location
        == f"mlflow-artifacts:/{experiment}/models/{info.model_id}/artifacts"
    )
    assert model.last_updated_timestamp >= model.creation_timestamp > 0
    outputs = linked(client, run.info.run_id).outputs.model_outputs
    assert [(o.model_id, o.step) for o in outputs] == [(info.model_id, 0)]
    assert "MLmodel" in [f.path for f in client.list_logged_model_artifacts(info.model_id)]
    found: Any = client.search_runs([experiment])[0]
    assert [o.model_id for o in found.outputs.model_outputs] == [info.model_id]


def test_load_by_run(classifier: LogisticRegression) -> None:
    with mlflow.start_run() as run:
        log(classifier)
    loaded = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/digits")
    assert (loaded.predict(FEATURES) == LABELS).all()


@covers("version-source-models")
def test_registered_model(api: Api, client: MlflowClient, classifier: LogisticRegression) -> None:
    name = unique("registered")
    with mlflow.start_run() as run:
        info = log(classifier, registered_model_name=name)
    # The client leaves the model's id of a version out.
    version = api.get("model-versions/get", name=name, version="1")["model_version"]
    assert (version["source"], version["run_id"], version["model_id"]) == (
        f"models:/{info.model_id}",
        run.info.run_id,
        info.model_id,
    )
    location = client.get_logged_model(info.model_id).artifact_location
    assert client.get_model_version_download_uri(name, "1") == location
    client.set_registered_model_alias(name, "champion", "1")
    for uri in (f"models:/{name}/1", f"models:/{name}@champion", f"models:/{name}/latest"):
        assert (mlflow.sklearn.load_model(uri).predict(FEATURES) == LABELS).all()
    copy = client.copy_model_version(f"models:/{name}/1", unique("copy"))
    assert client.get_model_version_download_uri(copy.name, copy.version) == location


def test_versions_are_listed_on_the_model(
    client: MlflowClient, classifier: LogisticRegression, experiment: str, model: str
) -> None:
    def listed(model_id: str) -> Any:
        tag = client.get_logged_model(model_id).tags["mlflow.modelVersions"]
        [found] = [m for m in client.search_logged_models([experiment]) if m.model_id == model_id]
        assert found.tags["mlflow.modelVersions"] == tag
        return json.loads(tag)

    by_hand = client.create_logged_model(experiment).model_id
    for _ in range(2):
        client.create_model_version(model, f"models:/{by_hand}", model_id=by_hand)
    assert listed(by_hand) == [{"name": model, "version": 1}, {"name": model, "version": 2}]
    name = unique("registered")
    with mlflow.start_run():
        fluent = log(classifier, registered_model_name=name).model_id
    # The server says it with a number, the client once more with a text.
    assert listed(fluent) == [{"name": name, "version": 1}, {"name": name, "version": "1"}]


@pytest.mark.runledger
def test_register_checks_the_model(
    api: Api, client: MlflowClient, model: str, experiment: str
) -> None:
    logged = client.create_logged_model(experiment)
    for body in (
        {"source": "models:/m-" + "0" * 32, "model_id": "m-" + "0" * 32},
        {"source": f"models:/{logged.model_id}"},
        {"source": f"models:/{logged.model_id}", "model_id": "m-" + "0" * 32},
        {"source": f"{logged.artifact_location}/../x", "model_id": logged.model_id},
        {"source": f"mlflow-artifacts:/{experiment}/models/other", "model_id": logged.model_id},
    ):
        answer = api.call("POST", "model-versions/create", {"name": model, **body})
        assert answer.status_code == 400, (body, answer.text)
    for source in (f"models:/{logged.model_id}", f"{logged.artifact_location}/part"):
        client.create_model_version(model, source, model_id=logged.model_id)


@covers("metric-set", "metric-nan")
def test_points_sent_again_change_nothing(
    client: MlflowClient, classifier: LogisticRegression
) -> None:
    with mlflow.start_run() as run:
        for value in (0.5, math.nan, math.inf, 0.5):
            mlflow.log_metric("loss", value, step=0, timestamp=1000)
        mlflow.log_metric("loss", 0.25, step=1, timestamp=2000)
        mlflow.log_metric("acc", 0.9, step=0)

        def history() -> list[tuple[int, int, str]]:
            points = client.get_metric_history(run.info.run_id, "loss")
            return [(p.timestamp, p.step, repr(p.value)) for p in points]

        before = history()
        first, second = log(classifier), log(classifier)
        assert history() == before
    assert len(before) == 4
    for info in (first, second):
        metrics = client.get_logged_model(info.model_id).metrics or []
        assert sorted((m.key, m.step) for m in metrics) == [
            ("acc", 0),
            ("loss", 0),
            ("loss", 0),
            ("loss", 0),
        ]
        assert {m.run_id for m in metrics} == {run.info.run_id}
        assert {m.model_id for m in metrics} == {info.model_id}
    assert client.get_run(run.info.run_id).data.metrics["loss"] == 0.25


@covers("logged-model-metrics")
def test_metric_of_a_model_on_a_dataset(client: MlflowClient, experiment: str, run: str) -> None:
    model = client.create_logged_model(experiment, name="m")
    client.log_metric(
        run, "acc", 0.5, step=3, model_id=model.model_id, dataset_name="d", dataset_digest="1"
    )
    [metric] = client.get_logged_model(model.model_id).metrics or []
    assert (metric.key, metric.value, metric.step) == ("acc", 0.5, 3)
    assert (metric.dataset_name, metric.dataset_digest, metric.run_id) == ("d", "1", run)


@pytest.mark.runledger
def test_metric_of_no_model(api: Api, client: MlflowClient, run: str) -> None:
    metric = {"key": "a", "value": 1, "timestamp": 1, "model_id": "m-" + "0" * 32}
    for path, body in (("runs/log-metric", metric), ("runs/log-batch", {"metrics": [metric]})):
        answer = api.call("POST", path, {"run_id": run, **body})
        assert answer.status_code == 404
        assert "Logged model with ID 'm-000" in answer.json()["message"]
    assert client.get_run(run).data.metrics == {}


@covers("logged-model-life")
def test_life_of_a_model(client: MlflowClient, experiment: str) -> None:
    model = client.create_logged_model(
        experiment, name="m", tags={"a": "1", "b": "2"}, params={"p": "1"}, model_type="agent"
    )
    assert model.status == entities.LoggedModelStatus.PENDING
    assert (model.tags, model.params, model.model_type) == (
        {"a": "1", "b": "2"},
        {"p": "1"},
        "agent",
    )
    client.set_logged_model_tags(model.model_id, {"a": "3", "c": "4"})
    client.delete_logged_model_tag(model.model_id, "b")
    with pytest.raises(MlflowException, match="No tag with key 'b' found for model"):
        client.delete_logged_model_tag(model.model_id, "b")
    client.log_model_params(model.model_id, {f"p{i}": "v" for i in range(250)})
    finished = client.finalize_logged_model(model.model_id, entities.LoggedModelStatus.FAILED)
    assert finished.status == entities.LoggedModelStatus.FAILED
    read = client.get_logged_model(model.model_id)
    assert read.status == entities.LoggedModelStatus.FAILED
    assert read.tags == {"a": "3", "c": "4"}
    assert len(read.params) == 251
    client.delete_logged_model(model.model_id)
    with pytest.raises(MlflowException, match=f"Logged model with ID '{model.model_id}' not found"):
        client.get_logged_model(model.model_id)
    assert client.search_logged_models([experiment]) == []


@covers("param-immutability")
@pytest.mark.runledger
def test_parameters_are_written_once(api: Api, client: MlflowClient, experiment: str) -> None:
    model = client.create_logged_model(experiment, params={"p": "1"})
    path = f"logged-models/{model.model_id}/params"
    same = api.call("POST", path, {"params": [{"key": "p", "value": "1"}]})
    assert (same.status_code, same.text) == (200, "{}")
    other = api.call(
        "POST", path, {"params": [{"key": "q", "value": "1"}, {"key": "p", "value": "2"}]}
    )
    assert other.status_code == 400
    assert other.json()["message"].startswith("Changing param values is not allowed.")
    assert client.get_logged_model(model.model_id).params == {"p": "1"}


def test_refused_models(api: Api, client: MlflowClient, experiment: str) -> None:
    gone = client.create_experiment(unique("gone"))
    client.delete_experiment(gone)
    for body, status, message in (
        ({"name": "a"}, 400, "Missing value for required parameter 'experiment_id'."),
        ({"experiment_id": experiment, "name": "a/b"}, 400, "Invalid model name ('a/b') provided."),
        ({"experiment_id": "987654321"}, 404, "No Experiment with id=987654321 exists"),
        ({"experiment_id": gone}, 400, f"The experiment {gone} must be in the 'active' state."),
    ):
        answer = api.call("POST", "logged-models", body)
        assert (answer.status_code, answer.json()["message"][: len(message)]) == (status, message)
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/artifacts/directories"),
        ("DELETE", "/tags/t"),
    ):
        answer = api.call(method, f"logged-models/m-{'0' * 32}{path}")
        assert answer.status_code == 404, (method, path, answer.text)


@covers("search-logged-models")
def test_search(client: MlflowClient, experiment: str, run: str) -> None:
    models = []
    for i, name in enumerate(["alpha", "beta", "gamma", "delta"]):
        model = client.create_logged_model(
            experiment,
            name=name,
            params={"depth": str(i)},
            tags={"even": str(i % 2 == 0)},
            source_run_id=run if i < 2 else None,
        )
        models.append(model.model_id)
        for step in range(2):
            client.log_metric(run, "acc", i + 10 * step, step=step, model_id=model.model_id)
        client.log_metric(
            run, "err", -i, model_id=model.model_id, dataset_name="train", dataset_digest=str(i)
        )
    client.log_metric(run, "nan", math.nan, model_id=models[0])
    client.finalize_logged_model(models[1], entities.LoggedModelStatus.READY)

    def names(filter_string: str | None = None, **more: Any) -> list[str]:
        found = client.search_logged_models([experiment], filter_string=filter_string, **more)
        return [m.name for m in found]

    assert names() == ["delta", "gamma", "beta", "alpha"]
    assert names("name = 'beta'") == ["beta"]
    assert names("name LIKE '%lta'") == ["delta"]
    assert names("status = 'READY'") == ["beta"]
    assert names(f"source_run_id = '{run}'") == ["beta", "alpha"]
    assert names("params.depth IN ('1', '3')") == ["delta", "beta"]
    assert names("tags.even = 'True' AND metrics.acc > 10") == ["gamma"]
    assert names("metrics.acc >= 12") == ["delta", "gamma"]
    assert names("metrics.none != 1") == []
    assert names("creation_timestamp > 1 AND tags.other != 'x'") == []
    assert names(datasets=[{"dataset_name": "train", "dataset_digest": "2"}]) == ["gamma"]
    assert names(order_by=[{"field_name": "name"}]) == ["alpha", "beta", "delta", "gamma"]
    assert names(order_by=[{"field_name": "metrics.acc", "ascending": False}])[0] == "delta"
    assert names(order_by=[{"field_name": "metrics.nan"}])[0] == "alpha"
    paged: list[str] = []
    token = None
    while True:
        page = client.search_logged_models(
            [experiment],
            max_results=3,
            order_by=[{"field_name": "metrics.err"}],
            page_token=token,
        )
        paged += [m.name for m in page]
        if not (token := page.token):
            break
    assert paged == ["delta", "gamma", "beta", "alpha"]
    frame = mlflow.search_logged_models([experiment], output_format="pandas")
    assert set(frame["name"]) == {"alpha", "beta", "gamma", "delta"}
    for bad in ("metrics.acc = 'x'", "nothing = 1", "status = 'DONE'", "name = 'a' OR name = 'b'"):
        with pytest.raises(MlflowException, match="INVALID_PARAMETER_VALUE"):
            names(bad)


def test_download(classifier: LogisticRegression, tmp_path: Path) -> None:
    with mlflow.start_run():
        info = log(classifier)
    path = mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path))
    assert (Path(path) / "MLmodel").is_file()


@covers("log-model-legacy")
def test_log_model_of_older_clients(api: Api, client: MlflowClient, run: str) -> None:
    model = '{"artifact_path":"m","flavors":{},"run_id":"r","utc_time_created":"now"}'
    for _ in range(2):
        answer = api.call("POST", "runs/log-model", {"run_id": run, "model_json": model})
        assert (answer.status_code, answer.text) == (200, "{}")
    tag = client.get_run(run).data.tags["mlflow.log-model.history"]
    assert tag.count("artifact_path") == 2
    for bad in ("x", '{"flavors":{}}'):
        answer = api.call("POST", "runs/log-model", {"run_id": run, "model_json": bad})
        assert answer.status_code == 400
