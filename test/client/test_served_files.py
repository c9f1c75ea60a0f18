"""Files as browsers and the newer artifact routes ask for them, and what is not served."""

import pytest
import requests
from conformance import covers
from mlflow import MlflowClient

from support import Api, unique

TEN_MB = 10 << 20


def upload(api: Api, body: bytes, **query: str) -> requests.Response:
    url = f"{api.uri}/ajax-api/2.0/mlflow/upload-artifact"
    return requests.post(url, params=query, data=body, timeout=60)


def message(answer: requests.Response) -> tuple[int, str, str]:
    error = answer.json()
    return answer.status_code, error["error_code"], error["message"]


# MLflow takes run_id from 3.18 on.
@pytest.mark.parametrize(
    "parameter", ["run_uuid", pytest.param("run_id", marks=pytest.mark.runledger)]
)
def test_small_upload(api: Api, client: MlflowClient, run: str, parameter: str) -> None:
    answer = upload(api, b"abc", **{parameter: run, "path": "d/a.txt"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert [(e.path, e.file_size) for e in client.list_artifacts(run, "d")] == [("d/a.txt", 3)]


@covers("artifact-upload-limit")
def test_small_upload_has_a_limit(api: Api, client: MlflowClient, run: str) -> None:
    assert upload(api, b"x" * TEN_MB, run_uuid=run, path="most").status_code == 200
    assert message(upload(api, b"x" * (TEN_MB + 1), run_uuid=run, path="more")) == (
        400,
        "INVALID_PARAMETER_VALUE",
        "Artifact size is too large. Max size is 10MB.",
    )
    assert [e.path for e in client.list_artifacts(run)] == ["most"]


@pytest.mark.parametrize(
    ("body", "path", "expected"),
    [
        (b"", "a", "Request must specify data."),
        (b"x", "", "Request must specify path."),
        (b"x", "../a", "Invalid path"),
        (b"x", "a/%2e%2e/b", "Invalid path"),
    ],
)
def test_small_upload_refuses(api: Api, run: str, body: bytes, path: str, expected: str) -> None:
    answer = upload(api, body, run_uuid=run, path=path)
    assert message(answer) == (400, "INVALID_PARAMETER_VALUE", expected)


def test_small_upload_needs_a_run(api: Api) -> None:
    status, code, text = message(upload(api, b"x", path="a"))
    assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
    assert text.startswith("Request must specify run_")
    assert upload(api, b"x", run_uuid="f" * 32, path="a").status_code == 404


def test_file_of_a_model_version(api: Api, client: MlflowClient, run: str, model: str) -> None:
    client.log_text(run, "0123456789", "model/d/f.txt")
    root = client.get_run(run).info.artifact_uri
    version = client.create_model_version(model, f"{root}/model", run).version

    def get(
        path: str, name: str = model, number: object = version, part: str = ""
    ) -> requests.Response:
        url = f"{api.uri}/model-versions/get-artifact"
        query = {"name": name, "version": str(number), "path": path}
        headers = {"Range": part} if part else {}
        return requests.get(url, params=query, headers=headers, timeout=60)

    assert get("d/f.txt").text == "0123456789"
    part = get("d/f.txt", part="bytes=2-4")
    assert (part.status_code, part.text) == (206, "234")
    assert get("d/g.txt").status_code == 404
    assert message(get("../a"))[1:] == ("INVALID_PARAMETER_VALUE", "Invalid path")
    assert message(get("d/f.txt", number=99)) == (
        404,
        "RESOURCE_DOES_NOT_EXIST",
        f"Model Version (name={model}, version=99) not found",
    )
    assert get("d/f.txt", name=unique("model")).status_code == 404


@covers("artifact-multipart")
@pytest.mark.parametrize("prefix", ["api", "ajax-api"])
@pytest.mark.parametrize("action", ["create", "complete", "abort"])
def test_multipart_upload_is_not_offered(
    api: Api, experiment: str, run: str, prefix: str, action: str
) -> None:
    url = f"{api.uri}/{prefix}/2.0/mlflow-artifacts/mpu/{action}/{experiment}/{run}/artifacts"
    body = {"path": "f", "upload_id": "1", "num_parts": 2, "parts": [{"part_number": 1}]}
    assert message(requests.post(url, json=body, timeout=60)) == (
        501,
        "NOT_IMPLEMENTED",
        "Multipart upload is not supported for the current artifact repository",
    )


@covers("artifact-multipart")
def test_presigned_urls_are_not_offered(api: Api, experiment: str, run: str) -> None:
    url = f"{api.uri}/api/2.0/mlflow-artifacts/presigned/{experiment}/{run}/artifacts/f"
    assert message(requests.get(url, timeout=60)) == (
        501,
        "NOT_IMPLEMENTED",
        "Multipart download is not supported for the current artifact repository",
    )
    for what, code in (("upload", 400), ("download", 400)):
        answer = api.call("POST", f"artifacts/presigned-{what}-url", {"run_id": run, "path": "f"})
        assert answer.status_code == code
        assert f"Presigned {what} is not supported for" in answer.json()["message"]
        assert "(artifact URI scheme: mlflow-artifacts)" in answer.json()["message"]


@covers("server-info")
@pytest.mark.parametrize("prefix", ["api", "ajax-api"])
def test_server_info(api: Api, prefix: str) -> None:
    answer = requests.get(f"{api.uri}/{prefix}/3.0/mlflow/server-info", timeout=60)
    assert answer.status_code == 200
    info = answer.json()
    assert info["store_type"] == "SqlStore"
    assert info["workspaces_enabled"] is False


@covers("error-endpoint-not-found")
@pytest.mark.runledger
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "api/2.0/mlflow/runs/create"),
        ("POST", "api/2.0/mlflow/runs/get"),
        ("POST", "api/3.0/mlflow/traces"),
        ("POST", "api/3.0/mlflow/traces/search"),
        ("POST", "api/2.0/mlflow/traces"),
        ("POST", "v1/traces"),
        ("POST", "graphql"),
        ("POST", "api/3.0/mlflow/datasets/create"),
        ("GET", "api/3.0/mlflow/scorers/list"),
        ("GET", "api/2.0/mlflow/nowhere"),
    ],
)
def test_what_is_not_served(api: Api, method: str, path: str) -> None:
    answer = requests.request(method, f"{api.uri}/{path}", json={}, timeout=60)
    assert message(answer) == (404, "ENDPOINT_NOT_FOUND", "Not Found")
