import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
from conformance import covers
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from support import Api, client_3, unique


def add_version(client: MlflowClient, model: str, run: str, **options: Any) -> str:
    return str(client.create_model_version(model, f"runs:/{run}/model", run, **options).version)


def stages(client: MlflowClient, model: str) -> dict[str, str | None]:
    found = client.search_model_versions(f"name = '{model}'")
    return {str(v.version): v.current_stage for v in found}


def test_model(client: MlflowClient) -> None:
    name = unique("modèle")
    client.create_registered_model(name, tags={"task": "digits"}, description="Reads digits.")
    model = client.get_registered_model(name)
    assert (model.name, model.description, model.tags) == (
        name,
        "Reads digits.",
        {"task": "digits"},
    )
    assert model.latest_versions == []
    assert model.creation_timestamp == model.last_updated_timestamp
    client.update_registered_model(name, "Reads them well.")
    assert client.get_registered_model(name).description == "Reads them well."


def test_model_name_is_unique(client: MlflowClient, model: str) -> None:
    with pytest.raises(MlflowException, match="already exists") as raised:
        client.create_registered_model(model)
    assert raised.value.error_code == "RESOURCE_ALREADY_EXISTS"


def test_model_tags(client: MlflowClient, model: str) -> None:
    client.set_registered_model_tag(model, "a", "1")
    client.set_registered_model_tag(model, "a", "2")
    client.set_registered_model_tag(model, "b", "3")
    assert client.get_registered_model(model).tags == {"a": "2", "b": "3"}
    client.delete_registered_model_tag(model, "a")
    client.delete_registered_model_tag(model, "a")
    assert client.get_registered_model(model).tags == {"b": "3"}


@covers("model-rename")
def test_rename(client: MlflowClient, model: str, run: str) -> None:
    version = add_version(client, model, run)
    client.set_registered_model_alias(model, "champion", version)
    new = unique("renamed")
    client.rename_registered_model(model, new)
    with pytest.raises(MlflowException, match="not found"):
        client.get_registered_model(model)
    assert client.get_model_version(new, version).name == new
    assert client.get_model_version_by_alias(new, "champion").version == version
    client.create_registered_model(model)
    with pytest.raises(MlflowException, match="already exists"):
        client.rename_registered_model(new, model)


@covers("model-delete")
def test_delete_model(client: MlflowClient, model: str, run: str) -> None:
    version = add_version(client, model, run)
    client.delete_registered_model(model)
    with pytest.raises(MlflowException, match="not found") as raised:
        client.get_registered_model(model)
    assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException, match="not found"):
        client.get_model_version(model, version)
    assert client.search_model_versions(f"name = '{model}'") == []
    client.create_registered_model(model)


def test_versions_count_up(client: MlflowClient, model: str, run: str, experiment: str) -> None:
    source = f"mlflow-artifacts:/{experiment}/{run}/artifacts/model"
    first = client.create_model_version(
        model, source, run, tags={"a": "1"}, description="The first."
    )
    assert str(first.version) == "1"
    version = client.get_model_version(model, "1")
    assert (version.source, version.run_id, version.status) == (source, run, "READY")
    assert (version.current_stage, version.description, version.tags) == (
        "None",
        "The first.",
        {"a": "1"},
    )
    assert version.aliases == []
    assert add_version(client, model, run) == "2"
    assert client.get_model_version_download_uri(model, "1") == source
    assert client.get_model_version_download_uri(model, "2") == f"runs:/{run}/model"
    client.update_model_version(model, "1", "Still the first.")
    assert client.get_model_version(model, "1").description == "Still the first."


@covers("version-numbers", "version-delete")
def test_deleted_version_number_is_not_used_again(
    client: MlflowClient, model: str, run: str
) -> None:
    for expected in ("1", "2"):
        assert add_version(client, model, run) == expected
    client.set_registered_model_alias(model, "champion", "2")
    client.delete_model_version(model, "2")
    with pytest.raises(MlflowException, match="not found"):
        client.get_model_version(model, "2")
    assert client.get_registered_model(model).aliases == {}
    assert add_version(client, model, run) == "3"


