"""Draw what the API answers about a sweep: the pictures in docs/pictures.

    python examples/sweep/plots.py --tracking-uri http://127.0.0.1:5000 --output docs/pictures

It draws the sweep of `make demo`, and one run with a spike that it logs itself.
"""

import argparse
import math
import random
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import mlflow
import requests
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

mpl.use("Agg")
from matplotlib import pyplot as plt

ACCURACY = {"metric_key": "val_accuracy", "goal": "maximize"}


class Api:
    def __init__(self, uri: str) -> None:
        self.uri = uri

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        response = requests.post(f"{self.uri}/api/v1/{path}", json=body, timeout=60)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def curves(api: Api, experiment: str) -> Figure:
    answer = api.ask(
        "sweeps/curves",
        experiment_ids=[experiment],
        max_runs=1000,
        metric_keys=["val_loss"],
        group_by=["params.model"],
        columns=20,
        quantiles=[0.25, 0.5, 0.75],
    )
    frame = answer["frame"]
    figure, axes = plt.subplots()
    for curve in answer["curves"]:
        steps = [frame["from"] + c * frame["column_width"] for c in curve["column"]]
        low, middle, high = curve["quantiles"]
        (line,) = axes.plot(steps, middle, label=f"{curve['group'][0]}, {curve['runs']} runs")
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
        axes.plot(steps, curve["mean"], color=line.get_color(), linestyle=":")
    axes.set(
        xlabel="epoch", ylabel="val_loss", title="Median, quartiles and mean (dotted) by model"
    )
    axes.legend()
    return figure


def importance(api: Api, experiment: str) -> Figure:
    answer = api.ask(
        "sweeps/importance", experiment_ids=[experiment], max_runs=1000, objective=ACCURACY
    )
    effects = [e for e in answer["effects"] if e["importance"] is not None][::-1]
    figure, axes = plt.subplots()
    axes.barh([e["name"] for e in effects], [e["importance"] for e in effects])
    axes.set(xlabel="part of the variance explained", title="Importance for val_accuracy")
    return figure


def coordinates(api: Api, experiment: str) -> Figure:
    answer = api.ask(
        "sweeps/coordinates",
        experiment_ids=[experiment],
        max_runs=1000,
        dimensions=["params.model", "params.learning_rate", "params.alpha", "params.hidden"],
        objectives=[ACCURACY],
    )
    lines = [(d["name"], d["values"]) for d in answer["dimensions"]]
    scores = answer["objectives"][0]["values"]
    lines.append(("val_accuracy", scores))
    figure, axes = plt.subplots()
    scaled: list[list[Any]] = []
    for name, values in lines:
        if name in ("params.learning_rate", "params.alpha"):
            values = [v and math.log10(v) for v in values]
        known = [v for v in values if v is not None]
        low, width = min(known), (max(known) - min(known)) or 1
        scaled.append([None if v is None else (v - low) / width for v in values])
    for i, score in enumerate(scores):
        y = [math.nan if values[i] is None else values[i] for values in scaled]
        axes.plot(range(len(y)), y, color=plt.colormaps["viridis"](score or 0), linewidth=0.8)
    axes.set_xticks(range(len(lines)), [name for name, _ in lines])
    axes.set_yticks([])
    axes.set_title("Each line is a run, bright ones are accurate")
    return figure


def pareto(api: Api, experiment: str) -> Figure:
    answer = api.ask(
        "sweeps/pareto",
        experiment_ids=[experiment],
        max_runs=1000,
        objectives=[ACCURACY, {"metric_key": "val_loss"}],
    )
    figure, axes = plt.subplots()
    for front, label in ((False, "runs"), (True, "Pareto front")):
        points = [r["values"] for r in answer["runs"] if r["front"] == front]
        axes.scatter([p[1] for p in points], [p[0] for p in points], label=label)
    axes.set(xlabel="val_loss", ylabel="val_accuracy", title="No other run is better in both")
    axes.legend()
    return figure


def progress(api: Api, experiment: str) -> Figure:
    answer = api.ask(
        "sweeps/progress", experiment_ids=[experiment], max_runs=1000, objective=ACCURACY
    )
    best = answer["best"]
    seconds = [(b["timestamp"] - best[0]["timestamp"]) / 1000 for b in best]
    figure, axes = plt.subplots()
    axes.step(seconds, [b["value"] for b in best], where="post", marker="o")
    axes.set(xlabel="seconds", ylabel="val_accuracy", title="The best so far")
    return figure


def spike(api: Api) -> Figure:
    """A run of 200,000 points with one that is far off, in 600 columns."""
    client = MlflowClient(api.uri)
    found = client.get_experiment_by_name("pictures")
    experiment = found.experiment_id if found else client.create_experiment("pictures")
    run = client.create_run(experiment).info.run_id
    rng, count, start = random.Random(1), 200_000, int(time.time() * 1000)
    values = [math.exp(-s / 60_000) + rng.gauss(0, 0.03) for s in range(count)]
    values[123_456] = 1.9
    for first in range(0, count, 1000):
        batch = range(first, first + 1000)
        client.log_batch(run, [Metric("loss", values[s], start + s, s) for s in batch])
    answer = api.ask(
        "series",
        run_ids=[run],
        metric_keys=["loss"],
        columns=600,
        smoothing={"method": "ema", "weight": 0.999},
    )
    (series,) = answer["series"]
    x, y = [], []
    for i in range(len(series["column"])):
        points = {(series[f"{p}_x"][i], series[p][i]) for p in ("first", "min", "max", "last")}
        for at, value in sorted(points):
            x.append(at)
            y.append(value)
    figure, (every, columns) = plt.subplots(1, 2, sharey=True)
    every.plot(range(0, count, 200), values[::200], linewidth=0.7)
    every.set(title="every 200th point", xlabel="step", ylabel="loss")
    columns.plot(x, y, linewidth=0.7)
    columns.plot(series["last_x"], series["smoothed"], label="smoothed")
    columns.set(title="600 columns", xlabel="step")
    columns.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", default="http://127.0.0.1:5000")
    parser.add_argument("--experiment", default="digits-sweep")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    args = parser.parse_args()
    mlflow.set_tracking_uri(args.tracking_uri)
    found = mlflow.get_experiment_by_name(args.experiment)
    if found is None:
        parser.error(f"there is no experiment {args.experiment!r}: run examples/sweep first")
    api, experiment = Api(args.tracking_uri), found.experiment_id
    plt.rcParams.update({"figure.figsize": (6.4, 3.6), "figure.dpi": 100, "font.size": 9})
    args.output.mkdir(parents=True, exist_ok=True)
    for name, figure in {
        "curves": curves(api, experiment),
        "importance": importance(api, experiment),
        "coordinates": coordinates(api, experiment),
        "pareto": pareto(api, experiment),
        "progress": progress(api, experiment),
        "series": spike(api),
    }.items():
        path = args.output / f"{name}.png"
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)
        Image.open(path).quantize(64).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
