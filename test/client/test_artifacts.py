import hashlib
import json
from pathlib import Path

import mlflow
import pytest
import requests
from conformance import covers
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from support import Api, client_3

NAMES = [
    "100% done.txt",
    "k%step%1%time.txt",
    "a b/c d.txt",
    "日本語/ñandú.txt",
    "a+b&c=d;e,f.txt",
    "~x!(1).txt",
]

OUTSIDE = [
    ("GET", "%2Fetc/x"),
    ("PUT", "%2Fetc/x"),
    *(
        (method, path)
        for method in ("GET", "PUT", "DELETE")
        for path in ("%2e%2e/x", "1/%2e%2e/%2e%2e/x", "1/%252e%252e/x", "1/a%23b")
    ),
]


def tree(client: MlflowClient, run: str, path: str | None = None) -> dict[str, int | None]:
    """Every file under `path` with its size in bytes."""
    files: dict[str, int | None] = {}
    for entry in client.list_artifacts(run, path):
        if entry.is_dir:
            files |= tree(client, run, entry.path)
        else:
            files[entry.path] = entry.file_size
    return files


@covers("artifact-roundtrip")
def test_text_and_dict(client: MlflowClient, run: str) -> None:
    client.log_text(run, "grüezi\n", "notes/hello.txt")
    client.log_dict(run, {"a": [1, 2, {"b": None}]}, "config.json")
    assert mlflow.artifacts.load_text(f"runs:/{run}/notes/hello.txt") == "grüezi\n"
    assert mlflow.artifacts.load_dict(f"runs:/{run}/config.json") == {"a": [1, 2, {"b": None}]}


@covers("artifact-roundtrip")
def test_file_is_replaced(client: MlflowClient, run: str) -> None:
    for text in ("first and longer", "second"):
        client.log_text(run, text, "a.txt")
        assert mlflow.artifacts.load_text(f"runs:/{run}/a.txt") == text
    assert tree(client, run) == {"a.txt": len("second")}


def test_directories(client: MlflowClient, run: str, tmp_path: Path) -> None:
    files = {"top.bin": bytes(range(256)) * 5000, "a/one.txt": b"1", "a/b/c/deep.json": b"{}"}
    for name, content in files.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(content)
    client.log_artifacts(run, str(tmp_path / "up"), "model")
    client.log_artifact(run, str(tmp_path / "up" / "top.bin"))

    expected = {f"model/{name}": len(content) for name, content in files.items()}
    assert tree(client, run) == {**expected, "top.bin": len(files["top.bin"])}
    assert [(e.path, e.is_dir) for e in client.list_artifacts(run, "model")] == [
        ("model/a", True),
        ("model/top.bin", False),
    ]
    down = Path(client.download_artifacts(run, "model", str(tmp_path)))
    for name, content in files.items():
        assert (down / name).read_bytes() == content


def test_everything_of_a_run(client: MlflowClient, run: str, tmp_path: Path) -> None:
    client.log_text(run, "1", "x.txt")
    client.log_text(run, "2", "d/y.txt")
    down = Path(mlflow.artifacts.download_artifacts(run_id=run, dst_path=str(tmp_path)))
    assert (down / "x.txt").read_text() == "1"
    assert (down / "d" / "y.txt").read_text() == "2"


@covers("artifact-roundtrip")
@pytest.mark.parametrize("name", NAMES)
def test_difficult_names(client: MlflowClient, run: str, tmp_path: Path, name: str) -> None:
    client.log_text(run, name, name)
    assert tree(client, run) == {name: len(name.encode())}
    assert Path(client.download_artifacts(run, name, str(tmp_path))).read_text() == name


def test_empty_file(client: MlflowClient, run: str, tmp_path: Path) -> None:
    client.log_text(run, "", "empty.txt")
    assert list(tree(client, run)) == ["empty.txt"]
    assert Path(client.download_artifacts(run, "empty.txt", str(tmp_path))).read_bytes() == b""


@client_3("mlflow.artifacts.list_artifacts")
def test_listing_through_the_fluent_api(client: MlflowClient, run: str) -> None:
    client.log_text(run, "1", "d/y.txt")
    listed = mlflow.artifacts.list_artifacts(run_id=run, artifact_path="d")
    assert [e.path for e in listed] == ["d/y.txt"]


def test_nothing_there(client: MlflowClient, run: str) -> None:
    assert client.list_artifacts(run) == []
    assert client.list_artifacts(run, "nowhere") == []
    with pytest.raises(MlflowException, match=r"[Ff]ail.* download"):
        client.download_artifacts(run, "nowhere.txt")


