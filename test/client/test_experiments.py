import mlflow
import pytest
from conformance import covers
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from support import client_3, unique


@covers("experiment-default")
def test_create_and_get(client: MlflowClient) -> None:
    name = unique("experiment")
    created = client.create_experiment(name, tags={"team": "vision"})
    experiment = client.get_experiment(created)
    assert (experiment.experiment_id, experiment.name) == (created, name)
    assert experiment.tags == {"team": "vision"}
    assert experiment.lifecycle_stage == "active"
    assert experiment.artifact_location == f"mlflow-artifacts:/{created}"
    assert experiment.creation_time
    assert experiment.creation_time == experiment.last_update_time
    by_name = client.get_experiment_by_name(name)
    assert by_name is not None
    assert by_name.experiment_id == created
    assert int(created) > 0


def test_given_artifact_location_is_kept(client: MlflowClient) -> None:
    location = "s3://bucket/some/where"
    created = client.create_experiment(unique("experiment"), artifact_location=location)
    assert client.get_experiment(created).artifact_location == location


@covers("experiment-default")
def test_default_experiment_is_there(client: MlflowClient) -> None:
    default = client.get_experiment_by_name("Default")
    assert default is not None
    assert default.experiment_id == "0"


def test_missing_name_is_none(client: MlflowClient) -> None:
    assert client.get_experiment_by_name(unique("nobody")) is None


@covers("experiment-name-reserved")
def test_name_is_unique_also_among_deleted(client: MlflowClient) -> None:
    name = unique("experiment")
    created = client.create_experiment(name)
    for _ in ("active", "deleted"):
        with pytest.raises(MlflowException, match="already exists") as raised:
            client.create_experiment(name)
        assert raised.value.error_code == "RESOURCE_ALREADY_EXISTS"
        if client.get_experiment(created).lifecycle_stage == "active":
            client.delete_experiment(created)


@pytest.mark.usefixtures("server")
def test_set_experiment_creates_then_finds() -> None:
    name = unique("experiment")
    first = mlflow.set_experiment(name)
    assert first.name == name
    assert mlflow.set_experiment(name).experiment_id == first.experiment_id


@covers("experiment-cascade", "experiment-lifecycle")
def test_delete_and_restore_take_the_runs_along(client: MlflowClient, experiment: str) -> None:
    run = client.create_run(experiment).info.run_id
    client.delete_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.create_run(experiment)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.log_metric(run, "loss", 1.0)
    client.restore_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert client.get_run(run).info.lifecycle_stage == "active"
    client.log_metric(run, "loss", 1.0)


def test_rename(client: MlflowClient, experiment: str) -> None:
    old, new = client.get_experiment(experiment).name, unique("renamed")
    client.rename_experiment(experiment, new)
    assert client.get_experiment(experiment).name == new
    assert client.get_experiment_by_name(old) is None
    client.create_experiment(old)


def test_tags(client: MlflowClient, experiment: str) -> None:
    client.set_experiment_tag(experiment, "team", "vision")
    client.set_experiment_tag(experiment, "team", "speech")
    client.set_experiment_tag(experiment, "cost", 5)
    assert client.get_experiment(experiment).tags == {"team": "speech", "cost": "5"}


@client_3("MlflowClient.delete_experiment_tag")
def test_tag_is_deleted(client: MlflowClient, experiment: str) -> None:
    client.set_experiment_tag(experiment, "team", "speech")
    client.set_experiment_tag(experiment, "cost", 5)
    client.delete_experiment_tag(experiment, "cost")
    assert client.get_experiment(experiment).tags == {"team": "speech"}


@covers("search-experiments", "search-paging", "search-view-type")
def test_search_orders_and_pages(client: MlflowClient) -> None:
    prefix = unique("search")
    ids = [client.create_experiment(f"{prefix}-{i}") for i in range(5)]
    mine = f"name LIKE '{prefix}%'"

    def names(**options: object) -> list[str]:
        found = client.search_experiments(filter_string=mine, **options)  # type: ignore[arg-type]
        return [e.name.removeprefix(prefix) for e in found]

    assert names(order_by=["name ASC"]) == ["-0", "-1", "-2", "-3", "-4"]
    assert names(order_by=["name DESC"]) == ["-4", "-3", "-2", "-1", "-0"]

    pages, token = [], None
    while True:
        page = client.search_experiments(
            filter_string=mine, order_by=["name"], max_results=2, page_token=token
        )
        pages.append([e.experiment_id for e in page])
        token = page.token
        if not token:
            break
    assert pages == [ids[0:2], ids[2:4], ids[4:5]]

    client.delete_experiment(ids[0])
    assert names(order_by=["name"]) == ["-1", "-2", "-3", "-4"]
    assert names(view_type=ViewType.DELETED_ONLY) == ["-0"]
    assert names(view_type=ViewType.ALL, order_by=["name"]) == ["-0", "-1", "-2", "-3", "-4"]


def test_search_by_exact_name(client: MlflowClient, experiment: str) -> None:
    name = client.get_experiment(experiment).name
    found = client.search_experiments(filter_string=f"name = '{name}'")
    assert [e.experiment_id for e in found] == [experiment]
