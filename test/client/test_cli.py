"""The mlflow command line, run as a user would run it."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow.cli
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import ViewType

from support import client_3, unique

Command = Callable[..., str]


@pytest.fixture
def cli(server: str) -> Command:
    def call(*arguments: str | Path, status: int = 0) -> str:
        """What `mlflow` with these arguments prints. In this process: a new one takes seconds."""
        done = CliRunner().invoke(
            mlflow.cli.cli,
            [str(a) for a in arguments],
            env={"MLFLOW_TRACKING_URI": server},
        )
        assert done.exit_code == status, f"{done.output}\n{done.exception!r}"
        return done.output if status == 0 else f"{done.output}\n{done.exception}"

    return call


def test_as_a_program(server: str, client: MlflowClient) -> None:
    name = unique("program")
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "experiments", "create", "--experiment-name", name],
        env={**os.environ, "MLFLOW_TRACKING_URI": server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = client.get_experiment_by_name(name)
    assert found is not None
    assert f"'{name}' with id {found.experiment_id}" in done.stdout


def test_life_of_an_experiment(cli: Command, client: MlflowClient) -> None:
    name, renamed = unique("cli"), unique("renamed")
    cli("experiments", "create", "--experiment-name", name)
    found = client.get_experiment_by_name(name)
    assert found is not None
    identifier = found.experiment_id

    cli("experiments", "rename", "--experiment-id", identifier, "--new-name", renamed)
    assert client.get_experiment(identifier).name == renamed
    cli("experiments", "delete", "--experiment-id", identifier)
    assert client.get_experiment(identifier).lifecycle_stage == "deleted"
    assert renamed not in cli("experiments", "search")
    assert renamed in cli("experiments", "search", "--view", "deleted_only")
    cli("experiments", "restore", "--experiment-id", identifier)
    assert client.get_experiment(identifier).lifecycle_stage == "active"
    assert renamed in cli("experiments", "search")
    assert "already exists" in cli("experiments", "create", "--experiment-name", renamed, status=1)


@client_3("mlflow experiments get")
def test_an_experiment_in_detail(cli: Command, client: MlflowClient, experiment: str) -> None:
    expected = client.get_experiment(experiment)
    shown = json.loads(cli("experiments", "get", "--experiment-id", experiment, "--output", "json"))
    assert (shown["experiment_id"], shown["name"]) == (experiment, expected.name)
    shown = json.loads(
        cli("experiments", "get", "--experiment-name", expected.name, "--output", "json")
    )
    assert (shown["experiment_id"], shown["lifecycle_stage"]) == (experiment, "active")


def test_runs_as_csv(
    cli: Command, client: MlflowClient, experiment: str, run: str, tmp_path: Path
) -> None:
    client.log_metric(run, "loss", 0.5)
    client.log_param(run, "lr", "0.1")
    file = tmp_path / "runs.csv"
    cli("experiments", "csv", "--experiment-id", experiment, "--filename", file)
    for text in (file.read_text(), cli("experiments", "csv", "--experiment-id", experiment)):
        [row] = csv.DictReader(io.StringIO(text))
        assert (row["run_id"], row["metrics.loss"], row["params.lr"]) == (run, "0.5", "0.1")


def test_life_of_a_run(cli: Command, client: MlflowClient, experiment: str, run: str) -> None:
    client.log_metric(run, "loss", 0.5)
    client.set_tag(run, "mlflow.runName", "first")
    listed = cli("runs", "list", "--experiment-id", experiment)
    assert run in listed
    assert "first" in listed
    described = json.loads(cli("runs", "describe", "--run-id", run))
    assert described["info"]["run_id"] == run
    assert described["data"]["metrics"] == {"loss": 0.5}

    cli("runs", "delete", "--run-id", run)
    assert client.search_runs([experiment]) == []
    [deleted] = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert deleted.info.run_id == run
    assert run not in cli("runs", "list", "--experiment-id", experiment)
    cli("runs", "restore", "--run-id", run)
    assert client.get_run(run).info.lifecycle_stage == "active"
    assert "not found" in cli("runs", "describe", "--run-id", "0" * 32, status=1)


@client_3("mlflow runs create")
def test_run_is_created(cli: Command, client: MlflowClient, experiment: str) -> None:
    cli(
        "runs", "create", "--experiment-id", experiment, "--run-name", "by hand",
        "--tags", "why=because", "--status", "FAILED",
    )  # fmt: skip
    [run] = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("by hand", "FAILED")
    assert run.data.tags["why"] == "because"


def test_artifacts(cli: Command, client: MlflowClient, run: str, tmp_path: Path) -> None:
    directory = tmp_path / "up"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.txt").write_text("a")
    (directory / "sub" / "b.txt").write_text("b")
    on_run = ("--run-id", run)
    cli("artifacts", "log-artifact", "--local-file", directory / "a.txt", *on_run)
    cli(
        "artifacts", "log-artifacts", "--local-dir", directory, *on_run,
        "--artifact-path", "whole",
    )  # fmt: skip
    assert [f.path for f in client.list_artifacts(run)] == ["a.txt", "whole"]

    listed = json.loads(cli("artifacts", "list", *on_run, "--artifact-path", "whole"))
    assert listed == [
        {"path": "whole/a.txt", "is_dir": False, "file_size": 1},
        {"path": "whole/sub", "is_dir": True},
    ]
    down = tmp_path / "down"
    cli("artifacts", "download", *on_run, "--artifact-path", "whole", "--dst-path", down)
    assert (down / "whole" / "sub" / "b.txt").read_text() == "b"
    uri = f"runs:/{run}/a.txt"
    printed = cli("artifacts", "download", "--artifact-uri", uri, "--dst-path", down)
    assert Path(printed.strip().splitlines()[-1]).read_text() == "a"
