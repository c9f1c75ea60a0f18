"""Artifact locations and file names: what the real client sees of them is the same with MLflow's
own server and with Runledger.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from servers import Mlflow

from support import Runledger, unique

LOCATIONS = [
    "mlflow-artifacts:/tea%20time",
    "mlflow-artifacts:/tea time",
    "mlflow-artifacts:/tea+time",
    "mlflow-artifacts:/slash/",
    "mlflow-artifacts:/slashes//",
    "mlflow-artifacts:///three",
    "mlflow-artifacts:no/slash",
    "mlflow-artifacts:/",
    "mlflow-artifacts:",
    "mlflow-artifacts:/query?a=b",
    "mlflow-artifacts:/query?a=b/c",
    "mlflow-artifacts:/empty?",
    "mlflow-artifacts:/empty#",
    "mlflow-artifacts:/semi;colon",
    "mlflow-artifacts:/50%",
    "mlflow-artifacts:/50%25",
    "mlflow-artifacts:/é",
    "mlflow-artifacts:/%C3%A9",
    "mlflow-artifacts:/what%3Fnot",
    "mlflow-artifacts:/deep%2Fer",
    "mlflow-artifacts:/back\\slash",
    "MLFLOW-ARTIFACTS:/upper",
    # What cannot be used, or not be made.
    "mlflow-artifacts:/up/../b",
    "mlflow-artifacts:/up/%2e%2e/b",
    "mlflow-artifacts:/hash%23b",
    "mlflow-artifacts:/x#fragment",
    "mlflow-artifacts:/x?a=../b",
    "runs:/x",
]
RELATIVE = ["rel", "./rel//dir/", "../rel", "rel%20dir", "file:rel", "file:rel/x?q=1", "a/b:c", "."]
NAMES = [
    "a\\b.txt",
    "..\\c.txt",
    "tab\there.txt",
    "bell\a.txt",
    "delete\x7f.txt",
    "latin\x85.txt",
    "per%41cent.txt",
    "100%.txt",
    "double%2541.txt",
    "semi;colon",
    "semi;",
    "hash#tag.txt",
    "what?.txt",
    "what?x=1",
    " space ",
    "'single' \"double\"",
    "café 日本 🎉.txt",
    ".hidden",
    "a.txt.18ea96dd3f37df70.tmp",
    "x.attrs",
    "C:x.txt",
    "http:x",
    "[brackets]{braces}<angles>|^`",
    "a+b&c=d,e~!$@*()",
    "...",
    "k%step%1%timestamp%123%ab.png",
]

Servers = tuple[Mlflow, Runledger]


def outcome(act: Callable[[], Any]) -> Any:
    """What comes of it: a value, or the kind of failure, which differs in words only."""
    try:
        return act()
    except (mlflow.MlflowException, requests.RequestException, ValueError) as e:
        return f"fails: {type(e).__name__} {getattr(e, 'error_code', '')}"


def tree(client: mlflow.MlflowClient, run: str, path: str | None = None) -> list[Any]:
    """All files of a run with their sizes."""
    found: list[Any] = []
    for f in client.list_artifacts(run, path):
        found += tree(client, run, f.path) if f.is_dir else [[f.path, f.file_size]]
    return sorted(found)


def content(client: mlflow.MlflowClient, run: str, path: str, to: Path) -> str:
    return Path(client.download_artifacts(run, path, str(to))).read_text()


def seen_at(uri: str, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a client sees of an experiment at a location, from its creation to the deletion."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    name = unique("location")
    created = outcome(lambda: client.create_experiment(name, location))
    if not created.isdigit():
        return created
    run = client.create_run(created)
    run_id = run.info.run_id
    seen: dict[str, Any] = {
        "location": client.get_experiment(created).artifact_location,
        "artifacts": run.info.artifact_uri.replace(run_id, "RUN"),
    }

    def log_table() -> None:
        for i in range(3):
            client.log_table(run_id, {"row": [i]}, "t.json")

    def rows() -> int:
        return len(json.loads(content(client, run_id, "t.json", tmp_path))["data"])

    def get(route: str, **params: str) -> Any:
        answer = requests.get(f"{uri}{route}", params={"run_id": run_id, **params}, timeout=60)
        return [answer.status_code, answer.text if answer.ok else ""]

    def listed() -> Any:
        answer = requests.get(
            f"{uri}/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}, timeout=60
        )
        return [
            answer.status_code,
            answer.text.replace(run_id, "RUN")
            if not answer.ok
            else sorted(f["path"] for f in answer.json().get("files", [])),
        ]

    def remove() -> None:
        repository: Any = get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)
        repository.delete_artifacts("d")

    for step, act in {
        "log": lambda: client.log_text(run_id, "hello", "d/a b.txt"),
        "append": log_table,
        "rows": rows,
        "tree": lambda: tree(client, run_id),
        "download": lambda: content(client, run_id, "d/a b.txt", tmp_path),
        "get": lambda: get("/get-artifact", path="d/a b.txt"),
        "list": listed,
        "delete": remove,
        "left": lambda: [path for path, _ in tree(client, run_id)],
    }.items():
        seen[step] = outcome(act)
    return seen


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations_work_as_with_mlflow(
    servers: Servers, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = (seen_at(s.uri, location, tmp_path, monkeypatch) for s in servers)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        # MLflow's own route does not decode the location, and lists "a/../b".
        theirs.pop("list")
        status, files = ours.pop("list")
        if isinstance(ours["tree"], list):
            assert (status, files) == (200, ["d", "t.json"])
        else:
            assert status == 400
    assert ours == theirs


@pytest.mark.parametrize("location", RELATIVE)
def test_relative_locations_are_below_the_working_directory(
    servers: Servers, location: str
) -> None:
    seen = []
    for uri, cwd in ((servers[0].uri, servers[0].directory), (servers[1].uri, Path.cwd())):
        client = mlflow.MlflowClient(uri)
        experiment = client.create_experiment(unique("relative"), location)
        run = client.create_run(experiment)
        given = client.get_experiment(experiment).artifact_location
        assert str(cwd) in given
        places = (given, run.info.artifact_uri.replace(run.info.run_id, "RUN"))
        seen.append([place.replace(str(cwd), "CWD") for place in places])
    assert seen[1] == seen[0]


def test_file_names_work_as_with_mlflow(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for name in NAMES:
        (source / name).write_text(name)
        (source / "sub" / name).write_text(f"sub {name}")
    seen = []
    for i, uri in enumerate(s.uri for s in servers):
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(uri)
        run = client.create_run("0").info.run_id
        refused = [n for n in NAMES if outcome(partial(client.log_artifact, run, source / n))]
        assert refused == []
        client.log_artifacts(run, str(source / "sub"), "sub")
        files = tree(client, run)
        to = tmp_path / str(i)
        to.mkdir()
        read = partial(content, client, run, to=to)
        seen.append({path: outcome(partial(read, path)) for path, _ in files})
    assert seen[1] == seen[0]
    assert len(seen[1]) > len(NAMES)


def test_a_refused_name_is_named(servers: Servers) -> None:
    answer = requests.put(
        f"{servers[1].uri}/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/a%2523b",
        data=b"x",
        timeout=60,
    )
    assert answer.status_code == 400
    assert "artifacts/a%23b" in answer.json()["message"]
