"""MLflow's own server, as its users start it."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from support import STOP_SECONDS, healthy

START_SECONDS = 90


@dataclass
class Mlflow:
    """An `mlflow server` with SQLite, that serves artifacts, on a directory of its own."""

    directory: Path
    uri: str = ""
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        self.directory.mkdir()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        log = self.directory / "server.log"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db"),
            *("--serve-artifacts", "--artifacts-destination", str(self.directory / "artifacts")),
        ]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not healthy(uri):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"MLflow's server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        self.uri = uri

    def stop(self) -> None:
        """Stops it and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOP_SECONDS)