def test_runs_do_not_share_artifacts(client: MlflowClient, experiment: str) -> None:
    first, second = (client.create_run(experiment).info.run_id for _ in range(2))
    client.log_text(first, "1", "a.txt")
    assert tree(client, second) == {}


@covers("artifact-list")
def test_tracking_servers_own_list(
    client: MlflowClient, api: Api, experiment: str, run: str
) -> None:
    client.log_text(run, "12345", "d/a.txt")
    root = f"mlflow-artifacts:/{experiment}/{run}/artifacts"
    assert api.get("artifacts/list", run_id=run) == {
        "root_uri": root,
        "files": [{"path": "d", "is_dir": True}],
    }
    assert api.call("GET", "artifacts/list", {"run_id": run, "path": "d"}).json() == {
        "root_uri": root,
        "files": [{"path": "d/a.txt", "is_dir": False, "file_size": 5}],
    }


def url(api: Api, path: str) -> str:
    return f"{api.uri}/api/2.0/mlflow-artifacts/artifacts/{path}"


@covers("artifact-headers")
def test_download_headers(api: Api, client: MlflowClient, experiment: str, run: str) -> None:
    client.log_text(run, "<b>", "page.html")
    answer = requests.get(url(api, f"{experiment}/{run}/artifacts/page.html"), timeout=10)
    assert answer.text == "<b>"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_missing_file_is_not_found(api: Api, experiment: str, run: str) -> None:
    path = f"{experiment}/{run}/artifacts/nowhere.txt"
    answer = requests.get(url(api, path), timeout=10)
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert answer.json()["message"] == f"No such artifact: '{path}'"


@covers("artifact-paths")
@pytest.mark.parametrize(("method", "path"), OUTSIDE)
def test_paths_out_of_the_store_are_refused(api: Api, method: str, path: str) -> None:
    answer = requests.request(method, url(api, path), data=b"x", timeout=10)
    assert answer.status_code == 400, answer.text
    assert json.loads(answer.text)["error_code"] == "INVALID_PARAMETER_VALUE"
    # A refused upload is named: the client may be sending a whole directory.
    assert json.loads(answer.text)["message"].startswith("Invalid path")
    assert method == "PUT" or json.loads(answer.text)["message"] == "Invalid path"


@pytest.mark.runledger
def test_file_under_a_file_is_the_clients_mistake(api: Api, experiment: str, run: str) -> None:
    root = url(api, f"{experiment}/{run}/artifacts")
    assert requests.put(f"{root}/a/b.txt", data=b"1", timeout=10).status_code == 200
    for path in ("a", "a/b.txt/c"):
        answer = requests.put(f"{root}/{path}", data=b"2", timeout=10)
        assert answer.status_code < 500, answer.text
    assert requests.get(f"{root}/a/b.txt", timeout=10).content == b"1"


@covers("artifact-roundtrip")
def test_delete(client: MlflowClient, api: Api, experiment: str, run: str) -> None:
    client.log_text(run, "1", "a.txt")
    for _ in range(2):
        answer = requests.delete(url(api, f"{experiment}/{run}/artifacts/a.txt"), timeout=10)
        assert answer.status_code == 200, answer.text
    assert client.list_artifacts(run) == []


@pytest.mark.runledger
def test_uploads_are_on_record(api: Api, client: MlflowClient, run: str) -> None:
    client.log_text(run, "grüezi\n", "notes/hello.txt")
    client.log_text(run, "other", "a.txt")
    client.log_text(run, "last", "a.txt")

    def recorded() -> dict[str, tuple[int, str]]:
        found = requests.get(f"{api.uri}/api/v1/artifacts", {"run_id": run}, timeout=60).json()[
            "artifacts"
        ]
        return {a["path"]: (a["size"], a["sha256"]) for a in found}

    def of(text: str) -> tuple[int, str]:
        data = text.encode()
        return len(data), hashlib.sha256(data).hexdigest()

    assert recorded() == {"notes/hello.txt": of("grüezi\n"), "a.txt": of("last")}
    root = client.get_run(run).info.artifact_uri.removeprefix("mlflow-artifacts:/")
    requests.delete(f"{api.uri}/api/2.0/mlflow-artifacts/artifacts/{root}/notes", timeout=60)
    assert recorded() == {"a.txt": of("last")}
    trail = requests.get(
        f"{api.uri}/api/v1/audit", {"entity_id": run, "order": "oldest"}, timeout=60
    ).json()["entries"]
    assert [e["type"] for e in trail if "artifact" in e["type"]] == [
        "runledger.artifact_uploaded",
        "runledger.artifact_uploaded",
        "runledger.artifact_replacement_begun",
        "runledger.artifact_uploaded",
        "runledger.artifacts_deleted",
    ]
