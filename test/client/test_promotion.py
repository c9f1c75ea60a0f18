"""Promotions through gates, with the client's own calls, and the example that shows them."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from support import REPOSITORY, program, unique


class Guarded:
    """A model whose versions have a run each, with the recall that is given."""

    def __init__(self, server: str, *recalls: float) -> None:
        self.server = server
        self.client = MlflowClient(server, server)
        self.name = unique("guarded")
        self.client.create_registered_model(self.name)
        experiment = self.client.create_experiment(unique("guarded"))
        self.versions = []
        for recall in recalls:
            run = self.client.create_run(experiment).info.run_id
            self.client.log_metric(run, "recall", recall)
            version = self.client.create_model_version(self.name, f"runs:/{run}/model", run)
            self.versions.append(version.version)

    def call(self, method: str, path: str, user: str = "ada", **body: Any) -> dict[str, Any]:
        response = requests.request(
            method,
            f"{self.server}/api/v1/models/{self.name}/{path}",
            json=body or None,
            auth=(user, ""),
            timeout=30,
        )
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def refused(promote: Callable[[], Any]) -> str:
    with pytest.raises(RestException) as refusal:
        promote()
    assert refusal.value.error_code == "PERMISSION_DENIED"
    return str(refusal.value)


def test_gate_on_a_stage(server: str) -> None:
    model = Guarded(server, 0.96, 0.91, 0.955)
    first, low, close = model.versions
    conditions = ["metrics.recall >= 0.93", "metrics.recall >= current - 1%"]
    model.call("PUT", "gates/stages/Production", conditions=conditions)

    def promote(version: str) -> Any:
        return model.client.transition_model_version_stage(model.name, version, "Production")

    assert promote(first).current_stage == "Production"
    message = refused(lambda: promote(low))
    assert "metrics.recall is 0.91, want >= 0.93" in message
    assert "metrics.recall is 0.91, want >= 0.9504 (" in message
    assert "current is 0.96" in message
    assert promote(close).current_stage == "Production"
    assert model.client.get_model_version(model.name, low).current_stage == "None"
    entries = model.call("GET", "history")["entries"]
    assert [e["action"] for e in entries[-3:]] == [
        "model_version_stage_set",
        "promotion_refused",
        "model_version_stage_set",
    ]


def test_gate_on_an_alias(server: str) -> None:
    model = Guarded(server, 0.8, 0.7)
    better, worse = model.versions
    model.call("PUT", "gates/aliases/champion", conditions=["metrics.recall > current"])
    model.client.set_registered_model_alias(model.name, "champion", better)
    message = refused(
        lambda: model.client.set_registered_model_alias(model.name, "champion", worse)
    )
    assert "metrics.recall is 0.7, want > 0.8" in message
    assert model.client.get_model_version_by_alias(model.name, "champion").version == better


def test_a_value_that_was_logged_just_now_counts(server: str) -> None:
    model = Guarded(server, 0.5)
    (version,) = model.versions
    model.call("PUT", "gates/stages/Production", conditions=["metrics.recall >= 0.95"])
    run = str(model.client.get_model_version(model.name, version).run_id)

    def promote() -> Any:
        return model.client.transition_model_version_stage(model.name, version, "Production")

    for step in range(1, 20):
        model.client.log_metric(run, "recall", step / 100, step=step)
        assert f"metrics.recall is {step / 100}, want >= 0.95" in refused(promote)
    model.client.log_metric(run, "recall", 0.97, step=20)
    assert promote().current_stage == "Production"


def test_approvals_and_evaluations(server: str) -> None:
    model = Guarded(server, 0.9)
    (version,) = model.versions
    approval, evaluations = f"versions/{version}/approval", f"versions/{version}/evaluations"
    model.call("POST", evaluations, name="night", metrics={"f1": 0.75})
    model.call(
        "PUT", "gates/stages/Staging", conditions=["evaluations.night.f1 >= 0.8"], approvals=1
    )

    def promote() -> Any:
        return model.client.transition_model_version_stage(model.name, version, "Staging")

    message = refused(promote)
    assert "evaluations.night.f1 is 0.75, want >= 0.8" in message
    assert "0 of 1 approvals" in message
    model.call("POST", evaluations, name="night", metrics={"f1": 0.85})
    model.call("POST", approval, status="PendingManualApproval")
    with pytest.raises(requests.HTTPError, match="400"):
        model.call("POST", approval, status="Approved")
    model.call("POST", approval, user="bob", status="Rejected", comment="looks odd")
    assert "bob rejected it: looks odd" in refused(promote)
    model.call("POST", approval, user="bob", status="Approved")
    assert promote().current_stage == "Staging"
    compared = model.call("GET", f"evaluations?versions={version}")
    assert compared["metrics"][0]["values"] == [0.85]


def test_commands(server: str) -> None:
    model = Guarded(server, 0.9)
    (version,) = model.versions

    def registry(*arguments: str, user: str = "ada") -> "subprocess.CompletedProcess[str]":
        named = server.replace("http://", f"http://{user}@") if user else server
        return subprocess.run(
            [program(), "registry", *arguments, "--server", named],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def says(done: "subprocess.CompletedProcess[str]", *parts: str) -> None:
        assert done.returncode == 0, done.stderr
        for part in parts:
            assert part in done.stdout

    def fails(done: "subprocess.CompletedProcess[str]", part: str) -> None:
        assert done.returncode == 1
        assert part in done.stderr

    says(registry("gate", "list", model.name), "No gates")
    fails(registry("gate", "set", model.name), "stage")
    fails(registry("gate", "set", model.name, "--stage", "Staging"), "nothing would be refused")
    fails(
        registry("gate", "set", model.name, "--stage", "Staging", "--condition", "recall > 1"),
        "'conditions.0': want metrics.<key>",
    )
    gate = ("--stage", "Staging", "--condition", "metrics.recall > 0.5", "--tag", "owner")
    says(
        registry("gate", "set", model.name, *gate, "--tag", "ok=yes", "--approvals", "1"),
        "to stage Staging pass this gate",
    )
    says(
        registry("gate", "list", model.name),
        "metrics.recall > 0.5",
        "tag owner",
        "tag ok=yes",
        "approvals: 1",
    )
    fails(registry("approve", model.name, version, user=""), "needs a name")
    says(registry("request-approval", model.name, version), "PendingManualApproval")
    fails(registry("approve", model.name, version), "ada asked for the approval")
    says(registry("reject", model.name, version, "--comment", "odd", user="bob"), "Rejected")
    says(registry("approve", model.name, version, user="bob"), "Approved")
    says(registry("gate", "delete", model.name, "--stage", "Staging"), "pass no gate now")
    fails(registry("gate", "delete", model.name, "--stage", "Staging"), "has no gate")
    fails(registry("approve", model.name, "99"), "not found")


@pytest.mark.timeout(120)
def test_example(server: str) -> None:
    """examples/promotion, after a sweep whose best run is in Production."""
    client = MlflowClient(server, server)
    experiment, name = unique("sweep"), unique("digits")
    experiment_id = client.create_experiment(experiment)
    client.create_registered_model(name)
    for accuracy in (0.97, 0.95, 0.3):
        run = client.create_run(experiment_id).info.run_id
        client.log_metric(run, "val_accuracy", accuracy)
        if accuracy == 0.97:
            client.create_model_version(name, f"runs:/{run}/model", run)
    client.transition_model_version_stage(name, "1", "Production")
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "examples" / "promotion" / "promote.py"),
            f"--tracking-uri={server}",
            f"--experiment={experiment}",
            f"--model-name={name}",
            f"--runledger={program()}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "val_accuracy is 0.3, want >= 0.9" in done.stdout
    assert "entries is right" in done.stdout
    assert client.get_model_version(name, "1").current_stage == "Production"
    assert client.get_model_version(name, "3").current_stage == "None"
