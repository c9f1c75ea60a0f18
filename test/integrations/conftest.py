"""One server for all tests, as in ../client."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

import mlflow
import pytest
from mlflow import MlflowClient

from support import Runledger, unique


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking URI of the server under test."""
    own = Runledger(tmp_path_factory.mktemp("server") / "data")
    own.start()
    mlflow.set_tracking_uri(own.uri)
    yield own.uri
    assert own.stop() == 0, own.output.read_text()


@pytest.fixture
def client(server: str) -> MlflowClient:
    return MlflowClient(server)


@pytest.fixture(autouse=True)
def experiment(
    server: str,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The name of a new experiment, the active one, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    name = unique("integration")
    mlflow.set_experiment(name)
    yield name
    while mlflow.active_run():
        mlflow.end_run()
