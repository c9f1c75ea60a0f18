"""Check corpus.jsonl against MLflow's own parsers and SQL store.

    python verify.py [corpus.jsonl]

needs mlflow 3.18.0. A line of the corpus holds what this project's parser
answers: `want`, the comparisons, or `error`. MLflow must answer the same, unless
the line says otherwise in `mlflow` (and `why`):

    rejects   MLflow refuses what is accepted here
    accepts   MLflow accepts what is refused here
    differs   both accept, MLflow understands something else

MLflow accepts an input when its parser does and a search with it runs.
Exits with 1 if any line is wrong about MLflow.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import ViewType
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from mlflow.utils.search_logged_model_utils import parse_filter_string
from mlflow.utils.search_utils import (
    SearchEvaluationDatasetsUtils,
    SearchExperimentsUtils,
    SearchModelUtils,
    SearchModelVersionUtils,
    SearchUtils,
)

Comparisons = list[list[Any]]
Case = dict[str, Any]


def plain(value: Any) -> Any:
    """Return a value as the corpus spells it."""
    if isinstance(value, float) and math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return list(value) if isinstance(value, tuple) else value


def parsed_by(
    utils: type[SearchUtils], integers: frozenset[str] = frozenset()
) -> Callable[[str], Comparisons]:
    """Return a parser that gives the comparisons as MLflow's stores use them."""

    def parse(text: str) -> Comparisons:
        found = []
        for c in utils.parse_search_filter(text):
            value = c["value"]
            if c["type"] == "metric":
                value = float(value)
            elif c["type"] == "attribute" and c["key"] in integers:
                value = int(value)
            key = SearchUtils.translate_key_alias(c["key"])
            found.append([c["type"], key, c["comparator"].upper(), plain(value)])
        return found

    return parse


def parse_logged_models(text: str) -> Comparisons:
    words = {"attributes": "attribute", "metrics": "metric", "params": "parameter", "tags": "tag"}
    return [
        [words[c.entity.type.value], c.entity.key.removesuffix("_ms"), c.op, plain(c.value)]
        for c in parse_filter_string(text)
    ]


def direction(ascending: bool) -> str:
    return "ASC" if ascending else "DESC"


def ordered_by(parse: Callable[[str], tuple[Any, ...]]) -> Callable[[list[str]], Comparisons]:
    def order(clauses: list[str]) -> Comparisons:
        found = []
        for clause in clauses:
            *entity, key, ascending = parse(clause)
            key = SearchUtils.translate_key_alias(key)
            key = "last_updated_timestamp" if key == "timestamp" else key
            found.append([entity[0] if entity else "attribute", key, direction(ascending)])
        return found

    return order


def order_logged_models(fields: list[str]) -> Comparisons:
    aliases = {"creation_time": "creation_timestamp"}
    found = []
    for field in logged_model_order(fields):
        name = field["field_name"]
        entity, key = ("metric", name.split(".", 1)[1]) if "." in name else ("attribute", name)
        key = aliases.get(key, key) if entity == "attribute" else key
        if entity == "attribute":
            key = key.removesuffix("_ms")
        found.append([entity, key, direction(field["ascending"])])
    return found


def logged_model_order(fields: list[str]) -> list[dict[str, Any]]:
    return [
        {"field_name": f.removesuffix(" DESC"), "ascending": not f.endswith(" DESC")}
        for f in fields
    ]


class Reference:
    """MLflow with an empty database."""

    def __init__(self, directory: Path) -> None:
        uri = f"sqlite:///{directory / 'mlflow.db'}"
        tracking = TrackingStore(uri, str(directory / "artifacts"))
        registry = RegistryStore(uri)
        self.parse: dict[str, Callable[[str], Comparisons]] = {
            "runs": parsed_by(SearchUtils),
            "experiments": parsed_by(SearchExperimentsUtils),
            "registered_models": parsed_by(SearchModelUtils),
            "model_versions": parsed_by(SearchModelVersionUtils, frozenset({"version_number"})),
            "logged_models": parse_logged_models,
            "datasets": parsed_by(SearchEvaluationDatasetsUtils),
        }
        self.order: dict[str, Callable[[list[str]], Comparisons]] = {
            "runs": ordered_by(SearchUtils.parse_order_by_for_search_runs),
            "experiments": ordered_by(SearchExperimentsUtils.parse_order_by_for_search_experiments),
            "registered_models": ordered_by(
                SearchUtils.parse_order_by_for_search_registered_models
            ),
            "model_versions": ordered_by(
                SearchModelVersionUtils.parse_order_by_for_search_model_versions
            ),
            "logged_models": order_logged_models,
            "datasets": ordered_by(
                SearchEvaluationDatasetsUtils.parse_order_by_for_search_evaluation_datasets
            ),
        }
        self.search: dict[str, Callable[[str, list[str]], object]] = {
            "runs": lambda f, o: tracking.search_runs(["0"], f, ViewType.ALL, 1, o),
            "experiments": lambda f, o: tracking.search_experiments(
                max_results=1, filter_string=f, order_by=o
            ),
            "registered_models": lambda f, o: registry.search_registered_models(f, 1, o),
            "model_versions": lambda f, o: registry.search_model_versions(f, 1, o),
            "logged_models": lambda f, o: tracking.search_logged_models(
                ["0"], f, max_results=1, order_by=logged_model_order(o)
            ),
            "datasets": lambda f, o: tracking.search_datasets(
                filter_string=f, max_results=1, order_by=o
            ),
        }

    def answer(self, case: Case) -> tuple[Comparisons | None, str]:
        """Return MLflow's comparisons, or None and why it refuses."""
        kind, text, clauses = case["kind"], case.get("filter", ""), case.get("order", [])
        try:
            found = self.order[kind](clauses) if clauses else self.parse[kind](text)
            self.search[kind](text, clauses)
        except Exception as e:  # MLflow's internal errors are refusals too
            return None, f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"
        return found, ""


def main() -> int:
    default = Path(__file__).with_name("corpus.jsonl")
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if mlflow.__version__ != "3.18.0":
        print(f"this is mlflow {mlflow.__version__}, not 3.18.0", file=sys.stderr)
        return 2
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        reference = Reference(Path(directory))
        for number, line in enumerate(corpus.read_text(encoding="utf-8").splitlines(), start=1):
            case: Case = json.loads(line)
            theirs, message = reference.answer(case)
            ours = case.get("want")
            if theirs == ours:
                actual = "same"
            elif theirs is None:
                actual = "rejects"
            elif ours is None:
                actual = "accepts"
            else:
                actual = "differs"
            expected = case.get("mlflow", "same")
            counts[actual] += 1
            if actual != expected or (expected != "same") != bool(case.get("why")):
                wrong += 1
                print(json.dumps([number, actual, case, theirs, message], ensure_ascii=False))
    print(f"{counts.total()} cases, {wrong} wrong: {dict(counts)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
