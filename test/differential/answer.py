"""Answers without what each server may choose, and the differences between two of them."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests

NOW = "<now>"
ABSENT = "<absent>"
SHOWN = 400
DAY_MILLISECONDS = 24 * 60 * 60 * 1000
ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(-?)(?:[0-9a-f]{4}\1){3}[0-9a-f]{12}(?![0-9a-f])")
SET = re.compile(r"\{('[^{}]*')\}")
# MLflow numbers its names from 0 to 1000, both included.
RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-(?:\d{1,3}|1000)")
UNORDERED = ("tags", "params", "aliases")
HEADERS = ("Content-Disposition", "X-Content-Type-Options", "X-Frame-Options", "Content-Range")


@dataclass
class Names:
    """Names for what a server chose in the course of a scenario: its first id, its second, …"""

    uri: str
    ids: dict[str, str] = field(default_factory=dict)

    def skip(self, other: "Names") -> None:
        """Leaves out the names of ids that only the other server chose."""
        for name in list(other.ids.values())[len(self.ids) :]:
            self.ids[f"not {name}"] = name

    def text(self, text: str) -> str:
        # Python prints sets in any order.
        text = SET.sub(lambda m: "{" + ", ".join(sorted(m[1].split(", "))) + "}", text)
        text = ID.sub(lambda m: self.ids.setdefault(m[0], f"<id {len(self.ids) + 1}>"), text)
        return text.replace(self.uri, "<server>")

    def json(self, value: Any, key: str = "") -> Any:
        """`value` under `key`, with names for what the server chose."""
        if isinstance(value, dict):
            named = {self.text(k): self.json(v, k) for k, v in value.items()}
            # The metrics of a run, unlike those of a history, come in no order.
            if key == "data" and "metrics" in named:
                named["metrics"].sort(key=json.dumps)
            return named
        if isinstance(value, list):
            items = [self.json(item, key) for item in value]
            return sorted(items, key=json.dumps) if key in UNORDERED else items
        if isinstance(value, str):
            if key in ("run_name", "name", "value") and RANDOM_NAME.fullmatch(value):
                return "<random name>"
            if key == "next_page_token":
                return "<token>"
            return self.text(value)
        if isinstance(value, int) and ("time" in key):
            return NOW if abs(value - time.time() * 1000) < DAY_MILLISECONDS else value
        return value

    def answer(self, response: requests.Response) -> dict[str, Any]:
        """All of an answer that is compared."""
        kind = response.headers.get("Content-Type", "").split(";")[0]
        try:
            body = self.json(json.loads(response.text)) if kind == "application/json" else None
        except ValueError:
            body = None
        if body is None:
            body = self.text(response.text)
        answer = {"status": response.status_code, "type": kind, "body": body}
        answer.update({h: response.headers[h] for h in HEADERS if h in response.headers})
        return answer


@dataclass(frozen=True)
class Difference:
    """What two answers have at one place; the values are JSON, or ABSENT."""

    at: str
    mlflow: str
    runledger: str

    def __str__(self) -> str:
        mlflow, runledger = (shorten(v) for v in (self.mlflow, self.runledger))
        return f"    {self.at}\n      mlflow:    {mlflow}\n      runledger: {runledger}"


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


def differences(mlflow: Any, runledger: Any, at: str = "") -> Iterator[Difference]:
    """The smallest parts that differ; 1 and 1.0 do."""
    if isinstance(mlflow, dict) and isinstance(runledger, dict):
        for key in sorted({*mlflow, *runledger}):
            path = f"{at}.{key}" if at else key
            yield from differences(mlflow.get(key, ABSENT), runledger.get(key, ABSENT), path)
    elif isinstance(mlflow, list) and isinstance(runledger, list) and len(mlflow) == len(runledger):
        for i, (a, b) in enumerate(zip(mlflow, runledger, strict=True)):
            yield from differences(a, b, f"{at}[{i}]")
    else:
        one, other = (v if v is ABSENT else json.dumps(v) for v in (mlflow, runledger))
        if one != other:
            yield Difference(at, one, other)
