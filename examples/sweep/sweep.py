"""Tune digit classifiers over many processes, track every run, promote the best model.

Nothing here is special to Runledger but the last step, which prints the model's history:
the tracking is the ordinary `mlflow` client.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import numpy as np
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

CLASSES = np.arange(10)
EPOCHS_PER_BATCH = 5


@dataclass(frozen=True)
class Config:
    """One point of the search space. `hidden` is 0 for the linear model."""

    model: str
    alpha: float
    learning_rate: float
    hidden: int
    seed: int


@dataclass(frozen=True)
class Sweep:
    """What every process needs to know."""

    id: str
    tracking_uri: str
    experiment_id: str
    epochs: int
    commit: str | None
    output: Path


def search_space(count: int, seed: int) -> list[Config]:
    """Draws `count` configurations; the same seed draws the same ones."""
    rng = random.Random(seed)
    configs = []
    for i in range(count):
        model = rng.choice(["sgd", "mlp"])
        configs.append(
            Config(
                model=model,
                alpha=float(f"{10 ** rng.uniform(-6, -2):.3g}"),
                learning_rate=float(f"{10 ** rng.uniform(-4, -2):.3g}"),
                hidden=rng.choice([16, 32, 64]) if model == "mlp" else 0,
                seed=i,
            )
        )
    return configs


def build(config: Config) -> Any:
    if config.model == "mlp":
        return MLPClassifier(
            hidden_layer_sizes=(config.hidden,),
            alpha=config.alpha,
            learning_rate_init=config.learning_rate,
            random_state=config.seed,
        )
    return SGDClassifier(
        loss="log_loss",
        alpha=config.alpha,
        learning_rate="constant",
        eta0=config.learning_rate,
        random_state=config.seed,
    )


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, validation images, training labels, validation labels."""
    data = load_digits()
    train_x, val_x, train_y, val_y = train_test_split(
        data.data / 16.0, data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    return train_x, val_x, train_y, val_y


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def train(config: Config, sweep: Sweep) -> tuple[str, Any]:
    """Trains one model as one run. Returns the run's id and the model."""
    mlflow.set_tracking_uri(sweep.tracking_uri)
    client = MlflowClient()
    train_x, val_x, train_y, val_y = digits()
    model = build(config)
    tags = {"sweep": sweep.id}
    if sweep.commit:
        tags["mlflow.source.git.commit"] = sweep.commit

    with (
        (sweep.output / f"{sweep.id}-{os.getpid()}.jsonl").open("a") as record,
        mlflow.start_run(
            experiment_id=sweep.experiment_id, run_name=f"{config.model}-{config.seed}", tags=tags
        ) as run,
    ):
        run_id = run.info.run_id

        def remember(*points: Metric) -> None:
            """Keeps what the server has acknowledged, for verify()."""
            for p in points:
                line = {"run": run_id, "key": p.key, "point": [p.timestamp, p.step, p.value]}
                record.write(json.dumps(line) + "\n")
            record.flush()

        mlflow.log_params({**asdict(config), "epochs": sweep.epochs})
        pending: list[Metric] = []
        for epoch in range(sweep.epochs):
            model.partial_fit(train_x, train_y, classes=CLASSES)
            train_p, val_p = model.predict_proba(train_x), model.predict_proba(val_x)

            loss = Metric("train_loss", log_loss(train_y, train_p), now_ms(), epoch)
            mlflow.log_metric(loss.key, loss.value, step=loss.step, timestamp=loss.timestamp)
            remember(loss)

            measured = {
                "val_loss": log_loss(val_y, val_p),
                "val_accuracy": accuracy_score(val_y, val_p.argmax(axis=1)),
                "train_accuracy": accuracy_score(train_y, train_p.argmax(axis=1)),
            }
            pending += [Metric(key, value, now_ms(), epoch) for key, value in measured.items()]
            if (epoch + 1) % EPOCHS_PER_BATCH == 0 or epoch + 1 == sweep.epochs:
                client.log_batch(run_id, metrics=pending)
                remember(*pending)
                pending = []

        matrix = confusion_matrix(val_y, model.predict(val_x), labels=CLASSES)
        mlflow.log_dict(
            {"labels": CLASSES.tolist(), "rows_are_truth": matrix.tolist()}, "confusion_matrix.json"
        )
    return run_id, model


def promote(name: str, run_id: str, model: Any) -> str:
    """Registers the run's model and makes it the champion. Returns its version."""
    client = MlflowClient()
    with tempfile.TemporaryDirectory() as tmp:
        local = Path(tmp) / "model"
        mlflow.sklearn.save_model(
            model,
            str(local),
            pip_requirements=["scikit-learn"],
            skops_trusted_types=["sklearn.neural_network._stochastic_optimizers.AdamOptimizer"],
        )
        client.log_artifacts(run_id, str(local), "model")
    try:
        client.create_registered_model(name, description="Reads handwritten digits.")
    except MlflowException as e:
        if e.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    version = client.create_model_version(name, f"runs:/{run_id}/model", run_id).version
    client.transition_model_version_stage(
        name, version, "Production", archive_existing_versions=True
    )
    client.set_registered_model_alias(name, "champion", version)
    return str(version)


def champion_accuracy(name: str) -> float:
    """Downloads the champion and scores it on the validation images."""
    model = mlflow.sklearn.load_model(f"models:/{name}@champion")
    _, val_x, _, val_y = digits()
    return float(accuracy_score(val_y, model.predict(val_x)))


def model_history(tracking_uri: str, name: str) -> Iterator[dict[str, Any]]:
    """Every change of a registered model, oldest first. Empty when the server keeps none."""
    url = f"{tracking_uri.rstrip('/')}/api/v1/models/{quote(name, safe='')}/history"
    token = ""
    while True:
        answer = requests.get(url, params={"page_token": token} if token else {}, timeout=30)
        if answer.status_code == requests.codes.not_found:
            return
        answer.raise_for_status()
        page = answer.json()
        yield from page.get("entries", [])
        token = page.get("next_page_token", "")
        if not token:
            return


def verify(sweep: Sweep, run_ids: list[str]) -> list[str]:
    """Compares what the server has with what the processes logged. Returns the differences."""
    logged: dict[tuple[str, str], list[tuple[int, int, float]]] = defaultdict(list)
    for path in sweep.output.glob(f"{sweep.id}-*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            logged[entry["run"], entry["key"]].append(tuple(entry["point"]))

    client = MlflowClient()
    differences = []
    for run_id in run_ids:
        expected_keys = {key for run, key in logged if run == run_id}
        stored_keys = set(client.get_run(run_id).data.metrics)
        if stored_keys != expected_keys:
            differences.append(f"run {run_id} has {stored_keys}, logged were {expected_keys}")
    for (run_id, key), points in logged.items():
        history = client.get_metric_history(run_id, key)
        if sorted((m.timestamp, m.step, m.value) for m in history) != sorted(points):
            differences.append(
                f"run {run_id}, {key}: {len(history)} points stored, {len(points)} logged"
            )
    if not differences:
        total = sum(len(points) for points in logged.values())
        print(f"verified {total} points in {len(run_ids)} runs")
    return differences


def git_commit() -> str | None:
    try:
        head = subprocess.check_output(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", default=mlflow.get_tracking_uri())
    parser.add_argument("--experiment", default="digits-sweep")
    parser.add_argument("--model-name", default="digits")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the processes keep what they logged")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    # For the processes to come: they are the parallelism, and 60 links would hide the rest.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    mlflow.set_tracking_uri(args.tracking_uri)
    experiment = mlflow.set_experiment(args.experiment)
    output = args.output or Path(tempfile.mkdtemp(prefix="sweep-"))
    output.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(
        id=uuid.uuid4().hex[:8],
        tracking_uri=args.tracking_uri,
        experiment_id=experiment.experiment_id,
        epochs=args.epochs,
        commit=git_commit(),
        output=output,
    )
    print(f"sweep {sweep.id}: {args.runs} runs, {args.processes} processes -> {args.tracking_uri}")

    models: dict[str, Any] = {}
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(train, c, sweep) for c in search_space(args.runs, args.seed)]
        for future in as_completed(futures):
            run_id, model = future.result()
            models[run_id] = model
            if len(models) % 10 == 0:
                print(f"  {len(models)} of {args.runs} runs done", flush=True)

    ranking = mlflow.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.sweep = '{sweep.id}'",
        order_by=["metrics.val_accuracy DESC", "metrics.val_loss ASC"],
        max_results=10,
    )
    columns = ["tags.mlflow.runName", "metrics.val_accuracy", "metrics.val_loss"]
    columns += [f"params.{name}" for name in ("learning_rate", "alpha", "hidden")]
    print("\nbest runs\n" + ranking[columns].to_string())

    best = ranking.iloc[0]
    version = promote(args.model_name, best["run_id"], models[best["run_id"]])
    print(f"\nmodel {args.model_name} version {version} is now Production and @champion")
    differences = verify(sweep, list(models))
    accuracy, logged = champion_accuracy(args.model_name), best["metrics.val_accuracy"]
    if accuracy != logged:
        differences.append(f"the champion scores {accuracy}, its run logged {logged}")

    print(f"\nhistory of {args.model_name}")
    for entry in model_history(args.tracking_uri, args.model_name):
        version = entry.get("version") or "-"
        print(
            f"  {entry['seq']:>4}  {entry['time']}  {entry['actor']}  {entry['action']}"
            f"  version {version}"
        )

    for difference in differences:
        print(f"MISMATCH: {difference}", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
