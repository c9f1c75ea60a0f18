"""What the tests share: a server to talk to, raw requests, and unique names."""

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 60
OLD_CLIENT = mlflow.__version__.startswith("2.")
SEE_DOCS = " See the API docs for more information about request parameters."


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def program() -> str:
    """The path of the program under test."""
    return os.environ.get("RUNLEDGER_BIN", str(REPOSITORY / "bin" / "runledger"))


def client_3(what: str) -> pytest.MarkDecorator:
    """Skips a test of `what` with clients of mlflow 2, which do not have it."""
    return pytest.mark.skipif(OLD_CLIENT, reason=f"mlflow {mlflow.__version__} has no {what}")


def linked(client: mlflow.MlflowClient, run: str) -> Any:
    """The run, of which the client's types say that inputs and outputs may be None."""
    return client.get_run(run)


@dataclass
class Runledger:
    """A `runledger up` of our own on one data directory."""

    data: Path
    options: tuple[str, ...] = ()
    uri: str = ""
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def output(self) -> Path:
        return self.data.with_suffix(".log")

    def start(self) -> None:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    program(),
                    "up",
                    *("--data", str(self.data)),
                    *("--listen", "127.0.0.1:0"),
                    *self.options,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        self.uri = ""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            banner = re.search(r"http://[\w.:\[\]-]+\d", self.output.read_text(errors="replace"))
            if banner and healthy(banner.group()):
                self.uri = banner.group()
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(
            f"no server after {START_SECONDS} s; it said:\n{self.output.read_text()}"
        )

    def stop(self) -> int:
        """Asks it to stop, as Ctrl-C would, and returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to it and its children."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)


def healthy(uri: str) -> bool:
    try:
        return requests.get(f"{uri}/health", timeout=5).ok
    except requests.RequestException:
        return False


@dataclass(frozen=True)
class Api:
    """Requests as no well-behaved client would send them."""

    uri: str

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        content_type: str | None = "application/json",
    ) -> requests.Response:
        """Sends `body` as the query of a GET, and as JSON otherwise; `raw` is sent as it is."""
        url = f"{self.uri}/api/2.0/mlflow/{path}"
        if method == "GET":
            return requests.get(url, params=body, timeout=60)
        headers = {} if content_type is None else {"Content-Type": content_type}
        if raw is not None:
            return requests.request(method, url, data=raw, headers=headers, timeout=60)
        return requests.request(method, url, json=body, headers=headers, timeout=60)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.call("GET", path, query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.call("POST", path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def create_run(self, experiment: str) -> str:
        return str(self.post("runs/create", experiment_id=experiment)["run"]["info"]["run_id"])

    def run_data(self, run: str) -> Any:
        return self.get("runs/get", run_id=run)["run"]
