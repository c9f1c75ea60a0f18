"""Data sets that runs read, and models that they read and wrote."""

from typing import Any

import mlflow
import mlflow.data
import pandas as pd
import pytest
from conformance import covers
from mlflow import MlflowClient, entities
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException

from support import Api, client_3, linked

FRAME = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})


def dataset(name: str, digest: str = "1", context: str | None = None) -> DatasetInput:
    tags = [InputTag("mlflow.data.context", context)] if context else []
    return DatasetInput(Dataset(name, digest, "local", f"/data/{name}", "schema", "profile"), tags)


def test_log_input(client: MlflowClient, experiment: str) -> None:
    mlflow.set_experiment(experiment_id=experiment)
    data = from_pandas(FRAME, source="https://example.com/d.csv", name="d", targets="y")
    with mlflow.start_run() as run:
        mlflow.log_input(data, context="training", tags={"k": "v"})
        mlflow.log_input(data, context="training")
    [logged] = linked(client, run.info.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("d", data.digest)
    assert "mlflow_colspec" in logged.dataset.schema
    assert '"num_rows": 2' in logged.dataset.profile
    assert {t.key: t.value for t in logged.tags} == {"mlflow.data.context": "training", "k": "v"}
    source = mlflow.data.get_source(logged)
    assert isinstance(source, HTTPDatasetSource)
    assert source.url == "https://example.com/d.csv"
    found: Any = client.search_runs([experiment], "datasets.name = 'd'")[0]
    assert found.inputs.dataset_inputs[0].dataset.digest == data.digest


@covers("inputs-once")
def test_inputs_keep_their_order_and_their_first_form(client: MlflowClient, run: str) -> None:
    client.log_inputs(run, [dataset("b", context="first"), dataset("a"), dataset("b")])
    client.log_inputs(run, [dataset("a", "2"), dataset("b", context="second")])
    inputs = linked(client, run).inputs.dataset_inputs
    assert [(i.dataset.name, i.dataset.digest) for i in inputs] == [
        ("b", "1"),
        ("a", "1"),
        ("a", "2"),
    ]
    assert [t.value for t in inputs[0].tags] == ["first"]


@covers("inputs-once")
@client_3("logged models")
def test_models_in_and_out(client: MlflowClient, experiment: str, run: str) -> None:
    read, wrote = (client.create_logged_model(experiment).model_id for _ in range(2))
    for _ in range(2):
        client.log_inputs(run, models=[entities.LoggedModelInput(read)])
        client.log_outputs(run, [entities.LoggedModelOutput(wrote, step=5)])
    shown = linked(client, run)
    assert [m.model_id for m in shown.inputs.model_inputs] == [read]
    assert [(m.model_id, m.step) for m in shown.outputs.model_outputs] == [(wrote, 5)]


@covers("search-datasets")
def test_search_by_dataset(client: MlflowClient, experiment: str) -> None:
    runs = [client.create_run(experiment).info.run_id for _ in range(3)]
    client.log_inputs(runs[0], [dataset("train", "1", "training"), dataset("test", "2", "eval")])
    client.log_inputs(runs[1], [dataset("train", "3")])

    def found(condition: str) -> set[int]:
        return {runs.index(r.info.run_id) for r in client.search_runs([experiment], condition)}

    assert found("datasets.name = 'train'") == {0, 1}
    assert found("dataset.name = 'train' AND datasets.digest = '2'") == {0}
    assert found("datasets.name LIKE 'TE%'") == set()
    assert found("datasets.name ILIKE 'TE%'") == {0}
    assert found("datasets.digest IN ('1', '3')") == {0, 1}
    assert found("datasets.context = 'eval'") == {0}
    assert found("datasets.context != 'eval'") == {0}
    assert found("datasets.name = 'x'") == set()


@covers("search-datasets")
@pytest.mark.runledger
def test_search_datasets(api: Api, client: MlflowClient, experiment: str) -> None:
    for _ in range(2):
        run = client.create_run(experiment).info.run_id
        client.log_inputs(run, [dataset("a", "1", "training"), dataset("b", "2")])
    answer = api.call("POST", "experiments/search-datasets", {"experiment_ids": [experiment]})
    assert answer.status_code == 200
    assert sorted(answer.json()["dataset_summaries"], key=lambda d: d["name"]) == [
        {"experiment_id": experiment, "name": "a", "digest": "1", "context": "training"},
        {"experiment_id": experiment, "name": "b", "digest": "2"},
    ]
    for ids, message in (([], "at least one experiment_id"), (["1"] * 21, "more than 20")):
        answer = api.call("POST", "experiments/search-datasets", {"experiment_ids": ids})
        assert (answer.status_code, message in answer.json()["message"]) == (400, True)


@covers("limit-inputs")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"datasets": [{"dataset": {"name": "n" * 501, "digest": "d"}}]}, "name"),
        ({"datasets": [{"dataset": {"name": "n", "digest": "d" * 37}}]}, "digest"),
        (
            {
                "datasets": [
                    {
                        "tags": [{"key": "k" * 256, "value": "v"}],
                        "dataset": {"name": "n", "digest": "d"},
                    }
                ]
            },
            "key",
        ),
        ({"datasets": "x"}, "datasets"),
    ],
)
def test_refused_inputs(
    api: Api, client: MlflowClient, run: str, body: dict[str, object], message: str
) -> None:
    answer = api.call("POST", "runs/log-inputs", {"run_id": run, **body})
    assert (answer.status_code, message in answer.json()["message"]) == (400, True), answer.text
    assert not linked(client, run).inputs.dataset_inputs


def test_a_deleted_run_takes_no_inputs(client: MlflowClient, run: str) -> None:
    client.delete_run(run)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.log_inputs(run, [dataset("a")])
