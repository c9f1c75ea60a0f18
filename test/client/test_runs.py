import mlflow
import pytest
import requests
from conformance import covers
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from support import Api, client_3, unique


@covers("run-artifact-uri")
def test_fluent_run(client: MlflowClient, experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment, run_name="first", tags={"a": "1"}) as active:
        mlflow.log_param("lr", 0.1)
        mlflow.log_params({"depth": 3, "name": "träning"})
        mlflow.log_metric("loss", 0.5, step=1)
        mlflow.log_metrics({"loss": 0.25, "accuracy": 0.75}, step=2)
        mlflow.set_tag("b", "2")
        mlflow.set_tags({"c": "3", "a": "one"})
        assert client.get_run(active.info.run_id).info.status == "RUNNING"
    run = client.get_run(active.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.info.experiment_id == experiment
    assert run.info.end_time >= run.info.start_time > 0
    assert run.info.artifact_uri == (f"mlflow-artifacts:/{experiment}/{run.info.run_id}/artifacts")
    assert run.data.params == {"lr": "0.1", "depth": "3", "name": "träning"}
    assert run.data.metrics == {"loss": 0.25, "accuracy": 0.75}
    tags = {key: run.data.tags[key] for key in ("a", "b", "c", "mlflow.runName")}
    assert tags == {"a": "one", "b": "2", "c": "3", "mlflow.runName": "first"}


def test_failed_run(client: MlflowClient, experiment: str) -> None:
    with pytest.raises(ValueError, match="boom"), mlflow.start_run(experiment_id=experiment) as run:
        raise ValueError("boom")
    assert client.get_run(run.info.run_id).info.status == "FAILED"


def test_resumed_run(client: MlflowClient, experiment: str) -> None:
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 2.0, step=0)
    with mlflow.start_run(run_id=run.info.run_id):
        assert client.get_run(run.info.run_id).info.status == "RUNNING"
        mlflow.log_metric("loss", 1.0, step=1)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 2.0), (1, 1.0)]
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


def test_nested_runs(client: MlflowClient, experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment) as parent:
        with mlflow.start_run(experiment_id=experiment, nested=True) as first:
            pass
        with mlflow.start_run(experiment_id=experiment, nested=True) as second:
            pass
    children = client.search_runs(
        [experiment], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert {r.info.run_id for r in children} == {first.info.run_id, second.info.run_id}
    found = client.get_parent_run(first.info.run_id)
    assert found is not None
    assert found.info.run_id == parent.info.run_id


def test_log_batch(client: MlflowClient, run: str) -> None:
    client.log_batch(
        run,
        metrics=[Metric("loss", 1.0 / (i + 1), 1000 + i, i) for i in range(500)],
        params=[Param(f"p{i}", str(i)) for i in range(100)],
        tags=[RunTag(f"t{i}", str(i)) for i in range(100)],
    )
    data = client.get_run(run).data
    assert data.params == {f"p{i}": str(i) for i in range(100)}
    assert {k: v for k, v in data.tags.items() if k[0] == "t"} == {
        f"t{i}": f"{i}" for i in range(100)
    }
    assert data.metrics == {"loss": 1.0 / 500}
    history = client.get_metric_history(run, "loss")
    assert [(m.timestamp, m.step, m.value) for m in history] == [
        (1000 + i, i, 1.0 / (i + 1)) for i in range(500)
    ]


@client_3("mlflow.flush_async_logging")
def test_asynchronous_logging(client: MlflowClient, experiment: str) -> None:
    with mlflow.start_run(experiment_id=experiment) as run:
        for step in range(100):
            mlflow.log_metric("loss", 1.0 / (step + 1), step=step, synchronous=False)
        mlflow.log_params({"a": 1, "b": 2}, synchronous=False)
        mlflow.set_tags({"t": "x"}, synchronous=False)
        mlflow.flush_async_logging()
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(i, 1.0 / (i + 1)) for i in range(100)]
    data = client.get_run(run.info.run_id).data
    assert data.params == {"a": "1", "b": "2"}
    assert data.tags["t"] == "x"


@covers("param-immutability")
def test_parameter_is_written_once(client: MlflowClient, run: str) -> None:
    client.log_param(run, "lr", "0.1")
    client.log_param(run, "lr", "0.1")
    with pytest.raises(MlflowException, match="Changing param values is not allowed") as raised:
        client.log_param(run, "lr", "0.2")
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
    assert client.get_run(run).data.params == {"lr": "0.1"}


@covers("error-no-trace")
def test_refused_batch_leaves_nothing(client: MlflowClient, run: str) -> None:
    client.log_param(run, "lr", "0.1")
    before = client.get_run(run).data.to_dictionary()
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client.log_batch(
            run,
            metrics=[Metric("loss", 1.0, 1, 0)],
            params=[Param("new", "1"), Param("lr", "0.2")],
            tags=[RunTag("t", "1")],
        )
    assert client.get_run(run).data.to_dictionary() == before
    assert client.get_metric_history(run, "loss") == []


