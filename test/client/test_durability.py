"""What was acknowledged outlives the process that acknowledged it."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from support import Runledger, unique

pytestmark = [pytest.mark.runledger, pytest.mark.timeout(300)]


def test_all_is_there_after_a_kill(tmp_path: Path) -> None:
    own = Runledger(tmp_path / "data")
    own.start()
    try:
        client = MlflowClient(own.uri)
        experiment = client.create_experiment(unique("killed"))
        run = client.create_run(experiment, run_name="survivor").info.run_id
        points = [(1000 + i, i, i / 3) for i in range(300)]
        client.log_batch(run, metrics=[Metric("loss", v, ts, step) for ts, step, v in points])
        client.log_param(run, "lr", "0.1")
        client.log_text(run, "kept", "a.txt")
        model = unique("model")
        client.create_registered_model(model)
        client.create_model_version(model, f"runs:/{run}/model", run)
        client.set_registered_model_alias(model, "champion", "1")
        client.log_metric(run, "last", 1.0, timestamp=1, step=0)

        own.kill()
        own.start()

        client = MlflowClient(own.uri)
        history = client.get_metric_history(run, "loss")
        assert [(m.timestamp, m.step, m.value) for m in history] == points
        found = client.get_run(run)
        assert found.info.run_name == "survivor"
        assert found.data.params == {"lr": "0.1"}
        assert found.data.metrics == {"loss": points[-1][2], "last": 1.0}
        assert [e.path for e in client.list_artifacts(run)] == ["a.txt"]
        assert client.get_model_version_by_alias(model, "champion").run_id == run
        client.log_metric(run, "after", 2.0, timestamp=1, step=0)
        assert client.get_run(run).data.metrics["after"] == 2.0
        assert own.stop() == 0
    finally:
        own.kill()
