"""Answers about sweeps, beside the same calculations in pandas, NumPy and SciPy."""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from scipy import stats

from support import client_3, unique

TOLERANCE = 1e-9
pytestmark = client_3("SciPy beside it that these tests use")


@dataclass
class SweepOfRuns:
    server: str
    experiment: str
    runs: pd.DataFrame  # run, lr, model, final
    points: pd.DataFrame  # run, step, value: exported through the history

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        response = requests.post(
            f"{self.server}/api/v1/{path}",
            json={"experiment_ids": [self.experiment], "max_runs": 1000, **body},
            timeout=60,
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture(scope="module")
def sweep(server: str) -> SweepOfRuns:
    """40 runs: a parameter of numbers that some lack, one of texts, gaps, NaN and infinity."""
    client = MlflowClient(server, server)
    experiment = client.create_experiment(unique("sweep"))
    rng = random.Random(7)
    rows = []
    for i in range(40):
        lr, model = rng.choice(["0.1", "0.01", "0.001", None]), rng.choice(["mlp", "sgd"])
        run = client.create_run(experiment).info.run_id
        noise = rng.gauss(0, 0.3)
        steps = sorted(rng.sample(range(200), rng.randint(120, 200)))
        metrics = [
            Metric("loss", math.exp(-s / 60) + noise + rng.gauss(0, 0.05), 1000 + 10 * i + s, s)
            for s in steps
        ]
        metrics += [Metric("loss", math.nan, 5000, 50), Metric("loss", math.inf, 5001, 60)]
        final = 0.9 - noise + (0.05 if model == "mlp" else 0) + rng.gauss(0, 0.01)
        if i % 10 != 9:
            metrics.append(Metric("accuracy", final, 6000 + rng.randint(0, 500), 0))
            metrics.append(Metric("seconds", 100 * rng.random() + 10 * final, 6000, 0))
        params = [Param("model", model)] + ([Param("lr", lr)] if lr else [])
        client.log_batch(run, metrics, params, [RunTag("half", str(i % 2))])
        rows.append({"run": run, "lr": lr, "model": model})
    exported = [
        {"run": row["run"], "key": key, "step": m.step, "value": m.value, "time": m.timestamp}
        for row in rows
        for key in ("loss", "accuracy", "seconds")
        for m in client.get_metric_history(str(row["run"]), key)
    ]
    points = pd.DataFrame(exported)
    runs = pd.DataFrame(rows)
    for key in ("accuracy", "seconds"):
        latest = points[points.key == key].set_index("run").value
        runs[key] = runs.run.map(latest)
    return SweepOfRuns(server, experiment, runs, points)


def same(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.array(got, float), np.array(want, float), TOLERANCE, TOLERANCE)


@pytest.mark.parametrize("columns", [1, 13, 100])
def test_curves(sweep: SweepOfRuns, columns: int) -> None:
    levels = [0, 0.1, 0.5, 0.75, 1]
    answer = sweep.ask(
        "sweeps/curves",
        metric_keys=["loss"],
        group_by=["params.lr", "params.model"],
        columns=columns,
        quantiles=levels,
    )
    frame = answer["frame"]
    loss = sweep.points[(sweep.points.key == "loss") & np.isfinite(sweep.points.value)]
    loss = loss.assign(column=(loss.step - frame["from"]) // frame["column_width"])
    cells = loss.groupby(["run", "column"], as_index=False).value.mean().merge(sweep.runs, on="run")
    assert len(answer["curves"]) == sweep.runs.groupby(["lr", "model"], dropna=False).ngroups
    for curve in answer["curves"]:
        lr, model = curve["group"]
        mine = cells[(cells.model == model) & (cells.lr == lr if lr else cells.lr.isna())]
        want = mine.groupby("column").value
        assert curve["column"] == list(want.groups)
        assert curve["count"] == want.count().tolist()
        same(curve["mean"], want.mean())
        same(curve["min"], want.min())
        same(curve["max"], want.max())
        std = [math.nan if s is None else s for s in curve["std"]]
        same(std, want.std())
        for i, level in enumerate(levels):
            same(curve["quantiles"][i], want.quantile(level))


def test_top(sweep: SweepOfRuns) -> None:
    answer = sweep.ask(
        "sweeps/top",
        objective={"metric_key": "accuracy", "goal": "maximize"},
        group_by=["params.model"],
        k=3,
    )
    for group in answer["groups"]:
        mine = sweep.runs[sweep.runs.model == group["group"][0]]
        best = mine.nlargest(3, "accuracy")
        assert [t["run_id"] for t in group["top"]] == best.run.tolist()
        assert group["ranked"] == mine.accuracy.count()
        same([t["value"] for t in group["top"]], best.accuracy)
    finite = sweep.points[(sweep.points.key == "loss") & np.isfinite(sweep.points.value)]
    for at, of in (
        ("min", finite.groupby("run").value.min()),
        ("max", -finite.groupby("run").value.max()),
    ):
        answer = sweep.ask(
            "sweeps/top",
            objective={
                "metric_key": "loss",
                "at": at,
                "goal": "minimize" if at == "min" else "maximize",
            },
            k=5,
        )
        best = of.nsmallest(5)
        assert [t["run_id"] for t in answer["groups"][0]["top"]] == list(best.index)
        same([t["value"] for t in answer["groups"][0]["top"]], best.abs() if at == "max" else best)


def test_importance_and_correlation(sweep: SweepOfRuns) -> None:
    answer = sweep.ask(
        "sweeps/importance",
        objective={"metric_key": "accuracy"},
        attributes=["params.lr", "params.model", "tags.half"],
    )
    known = sweep.runs.dropna(subset=["accuracy"])
    assert answer["runs"] == len(known)
    assert answer["left_out"] == len(sweep.runs) - len(known)
    effects = {e["name"]: e for e in answer["effects"]}

    numbers = known.dropna(subset=["lr"])
    lr = numbers.lr.astype(float)
    same(effects["params.lr"]["pearson"], np.corrcoef(lr, numbers.accuracy)[0, 1])
    same(effects["params.lr"]["spearman"], stats.spearmanr(lr, numbers.accuracy).statistic)
    assert effects["params.model"]["pearson"] is None

    def epsilon_squared(levels: "pd.Series[Any]") -> float:
        y = known.accuracy
        within = ((y - y.groupby(levels.to_numpy()).transform("mean")) ** 2).sum()
        total = ((y - y.mean()) ** 2).sum()
        n, k = len(y), levels.nunique()
        return max(0.0, 1 - (within / (n - k)) / (total / (n - 1)))

    same(effects["params.lr"]["importance"], epsilon_squared(known.lr.fillna("missing")))
    same(effects["params.model"]["importance"], epsilon_squared(known.model))
    importances = [e["importance"] for e in answer["effects"]]
    assert importances == sorted(importances, reverse=True)


def test_pareto(sweep: SweepOfRuns) -> None:
    answer = sweep.ask(
        "sweeps/pareto",
        objectives=[
            {"metric_key": "accuracy", "goal": "maximize"},
            {"metric_key": "seconds", "goal": "minimize"},
        ],
    )
    known = sweep.runs.dropna(subset=["accuracy", "seconds"])
    a, s = known.accuracy.to_numpy(), known.seconds.to_numpy()
    front = {
        run
        for i, run in enumerate(known.run)
        if not (((a >= a[i]) & (s <= s[i])) & ((a > a[i]) | (s < s[i]))).any()
    }
    assert {r["run_id"] for r in answer["runs"] if r["front"]} == front
    assert len(answer["runs"]) == len(known)


def test_progress(sweep: SweepOfRuns) -> None:
    answer = sweep.ask("sweeps/progress", objective={"metric_key": "accuracy", "goal": "maximize"})
    accuracy = sweep.points[sweep.points.key == "accuracy"].sort_values("time", kind="stable")
    best = accuracy.value.cummax()
    # Of points at one time the best may come first or last: compare what was reached by then.
    reached = accuracy.assign(best=best).groupby("time").best.last().drop_duplicates()
    got = {b["timestamp"]: b["value"] for b in answer["best"]}
    assert list(got) == list(reached.index)
    same(list(got.values()), reached)


def test_parallel_coordinates(sweep: SweepOfRuns) -> None:
    answer = sweep.ask("sweeps/coordinates", objectives=[{"metric_key": "accuracy"}])
    order = [r["run_id"] for r in answer["runs"]]
    runs = sweep.runs.set_index("run").loc[order]
    dimensions = {d["name"]: d for d in answer["dimensions"]}
    lr = [math.nan if v is None else v for v in dimensions["params.lr"]["values"]]
    same(lr, runs.lr.astype(float))
    model = dimensions["params.model"]
    assert [model["categories"][int(v)] for v in model["values"]] == runs.model.tolist()
    values = [math.nan if v is None else v for v in answer["objectives"][0]["values"]]
    same(values, runs.accuracy)


def test_catalogue(sweep: SweepOfRuns) -> None:
    def catalogue(kind: str) -> dict[str, Any]:
        url = f"{sweep.server}/api/v1/experiments/{sweep.experiment}/catalogue"
        answer = requests.get(url, params={"kind": kind}, timeout=30).json()
        return {e["key"]: e for e in answer[kind]}

    parameters = catalogue("parameters")
    assert parameters["lr"]["runs"] == sweep.runs.lr.count()
    assert parameters["lr"]["distinct"] == sweep.runs.lr.nunique()
    assert parameters["model"]["examples"] == ["mlp", "sgd"]
    metrics = catalogue("metrics")
    assert metrics["accuracy"]["runs"] == sweep.runs.accuracy.count()
    same([metrics["accuracy"]["min"], metrics["accuracy"]["max"]],
         [sweep.runs.accuracy.min(), sweep.runs.accuracy.max()])  # fmt: skip
    assert catalogue("tags")["half"]["runs"] == len(sweep.runs)
