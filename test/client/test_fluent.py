"""What a training script calls beside log_param and log_metric, and reads back."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import mlflow
import mlflow.artifacts
import mlflow.data
import mlflow.system_metrics
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException
from PIL import Image

from support import client_3, linked, unique

mpl.use("Agg")
RED = np.zeros((8, 6, 3), dtype=np.uint8)
RED[..., 0] = 255


@pytest.fixture(autouse=True)
def active_experiment(experiment: str) -> Iterator[str]:
    mlflow.set_experiment(experiment_id=experiment)
    yield experiment
    while mlflow.active_run():
        mlflow.end_run()


def files(client: MlflowClient, run: str, path: str | None = None) -> list[str]:
    return [f.path for f in client.list_artifacts(run, path)]


def pixels(uri: str) -> list[tuple[int, int, int]]:
    """The colours in a logged image of 6 x 8."""
    image = mlflow.artifacts.load_image(uri)
    assert image.size == (6, 8)
    return [colour for _, colour in image.convert("RGB").getcolors()]


def test_image_as_a_file(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        mlflow.log_image(RED, "array.png")
        mlflow.log_image(Image.fromarray(RED), "d/pillow.png")
    assert files(client, run.info.run_id) == ["array.png", "d"]
    for name in ("array.png", "d/pillow.png"):
        assert pixels(f"runs:/{run.info.run_id}/{name}") == [(255, 0, 0)]


@client_3("mlflow.log_image with a key")
def test_image_of_a_step(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        for step in range(2):
            mlflow.log_image(RED, key="seen/red", step=step, timestamp=7, synchronous=True)
        mlflow.log_image(mlflow.Image(RED), key="late", step=5)
        mlflow.flush_artifact_async_logging()
    images = [f for f in files(client, run.info.run_id, "images") if f.endswith(".png")]
    late, first, second = images
    assert late.startswith("images/late+step+5+timestamp+")
    assert first.startswith("images/seen~red+step+0+timestamp+7+")
    assert second.startswith("images/seen~red+step+1+timestamp+7+")
    for image in images:
        assert pixels(f"runs:/{run.info.run_id}/{image}") == [(255, 0, 0)]
    assert client.get_run(run.info.run_id).data.tags["mlflow.loggedImages"] == "True"


def test_figure(client: MlflowClient) -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    with mlflow.start_run() as run:
        mlflow.log_figure(figure, "plots/line.png")
        mlflow.log_figure(figure, "plots/line.pdf")
    assert files(client, run.info.run_id, "plots") == ["plots/line.pdf", "plots/line.png"]
    image = mlflow.artifacts.load_image(f"runs:/{run.info.run_id}/plots/line.png")
    assert image.size == (200, 100)


def test_tables_grow_and_join() -> None:
    runs = []
    for name in ("first", "second"):
        with mlflow.start_run(run_name=name) as run:
            mlflow.log_table({"question": [f"{name}?"], "score": [0.5]}, "eval/t.json")
            mlflow.log_table(pd.DataFrame({"question": ["ñ?"], "score": [1.5]}), "eval/t.json")
        runs.append(run.info.run_id)
    one = mlflow.load_table("eval/t.json", run_ids=runs[:1])
    assert one.to_dict("list") == {"question": ["first?", "ñ?"], "score": [0.5, 1.5]}
    whole = mlflow.load_table("eval/t.json", extra_columns=["run_id"])
    assert sorted(zip(whole["run_id"], whole["question"], strict=True)) == sorted(
        (run, question)
        for run, name in zip(runs, ("first", "second"), strict=True)
        for question in (f"{name}?", "ñ?")
    )
    with pytest.raises(MlflowException, match="No runs found with the corresponding table"):
        mlflow.load_table("eval/nowhere.json", run_ids=runs)


def test_files(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "up" / "sub" / "b.txt").write_text("b")
    with mlflow.start_run() as run:
        mlflow.log_text("x", "notes/x.txt")
        mlflow.log_dict({"k": [1, None]}, "d.json")
        mlflow.log_dict({"k": [1, None]}, "d.yaml")
        mlflow.log_artifact(str(tmp_path / "up" / "a.bin"), "single")
        mlflow.log_artifacts(str(tmp_path / "up"), "whole")
        assert mlflow.get_artifact_uri("d.json").endswith(f"{run.info.run_id}/artifacts/d.json")
    identifier = run.info.run_id
    assert files(client, identifier) == ["d.json", "d.yaml", "notes", "single", "whole"]
    for name in ("d.json", "d.yaml"):
        file = mlflow.artifacts.download_artifacts(f"runs:/{identifier}/{name}")
        assert Path(file).stat().st_size > 0
    down = Path(
        mlflow.artifacts.download_artifacts(
            run_id=identifier, artifact_path="whole", dst_path=str(tmp_path)
        )
    )
    assert (down / "a.bin").read_bytes() == bytes(range(256))
    assert (down / "sub" / "b.txt").read_text() == "b"
    uri = f"{client.get_run(identifier).info.artifact_uri}/d.json"
    assert json.loads(mlflow.artifacts.load_text(uri)) == {"k": [1, None]}


def test_runs_as_a_table() -> None:
    names = [unique("one"), unique("two")]
    ids: dict[int, str] = {}
    for i in range(4):
        mlflow.set_experiment(names[i % 2])
        with mlflow.start_run(run_name=f"r{i}", tags={"odd": str(i % 2)}) as run:
            mlflow.log_params({"depth": i} if i else {"other": "x"})
            mlflow.log_metric("loss", float("nan") if i == 3 else i / 10)
            if i == 2:
                mlflow.log_metric("only", 1.0)
        ids[i] = run.info.run_id

    def found(**options: Any) -> list[int]:
        table = mlflow.search_runs(experiment_names=names, **options)
        return [next(i for i in ids if ids[i] == r) for r in table["run_id"]]

    assert found(order_by=["metrics.loss"]) == [0, 1, 2, 3]
    assert found(order_by=["metrics.loss DESC"]) == [2, 1, 0, 3]
    assert found(order_by=["params.depth DESC"]) == [3, 2, 1, 0]
    assert found(filter_string="tags.odd = '1'", order_by=["start_time"]) == [1, 3]
    assert found(filter_string="metrics.loss >= 0.1", order_by=["start_time"]) == [1, 2]
    assert found(max_results=2, order_by=["start_time DESC"]) == [3, 2]

    table = mlflow.search_runs(experiment_names=names, order_by=["start_time"])
    assert len(set(table["experiment_id"])) == 2
    assert list(table["tags.mlflow.runName"]) == ["r0", "r1", "r2", "r3"]
    assert table["metrics.loss"].isna().tolist() == [False, False, False, True]
    assert table["metrics.only"].isna().tolist() == [True, True, False, True]
    assert table["params.depth"].isna().tolist() == [True, False, False, False]
    assert list(table["params.depth"][1:]) == ["1", "2", "3"]
    assert table["start_time"].dt.tz is not None
    assert set(table["status"]) == {"FINISHED"}
    [other] = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"run_id = '{ids[0]}'", output_format="list"
    )
    assert other.data.params == {"other": "x"}
    assert mlflow.search_runs(experiment_names=[unique("nobody")]).empty


def test_last_run_and_its_continuation() -> None:
    with mlflow.start_run(description="why") as run:
        mlflow.log_metric("loss", 2.0, step=0)
    last = mlflow.last_active_run()
    assert last is not None
    assert (last.info.run_id, last.info.status) == (run.info.run_id, "FINISHED")
    assert last.data.tags["mlflow.note.content"] == "why"
    with mlflow.start_run(run_id=run.info.run_id) as again:
        mlflow.log_metric("loss", 1.0, step=1)
        mlflow.log_param("late", 1)
        mlflow.set_tag("t", "1")
        mlflow.delete_tag("t")
        assert mlflow.get_run(again.info.run_id).info.status == "RUNNING"
    found = mlflow.get_run(run.info.run_id)
    assert (found.data.metrics, found.data.params) == ({"loss": 1.0}, {"late": "1"})
    assert "t" not in found.data.tags
    assert found.info.end_time >= last.info.end_time


def test_runs_of_three_levels(client: MlflowClient, experiment: str) -> None:
    with mlflow.start_run() as top:
        for fold in range(2):
            with mlflow.start_run(nested=True, run_name=f"fold-{fold}") as middle:
                mlflow.log_metric("score", fold)
                with mlflow.start_run(nested=True):
                    mlflow.log_metric("inner", fold)
        mlflow.log_metric("score", 0.5)
    inner = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{middle.info.run_id}'")
    assert [r.data.metrics for r in inner] == [{"inner": 1.0}]
    parent = mlflow.get_parent_run(inner[0].info.run_id)
    assert parent is not None
    assert parent.info.run_name == "fold-1"
    folds = mlflow.search_runs(
        filter_string=f"tags.mlflow.parentRunId = '{top.info.run_id}'", order_by=["metrics.score"]
    )
    assert list(folds["metrics.score"]) == [0.0, 1.0]
    assert {r.info.status for r in client.search_runs([experiment])} == {"FINISHED"}


@client_3("set_experiment for many at once")
def test_one_experiment_from_many_threads(client: MlflowClient) -> None:
    """Whoever comes second gets the experiment that the first one made."""
    name = unique("together")
    start = threading.Barrier(8)
    found: list[str] = []

    def work(number: int) -> None:
        start.wait()
        experiment = mlflow.set_experiment(name)
        with mlflow.start_run(experiment_id=experiment.experiment_id):
            mlflow.log_metric("number", number)
        found.append(experiment.experiment_id)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    numbers = [r.data.metrics["number"] for r in client.search_runs([found[0]])]
    assert sorted(numbers) == list(range(8))


def test_system_metrics(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with mlflow.start_run(log_system_metrics=True) as run:
        deadline = time.monotonic() + 30
        key = "system/cpu_utilization_percentage"
        while len(client.get_metric_history(run.info.run_id, key)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    metrics = client.get_run(run.info.run_id).data.metrics
    assert metrics.keys() >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/disk_usage_percentage",
        "system/network_receive_megabytes",
    }
    assert metrics["system/system_memory_usage_megabytes"] > 0
    steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
    assert steps == list(range(len(steps)))


@client_3("mlflow.config.enable_async_logging")
def test_all_logging_in_the_background(client: MlflowClient) -> None:
    mlflow.config.enable_async_logging()
    try:
        with mlflow.start_run() as run:
            mlflow.log_param("p", 1)
            mlflow.log_params({"q": 2})
            mlflow.set_tag("t", "x")
            for step in range(50):
                mlflow.log_metric("m", step / 2, step=step)
                mlflow.log_metrics({"a": step, "b": -step}, step=step)
    finally:
        mlflow.config.enable_async_logging(False)
    # The end of a run waits for what it logged.
    data = client.get_run(run.info.run_id).data
    assert data.params == {"p": "1", "q": "2"}
    assert data.tags["t"] == "x"
    assert data.metrics == {"m": 24.5, "a": 49.0, "b": -49.0}
    history = client.get_metric_history(run.info.run_id, "m")
    assert sorted((m.step, m.value) for m in history) == [(i, i / 2) for i in range(50)]


@client_3("operations that can be waited for")
def test_waiting_for_one_write(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        operation = mlflow.log_metric("m", 1.0, step=1, synchronous=False)
        assert operation is not None
        operation.wait()
        assert client.get_run(run.info.run_id).data.metrics == {"m": 1.0}
        refused = mlflow.log_params({"bad;key": 1}, synchronous=False)
        assert refused is not None
        with pytest.raises(MlflowException, match="Invalid"):
            refused.wait()
    assert client.get_run(run.info.run_id).data.params == {}


def test_a_pandas_data_set(client: MlflowClient, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [0.5, 1.5], "n": [1, 2], "s": ["a", "ñ"], "y": [0, 1]})
    file = tmp_path / "d.csv"
    frame.to_csv(file, index=False)
    data = from_pandas(frame, source=str(file), targets="y", name="mine")
    with mlflow.start_run() as run:
        mlflow.log_input(data, context="training")
    [logged] = linked(client, run.info.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("mine", data.digest)
    assert json.loads(logged.dataset.profile) == {"num_rows": 2, "num_elements": 8}
    columns = json.loads(logged.dataset.schema)["mlflow_colspec"]
    assert [(c["name"], c["type"]) for c in columns] == [
        ("x", "double"), ("n", "long"), ("s", "string"), ("y", "long"),
    ]  # fmt: skip
    assert pd.read_csv(mlflow.data.get_source(logged).load()).equals(frame)


@client_3("metrics of models and data sets")
def test_metrics_of_a_model_on_a_data_set(client: MlflowClient, experiment: str) -> None:
    data = from_pandas(pd.DataFrame({"x": [1.0]}), name="held-out")
    with mlflow.start_run() as run:
        models = [mlflow.initialize_logged_model(name=name) for name in ("good", "bad")]
        for model, accuracy in zip(models, (0.9, 0.4), strict=True):
            mlflow.log_metrics(
                {"accuracy": accuracy, "loss": 1 - accuracy},
                step=1, dataset=data, model_id=model.model_id,
            )  # fmt: skip
            mlflow.log_model_params({"kind": model.name}, model_id=model.model_id)
            mlflow.finalize_logged_model(model.model_id, "READY")
    assert client.get_run(run.info.run_id).data.metrics["accuracy"] in (0.9, 0.4)
    metrics = mlflow.get_logged_model(models[0].model_id).metrics or []
    assert sorted((m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in metrics) == [
        ("accuracy", 0.9, 1, "held-out", data.digest),
        ("loss", pytest.approx(0.1), 1, "held-out", data.digest),
    ]
    found = mlflow.search_logged_models(
        [experiment],
        filter_string="metrics.accuracy > 0.5",
        datasets=[{"dataset_name": "held-out", "dataset_digest": data.digest}],
        output_format="list",
    )
    assert [(m.name, m.params) for m in found] == [("good", {"kind": "good"})]
    table = mlflow.search_logged_models(
        [experiment],
        order_by=[{"field_name": "metrics.accuracy", "dataset_name": "held-out"}],
    )
    assert list(table["name"]) == ["bad", "good"]
    assert mlflow.last_logged_model() is not None


@client_3("mlflow.set_active_model")
def test_active_model_takes_the_metrics(client: MlflowClient) -> None:
    with mlflow.start_run() as run:
        active = mlflow.set_active_model(name=unique("active"))
        try:
            mlflow.log_metric("m", 1.0)
        finally:
            mlflow.clear_active_model()
    [metric] = client.get_logged_model(active.model_id).metrics or []
    assert (metric.key, metric.value, metric.run_id) == ("m", 1.0, run.info.run_id)
