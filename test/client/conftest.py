"""Fixtures: one server for all tests, and a fresh experiment, run or model for each.

RUNLEDGER_BIN names the program to test. With RUNLEDGER_TEST_URI the tests talk to a server that
is already there. To see that they agree with MLflow's own server, point it at one and leave out
what it does not promise: pytest -m "not runledger".
"""

import os
from collections.abc import Iterator

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
import pytest
from mlflow import MlflowClient

from support import Api, Runledger, unique

pytest_plugins = ["conformance"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking URI of the server under test."""
    if uri := os.environ.get("RUNLEDGER_TEST_URI"):
        mlflow.set_tracking_uri(uri)
        yield uri.rstrip("/")
        return
    # No webhook of these tests has an address that resolves.
    own = Runledger(tmp_path_factory.mktemp("server") / "data", ("--webhook-allow-private",))
    own.start()
    mlflow.set_tracking_uri(own.uri)
    yield own.uri
    status = own.stop()
    assert status == 0, f"exit status {status}:\n{own.output.read_text()}"


@pytest.fixture
def client(server: str) -> MlflowClient:
    return MlflowClient(server)


@pytest.fixture
def api(server: str) -> Api:
    return Api(server)


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    """The id of a new experiment."""
    return str(client.create_experiment(unique("experiment")))


@pytest.fixture
def run(client: MlflowClient, experiment: str) -> str:
    """The id of a new run."""
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture
def model(client: MlflowClient) -> str:
    """The name of a new registered model."""
    return str(client.create_registered_model(unique("model")).name)