def test_version_tags(client: MlflowClient, model: str, run: str) -> None:
    version = add_version(client, model, run)
    client.set_model_version_tag(model, version, "a", "1")
    client.set_model_version_tag(model, version, "b", "2")
    client.delete_model_version_tag(model, version, "a")
    client.delete_model_version_tag(model, version, "a")
    assert client.get_model_version(model, version).tags == {"b": "2"}


@covers("stages", "latest-versions")
def test_stages(client: MlflowClient, model: str, run: str) -> None:
    for _ in range(3):
        add_version(client, model, run)
    client.transition_model_version_stage(model, "1", "production")
    assert stages(client, model) == {"1": "Production", "2": "None", "3": "None"}
    client.transition_model_version_stage(model, "2", "Production")
    assert stages(client, model) == {"1": "Production", "2": "Production", "3": "None"}
    client.transition_model_version_stage(model, "3", "Production", archive_existing_versions=True)
    assert stages(client, model) == {"1": "Archived", "2": "Archived", "3": "Production"}
    client.transition_model_version_stage(model, "1", "Staging", archive_existing_versions=True)
    assert stages(client, model) == {"1": "Staging", "2": "Archived", "3": "Production"}
    client.transition_model_version_stage(model, "1", "None")
    latest = client.get_latest_versions(model)
    assert {v.current_stage: v.version for v in latest} == {
        "None": "1",
        "Archived": "2",
        "Production": "3",
    }
    only = client.get_latest_versions(model, ["Production"])
    assert [v.version for v in only] == ["3"]


@covers("aliases")
def test_aliases(client: MlflowClient, model: str, run: str) -> None:
    for _ in range(2):
        add_version(client, model, run)
    client.set_registered_model_alias(model, "champion", "1")
    client.set_registered_model_alias(model, "challenger", "2")
    assert client.get_model_version_by_alias(model, "champion").version == "1"
    client.set_registered_model_alias(model, "champion", "2")
    assert client.get_model_version_by_alias(model, "champion").version == "2"
    assert sorted(client.get_model_version(model, "2").aliases) == ["challenger", "champion"]
    assert client.get_model_version(model, "1").aliases == []
    assert client.get_registered_model(model).aliases == {"champion": "2", "challenger": "2"}
    for _ in range(2):
        client.delete_registered_model_alias(model, "champion")
    assert client.get_registered_model(model).aliases == {"challenger": "2"}
    with pytest.raises(
        MlflowException, match="Registered model alias champion not found"
    ) as raised:
        client.get_model_version_by_alias(model, "champion")
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


@covers("aliases")
@client_3("alias latest: it refuses to ask")
def test_alias_latest_is_the_newest_version(client: MlflowClient, model: str, run: str) -> None:
    for _ in range(2):
        add_version(client, model, run)
    assert client.get_model_version_by_alias(model, "latest").version == "2"


@covers("registry-search")
def test_search_models(client: MlflowClient) -> None:
    prefix = unique("zoo")
    names = [f"{prefix}-{i}" for i in range(5)]
    for name in names:
        client.create_registered_model(name)
    mine = f"name LIKE '{prefix}%'"
    assert [m.name for m in client.search_registered_models(mine)] == names
    pages, token = [], None
    while True:
        page = client.search_registered_models(
            mine, max_results=2, order_by=["name DESC"], page_token=token
        )
        pages.append([m.name for m in page])
        token = page.token
        if not token:
            break
    assert pages == [[names[4], names[3]], [names[2], names[1]], [names[0]]]
    assert [m.name for m in client.search_registered_models(f"name = '{names[1]}'")] == [names[1]]


