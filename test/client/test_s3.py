"""The client against a server that keeps its artifacts in S3."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from support import REPOSITORY, Runledger, client_3

PART = 5 << 20
"""Bytes of a part: the least that S3 takes."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a server whose artifacts are in S3; the tests' own one is back afterwards."""
    program = tmp_path_factory.mktemp("s3") / "s3server"
    build = ["go", "build", "-o", str(program), "./s3server"]
    subprocess.run(build, cwd=REPOSITORY / "test", check=True)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as store:
        assert store.stdin
        assert store.stdout
        url = store.stdout.readline().decode().strip()
        os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        before = mlflow.get_tracking_uri()
        own = Runledger(tmp_path_factory.mktemp("server") / "data", options=("--artifacts", url))
        own.start()
        mlflow.set_tracking_uri(own.uri)
        yield own.uri
        mlflow.set_tracking_uri(before)
        assert own.stop() == 0, own.output.read_text()
        store.stdin.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the client sends from now on: methods and URLs."""
    seen: list[tuple[str, str]] = []
    send = requests.Session.send

    def record(self: requests.Session, request: requests.PreparedRequest, **more: Any) -> Any:
        seen.append((str(request.method), str(request.url)))
        return send(self, request, **more)

    monkeypatch.setattr(requests.Session, "send", record)
    return seen


def artifacts(uri: str, run: str) -> Any:
    answer = requests.get(f"{uri}/api/v1/artifacts", params={"run_id": run}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["artifacts"]


def test_upload_in_parts(
    s3: str, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(PART))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(PART))
    content = os.urandom(3 * PART + 12345)
    (tmp_path / "model 1%.bin").write_bytes(content)
    (tmp_path / "small.txt").write_text("small")
    client = MlflowClient(s3)
    run = client.create_run("0").info.run_id
    client.log_artifacts(run, str(tmp_path), "weights")

    to_store = [url for method, url in sent if method == "PUT" and not url.startswith(s3)]
    assert len(to_store) == (0 if mlflow.__version__.startswith("2.9.") else 4)
    assert [(a["path"], a["size"], a["sha256"]) for a in artifacts(s3, run)] == [
        ("weights/model 1%.bin", len(content), hashlib.sha256(content).hexdigest()),
        ("weights/small.txt", 5, hashlib.sha256(b"small").hexdigest()),
    ]
    (tmp_path / "down").mkdir()
    down = client.download_artifacts(run, "weights", str(tmp_path / "down"))
    assert (Path(down) / "model 1%.bin").read_bytes() == content


@client_3("multipart upload that says whose file it is")
def test_parts_that_do_not_arrive(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(PART))

    def broken(*_: object, **__: object) -> None:
        raise OSError("the connection broke")

    monkeypatch.setattr(HttpArtifactRepository, "_upload_part", broken)
    (tmp_path / "f").write_bytes(b"x")
    client = MlflowClient(s3)
    run = client.create_run("0").info.run_id
    with pytest.raises(Exception, match="Failed to upload at least one part"):
        client.log_artifact(run, str(tmp_path / "f"))
    assert client.list_artifacts(run) == []
    assert artifacts(s3, run) == []


@client_3("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD")
def test_download_by_presigned_url(
    s3: str, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "größe.bin").write_bytes(content)
    client = MlflowClient(s3)
    run = client.create_run("0").info.run_id
    client.log_artifact(run, str(tmp_path / "größe.bin"))
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE", "1000000")
    sent.clear()
    down = client.download_artifacts(run, "größe.bin", str(tmp_path / "down"))
    assert Path(down).read_bytes() == content
    assert len([url for method, url in sent if method == "GET" and not url.startswith(s3)]) == 3


def test_whole_files_without_asking(s3: str, sent: list[tuple[str, str]], tmp_path: Path) -> None:
    client = MlflowClient(s3)
    run = client.create_run("0").info.run_id
    client.log_text(run, "text", "a/b.txt")
    down = client.download_artifacts(run, "a/b.txt", str(tmp_path))
    assert Path(down).read_text() == "text"
    assert [url for _, url in sent if not url.startswith(s3)] == []
