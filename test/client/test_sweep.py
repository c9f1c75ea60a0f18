"""The example in examples/sweep, run as a user would run it, only smaller."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from support import REPOSITORY, client_3, unique


@client_3("skops models, which the sweep saves")
@pytest.mark.timeout(300)
def test_sweep(server: str, client: MlflowClient, tmp_path: Path) -> None:
    experiment, model = unique("sweep"), unique("digits")
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "examples" / "sweep" / "sweep.py"),
            f"--tracking-uri={server}",
            f"--experiment={experiment}",
            f"--model-name={model}",
            f"--output={tmp_path}",
            "--runs=8",
            "--processes=2",
            "--epochs=7",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"verified {8 * 7 * 4} points in 8 runs" in done.stdout

    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], order_by=["metrics.val_accuracy DESC"])
    assert [r.info.status for r in runs] == ["FINISHED"] * 8
    for run in runs:
        assert run.data.params.keys() >= {"model", "alpha", "learning_rate", "hidden", "epochs"}
        files = [e.path for e in client.list_artifacts(run.info.run_id)]
        assert "confusion_matrix.json" in files
        assert re.fullmatch(r"(sgd|mlp)-\d+", run.info.run_name)

    champion = client.get_model_version_by_alias(model, "champion")
    assert champion.current_stage == "Production"
    assert champion.run_id
    best = client.get_run(champion.run_id).data.metrics["val_accuracy"]
    assert best == runs[0].data.metrics["val_accuracy"]


def test_sweep_notices_a_missing_point(server: str, client: MlflowClient, tmp_path: Path) -> None:
    """What the example calls verified must be able to fail."""
    sys.path.insert(0, str(REPOSITORY / "examples" / "sweep"))
    try:
        import sweep
    finally:
        sys.path.pop(0)
    experiment = client.create_experiment(unique("sweep"))
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "loss", 1.0, timestamp=1, step=0)
    record = tmp_path / "s-1.jsonl"
    line = '{"run": "%s", "key": "loss", "point": [%d, %d, 1.0]}\n'
    this = sweep.Sweep("s", server, experiment, 1, None, tmp_path)

    record.write_text(line % (run, 1, 0))
    assert sweep.verify(this, [run]) == []
    record.write_text(line % (run, 1, 0) + line % (run, 2, 1))
    assert len(sweep.verify(this, [run])) == 1
    record.write_text(line % (run, 1, 5))
    assert len(sweep.verify(this, [run])) == 1
    record.write_text("")
    assert len(sweep.verify(this, [run])) == 1