@covers("tag-last-write")
def test_tags_last_write_wins_and_can_be_deleted(client: MlflowClient, run: str) -> None:
    client.set_tag(run, "stage", "one")
    client.set_tag(run, "stage", "two")
    assert client.get_run(run).data.tags["stage"] == "two"
    client.delete_tag(run, "stage")
    assert "stage" not in client.get_run(run).data.tags
    with pytest.raises(MlflowException, match="No tag with name: stage in run with id"):
        client.delete_tag(run, "stage")
    client.set_tag(run, "stage", "three")
    assert client.get_run(run).data.tags["stage"] == "three"


@covers("limit-truncation")
def test_long_values_are_cut(client: MlflowClient, api: Api, run: str) -> None:
    api.post("runs/log-parameter", run_id=run, key="p", value="v" * 6001)
    api.post("runs/log-parameter", run_id=run, key="p", value="v" * 6000 + "another end")
    api.post("runs/set-tag", run_id=run, key="t", value="w" * 8001)
    api.post(
        "runs/log-batch",
        run_id=run,
        params=[{"key": "bp", "value": "é" * 6001}],
        tags=[{"key": "bt", "value": "日" * 8001}],
    )
    data = client.get_run(run).data
    assert data.params == {"p": "v" * 6000, "bp": "é" * 6000}
    assert data.tags["t"] == "w" * 8000
    assert data.tags["bt"] == "日" * 8000


@covers("run-name-tag")
def test_run_name_and_its_tag_are_one(client: MlflowClient, experiment: str) -> None:
    run = client.create_run(experiment, run_name="one").info.run_id

    def names() -> tuple[str, str]:
        found = client.get_run(run)
        return found.info.run_name, found.data.tags["mlflow.runName"]

    assert names() == ("one", "one")
    client.set_tag(run, "mlflow.runName", "two")
    assert names() == ("two", "two")
    client.update_run(run, name="three")
    assert names() == ("three", "three")
    client.log_batch(run, tags=[RunTag("mlflow.runName", "four")])
    assert names() == ("four", "four")
    tagged = client.create_run(experiment, tags={"mlflow.runName": "five"})
    assert tagged.info.run_name == "five"


@covers("run-name-generated")
def test_unnamed_run_gets_a_name(client: MlflowClient, run: str) -> None:
    found = client.get_run(run)
    assert found.info.run_name
    assert found.data.tags["mlflow.runName"] == found.info.run_name


@covers("run-status")
def test_update_status(client: MlflowClient, run: str) -> None:
    for status in ("SCHEDULED", "KILLED", "RUNNING", "FAILED", "FINISHED"):
        client.update_run(run, status=status)
        assert client.get_run(run).info.status == status
    client.set_terminated(run, "KILLED", end_time=12345)
    info = client.get_run(run).info
    assert (info.status, info.end_time) == ("KILLED", 12345)


def test_given_start_time_user_and_tags(client: MlflowClient, api: Api, experiment: str) -> None:
    created = api.post(
        "runs/create",
        experiment_id=experiment,
        user_id="ada",
        start_time=1234,
        tags=[{"key": "mlflow.source.git.commit", "value": "abc"}],
    )["run"]["info"]["run_id"]
    run = client.get_run(created)
    assert (run.info.start_time, run.info.user_id) == (1234, "ada")
    assert run.data.tags["mlflow.source.git.commit"] == "abc"


@covers("run-deleted")
def test_delete_and_restore(client: MlflowClient, run: str) -> None:
    client.log_metric(run, "loss", 1.0, step=1)
    for _ in range(2):
        client.delete_run(run)
        assert client.get_run(run).info.lifecycle_stage == "deleted"
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.log_metric(run, "loss", 2.0, step=2)
    for _ in range(2):
        client.restore_run(run)
        assert client.get_run(run).info.lifecycle_stage == "active"
    client.log_metric(run, "loss", 3.0, step=3)
    assert [m.value for m in client.get_metric_history(run, "loss")] == [1.0, 3.0]


def test_unknown_run_is_not_found(client: MlflowClient) -> None:
    with pytest.raises(MlflowException, match="not found") as raised:
        client.get_run("0" * 32)
    assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_runs_of_two_experiments_stay_apart(client: MlflowClient, experiment: str) -> None:
    other = client.create_experiment(unique("other"))
    here, there = client.create_run(experiment), client.create_run(other)
    assert [r.info.run_id for r in client.search_runs([experiment])] == [here.info.run_id]
    assert [r.info.run_id for r in client.search_runs([other])] == [there.info.run_id]
    both = client.search_runs([experiment, other])
    assert {r.info.run_id for r in both} == {here.info.run_id, there.info.run_id}


@pytest.mark.parametrize("prefix", ["api", "ajax-api"])
def test_both_prefixes_answer(api: Api, run: str, prefix: str) -> None:
    answer = requests.get(
        f"{api.uri}/{prefix}/2.0/mlflow/runs/get", params={"run_id": run}, timeout=10
    )
    assert answer.json()["run"]["info"]["run_uuid"] == run
