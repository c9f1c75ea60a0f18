"""Both servers, for all tests of a session."""

from collections.abc import Iterator

import pytest
from servers import Mlflow

from support import Runledger


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write",
        action="store_true",
        help="write the differences that were found to explained.json",
    )


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mlflow, Runledger]]:
    directory = tmp_path_factory.mktemp("servers")
    mlflow, runledger = Mlflow(directory / "mlflow"), Runledger(directory / "runledger")
    mlflow.start()
    try:
        runledger.start()
        try:
            yield mlflow, runledger
        finally:
            status = runledger.stop()
            assert status == 0, f"exit status {status}:\n{runledger.output.read_text()}"
    finally:
        mlflow.stop()
