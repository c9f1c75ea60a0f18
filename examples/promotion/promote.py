"""Promote models through a gate, take a bad promotion back, and prove what happened.

It goes on where examples/sweep ends: the sweep's best model is in Production.
"""

import argparse
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import mlflow
import pandas as pd
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

METRIC = "val_accuracy"
GATE = {"conditions": [f"metrics.{METRIC} >= 0.9", f"metrics.{METRIC} >= current - 5%"]}


def acting_as(user: str, uri: str) -> str:
    """The server's address with a user name, which the ledger keeps."""
    parts = urlsplit(uri)
    address = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    return urlunsplit(parts._replace(netloc=f"{user}:@{address}"))


def call(method: str, uri: str, path: str, **body: Any) -> dict[str, Any]:
    response = requests.request(method, f"{uri}/api/v1/{path}", json=body or None, timeout=30)
    if not response.ok:
        raise RuntimeError(f"{method} {path}: {response.status_code} {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def runledger(binary: str, *arguments: str) -> None:
    """Runs a command and shows it."""
    print(f"\n$ runledger {shlex.join(arguments)}", flush=True)
    subprocess.run([binary, *arguments], check=True)


def candidates(experiment: str) -> tuple[pd.Series, pd.Series]:
    """The run behind the best one, and the worst one."""
    found = mlflow.search_experiments(filter_string=f"name = '{experiment}'")
    runs = mlflow.search_runs(
        [e.experiment_id for e in found], order_by=[f"metrics.{METRIC} DESC"], max_results=1000
    ).dropna(subset=[f"metrics.{METRIC}"])
    if len(runs) < 3:
        sys.exit(f"experiment {experiment!r} has too few runs: run examples/sweep first")
    return runs.iloc[1], runs.iloc[-1]


def register(client: MlflowClient, name: str, run: pd.Series) -> str:
    source = f"runs:/{run['run_id']}/model"
    version = client.create_model_version(name, source, run["run_id"], await_creation_for=0)
    print(
        f"version {version.version} is run {run['tags.mlflow.runName']}:"
        f" {METRIC} {run[f'metrics.{METRIC}']:.4f}"
    )
    return str(version.version)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", default=mlflow.get_tracking_uri())
    parser.add_argument("--experiment", default="digits-sweep")
    parser.add_argument("--model-name", default="digits")
    parser.add_argument("--runledger", default="bin/runledger", help="the command")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    name, model = args.model_name, f"models/{quote(args.model_name, safe='')}"
    mlflow.set_tracking_uri(args.tracking_uri)
    ada, grace = (acting_as(user, args.tracking_uri) for user in ("ada", "grace"))
    client = MlflowClient(grace, grace)
    second, worst = candidates(args.experiment)

    print(f"\nada guards Production with {GATE['conditions']}")
    call("PUT", ada, f"{model}/gates/stages/Production", **GATE)

    refused = register(client, name, worst)
    try:
        client.transition_model_version_stage(name, refused, "Production")
    except MlflowException as refusal:
        print(f"grace cannot promote it:\n  {refusal}")
    else:
        print(f"MISMATCH: the gate let version {refused} pass", file=sys.stderr)
        return 1

    passed = register(client, name, second)
    before = datetime.now(timezone.utc).isoformat()
    client.transition_model_version_stage(
        name, passed, "Production", archive_existing_versions=True
    )
    print(f"grace promotes version {passed}: it passes the gate")

    call(
        "POST",
        ada,
        f"{model}/versions/{passed}/evaluations",
        name="rotated digits",
        metrics={"accuracy": 0.41},
        dataset={"name": "digits-rotated", "digest": "b3f1c2"},
        comment="worse than the one before on rotated digits",
    )
    print(f"ada finds that version {passed} fails on rotated digits, and goes back")
    reason = f"version {passed} fails on rotated digits"
    runledger(
        args.runledger, "registry", "rollback", name, "--to", before, "--reason", reason,
        "--yes", "--server", ada,
    )  # fmt: skip
    runledger(args.runledger, "registry", "history", name, "--server", ada)
    runledger(args.runledger, "audit", "verify", "--server", ada)

    (production,) = client.get_latest_versions(name, ["Production"])
    if production.version in (refused, passed):
        print(f"MISMATCH: version {production.version} is in Production", file=sys.stderr)
        return 1
    print(f"\nversion {production.version} is in Production again, and the ledger says why")
    return 0


if __name__ == "__main__":
    sys.exit(main())
