"""Gates, approvals and evaluations: the real client is held back by what it does not know of."""

from collections.abc import Callable
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from support import unique

pytestmark = pytest.mark.runledger


class Registry:
    """Runledger's own routes of one registered model."""

    def __init__(self, server: str, name: str) -> None:
        self.models = f"{server}/api/v1/models/{name}"

    def send(self, method: str, path: str, body: Any = None, *, user: str = "ada") -> Any:
        answer = requests.request(
            method, f"{self.models}/{path}", json=body, auth=(user, ""), timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def gate(self, target: str, **rules: Any) -> None:
        self.send("PUT", f"gates/{target}", rules)

    def approval(self, version: str, status: str, *, user: str, comment: str = "") -> None:
        body = {"status": status, "comment": comment}
        self.send("POST", f"versions/{version}/approval", body, user=user)

    def history(self) -> list[dict[str, Any]]:
        return list(self.send("GET", "history?max_results=1000")["entries"])


@pytest.fixture
def trained(client: MlflowClient, experiment: str) -> str:
    """The name of a model whose versions 1, 2 and 3 have a recall of 0.96, 0.91 and 0.955."""
    name = unique("gated")
    client.create_registered_model(name)
    for recall in (0.96, 0.91, 0.955):
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "recall", 0.1, step=1)
        client.log_metric(run.info.run_id, "recall", recall, step=2)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    return name


@pytest.fixture
def registry(server: str, trained: str) -> Registry:
    return Registry(server, trained)


def refused(promote: Callable[[], object]) -> str:
    with pytest.raises(RestException) as raised:
        promote()
    assert raised.value.error_code == "PERMISSION_DENIED"
    assert raised.value.get_http_status_code() == 403
    return str(raised.value.message)


def test_a_stage_is_refused_with_both_figures(
    client: MlflowClient, trained: str, registry: Registry
) -> None:
    registry.gate("stages/Production", conditions=["metrics.recall >= current - 1%"])
    client.transition_model_version_stage(trained, "1", "Production")
    message = refused(lambda: client.transition_model_version_stage(trained, "2", "Production"))
    assert "metrics.recall is 0.91, want >= 0.9504 (current is 0.96)" in message
    assert client.get_model_version(trained, "2").current_stage == "None"
    client.transition_model_version_stage(trained, "2", "Staging")
    client.transition_model_version_stage(
        trained, "3", "Production", archive_existing_versions=True
    )
    assert client.get_model_version(trained, "1").current_stage == "Archived"
    entries = registry.history()
    assert [e["action"] for e in entries if e["action"].endswith(("refused", "stage_set"))] == [
        "model_version_stage_set",
        "promotion_refused",
        "model_version_stage_set",
        "model_version_stage_set",
    ]
    (refusal,) = (e for e in entries if e["action"] == "promotion_refused")
    assert refusal["version"] == "2"
    assert "metrics.recall is 0.91" in str(refusal["after"])


def test_an_alias_is_refused_with_both_figures(
    client: MlflowClient, trained: str, registry: Registry
) -> None:
    registry.gate("aliases/champion", conditions=["metrics.recall > 0.95"])
    message = refused(lambda: client.set_registered_model_alias(trained, "champion", "2"))
    assert "metrics.recall is 0.91, want > 0.95" in message
    assert client.get_registered_model(trained).aliases == {}
    client.set_registered_model_alias(trained, "challenger", "2")
    client.set_registered_model_alias(trained, "champion", "1")
    assert client.get_model_version_by_alias(trained, "champion").version == "1"


def test_a_metric_that_was_logged_just_now_counts(
    client: MlflowClient, trained: str, registry: Registry
) -> None:
    registry.gate("stages/Production", conditions=["metrics.recall >= 0.95"])
    run = str(client.get_model_version(trained, "2").run_id)
    for step in range(3, 20):
        client.log_metric(run, "recall", 0.9 + step / 1000, step=step)
        message = refused(lambda: client.transition_model_version_stage(trained, "2", "Production"))
        assert f"metrics.recall is {0.9 + step / 1000}," in message
    client.log_metric(run, "recall", 0.97, step=20)
    client.transition_model_version_stage(trained, "2", "Production")


def test_tags_and_approvals_open_a_gate(
    client: MlflowClient, trained: str, registry: Registry
) -> None:
    registry.gate("stages/Production", required_tags={"validated": "yes"}, approvals=1)

    def promote() -> object:
        return client.transition_model_version_stage(trained, "1", "Production")

    message = refused(promote)
    assert "the tag 'validated' is missing" in message
    assert "0 of 1 approvals" in message
    client.set_model_version_tag(trained, "1", "validated", "yes")
    registry.approval("1", "PendingManualApproval", user="ada")
    registry.approval("1", "Rejected", user="bob", comment="wrong on night images")
    assert "bob rejected it: wrong on night images" in refused(promote)
    registry.approval("1", "Approved", user="bob")
    promote()
    assert client.get_model_version(trained, "1").current_stage == "Production"


def test_evaluations_count_and_compare(
    client: MlflowClient, trained: str, registry: Registry
) -> None:
    for version, recall in (("1", 0.5), ("2", 0.75)):
        body = {
            "name": "night",
            "metrics": {"recall": recall},
            "dataset": {"name": "night", "digest": "d1"},
        }
        registry.send("POST", f"versions/{version}/evaluations", body)
    registry.gate("aliases/night", conditions=["evaluations.night.recall >= 0.7"])
    message = refused(lambda: client.set_registered_model_alias(trained, "night", "1"))
    assert "evaluations.night.recall is 0.5, want >= 0.7" in message
    client.set_registered_model_alias(trained, "night", "2")
    compared = registry.send("GET", "evaluations?versions=1,2")["metrics"]
    assert [(m["metric"], m["values"], m["differences"]) for m in compared] == [
        ("recall", [0.5, 0.75], [0, 0.25])
    ]
