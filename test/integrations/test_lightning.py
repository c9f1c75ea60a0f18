"""PyTorch Lightning's MLFlowLogger, and mlflow's own autolog of PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import lightning
import mlflow
import mlflow.pytorch
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 3
STEPS = 4  # an epoch


class Line(lightning.LightningModule):
    """Learns y = 2x."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.rate = rate
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        x, y = batch
        loss = torch.nn.functional.mse_loss(self(x), y)
        self.log("loss", loss)
        self.seen.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


@pytest.fixture
def data() -> DataLoader:
    x = torch.linspace(-1, 1, 8 * STEPS).reshape(-1, 1)
    return DataLoader(TensorDataset(x, 2 * x), batch_size=8)


@pytest.fixture(autouse=True)
def no_autolog() -> Iterator[None]:
    yield
    mlflow.pytorch.autolog(disable=True)


def trainer(**more: object) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, **more,
    )  # fmt: skip


def test_logger(
    server: str, client: MlflowClient, experiment: str, data: DataLoader, tmp_path: Path
) -> None:
    logger = MLFlowLogger(
        experiment_name=experiment, run_name="line", tracking_uri=server, tags={"team": "ada"},
        log_model="all",
    )  # fmt: skip
    checkpoints = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="loss", save_top_k=-1)
    line = Line()
    trainer(logger=logger, callbacks=[checkpoints]).fit(line, data)

    run = client.get_run(logger.run_id)
    assert (run.info.run_name, run.info.status) == ("line", "FINISHED")
    assert run.data.params["rate"] == "0.1"
    assert run.data.tags["team"] == "ada"
    history = client.get_metric_history(logger.run_id, "loss")
    assert [m.value for m in history] == pytest.approx(line.seen)
    assert [m.step for m in history] == list(range(EPOCHS * STEPS))
    saved = {f.path for f in client.list_artifacts(logger.run_id)}
    assert saved == {f"epoch={i}" for i in range(EPOCHS)}
    file = client.download_artifacts(logger.run_id, "epoch=2/epoch=2.ckpt", str(tmp_path))
    loaded = Line.load_from_checkpoint(file)
    assert torch.equal(loaded.layer.weight, line.layer.weight)


def test_autolog(client: MlflowClient, experiment: str, data: DataLoader) -> None:
    mlflow.pytorch.autolog(checkpoint=False)
    line = Line()
    trainer(logger=False, enable_checkpointing=False).fit(line, data)

    found = client.get_experiment_by_name(experiment)
    assert found is not None
    [run] = client.search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params.items() >= {"epochs": str(EPOCHS), "lr": "0.1"}.items()
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [m.value for m in history] == pytest.approx(line.seen[STEPS - 1 :: STEPS])
    loaded = mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/model")
    x = torch.tensor([[0.5]])
    assert torch.equal(loaded(x), line(x))