@covers("registry-search")
def test_search_versions(client: MlflowClient, model: str, experiment: str) -> None:
    runs = [client.create_run(experiment).info.run_id for _ in range(3)]
    for run in runs:
        add_version(client, model, run)
    found = client.search_model_versions(f"name = '{model}'", order_by=["version_number ASC"])
    assert [(v.version, v.run_id) for v in found] == [
        (str(i + 1), run) for i, run in enumerate(runs)
    ]
    found = client.search_model_versions(f"run_id = '{runs[1]}'")
    assert [(v.name, v.version) for v in found] == [(model, "2")]
    first = client.search_model_versions(
        f"name = '{model}'", max_results=2, order_by=["version_number DESC"]
    )
    assert [v.version for v in first] == ["3", "2"]
    rest = client.search_model_versions(
        f"name = '{model}'",
        max_results=2,
        order_by=["version_number DESC"],
        page_token=first.token,
    )
    assert [v.version for v in rest] == ["1"]


@covers("read-your-writes")
def test_read_your_writes(client: MlflowClient, model: str, run: str) -> None:
    for i in range(1, 51):
        version = add_version(client, model, run)
        assert version == str(i)
        client.set_registered_model_alias(model, "champion", version)
        assert client.get_model_version_by_alias(model, "champion").version == version
        client.set_model_version_tag(model, version, "i", str(i))
        assert client.get_model_version(model, version).tags == {"i": str(i)}


def history(api: Api, model: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    query: dict[str, str] = {}
    while True:
        answer = requests.get(f"{api.uri}/api/v1/models/{model}/history", params=query, timeout=30)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        entries += page.get("entries", [])
        if not page.get("next_page_token"):
            return entries
        query = {"page_token": page["next_page_token"]}


@pytest.mark.runledger
def test_every_change_is_one_entry_of_the_history(
    client: MlflowClient, api: Api, model: str, run: str
) -> None:
    entries = history(api, model)
    assert len(entries) == 1, "creating the model"

    changes: list[tuple[str, Callable[[], object]]] = [
        ("version", lambda: add_version(client, model, run)),
        ("Staging", lambda: client.transition_model_version_stage(model, "1", "Staging")),
        ("Production", lambda: client.transition_model_version_stage(model, "1", "Production")),
        ("champion", lambda: client.set_registered_model_alias(model, "champion", "1")),
        ("signed-off", lambda: client.set_model_version_tag(model, "1", "signed-off", "ada")),
        ("Carefully", lambda: client.update_model_version(model, "1", "Carefully made.")),
        ("Widely", lambda: client.update_registered_model(model, "Widely used.")),
        ("family", lambda: client.set_registered_model_tag(model, "family", "vision")),
    ]
    for trace, change in changes:
        change()
        before, entries = entries, history(api, model)
        assert entries[:-1] == before, f"after {trace}: nothing earlier may change"
        assert trace in json.dumps(entries[-1]["after"])
    client.delete_registered_model_alias(model, "champion")
    entries = history(api, model)
    assert len(entries) == len(changes) + 2
    assert "champion" in json.dumps(entries[-1]["before"])
    assert "champion" not in json.dumps(entries[-1]["after"])

    indexes = [entry["index"] for entry in entries]
    assert indexes == sorted(set(indexes))
    times = [entry["time"] for entry in entries]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", t) for t in times)
    assert all(entry["actor"] and entry["action"] for entry in entries)
    assert {entry["version"] for entry in entries[1:7]} == {"1"}
    assert "Staging" in json.dumps(entries[3]["before"])


@pytest.mark.runledger
def test_refused_changes_are_not_in_the_history(client: MlflowClient, api: Api, model: str) -> None:
    with pytest.raises(MlflowException, match="already exists"):
        client.create_registered_model(model)
    with pytest.raises(MlflowException, match="not found"):
        client.transition_model_version_stage(model, "9", "Staging")
    with pytest.raises(MlflowException, match="not found"):
        client.set_registered_model_alias(model, "champion", "9")
    assert len(history(api, model)) == 1


@pytest.mark.runledger
def test_history_of_an_unknown_model_is_not_found(api: Api) -> None:
    answer = requests.get(f"{api.uri}/api/v1/models/{unique('nobody')}/history", timeout=10)
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
