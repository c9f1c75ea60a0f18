"""Searching runs, over a dozen of them that differ in every searchable way."""

import mlflow
import pytest
from conformance import covers
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType

from support import Api, unique

COUNT = 12


@pytest.fixture(scope="module")
def runs(server: str) -> tuple[str, list[str]]:
    """An experiment and its runs, in the order they were created. Run 0 has no metrics."""
    client = MlflowClient(server)
    experiment = str(client.create_experiment(unique("search")))
    ids = []
    for i in range(COUNT):
        run = client.create_run(experiment, start_time=1000 + i, run_name=f"run-{i:02}").info.run_id
        losses = [Metric("loss", -1.0, 1, 0), Metric("loss", i / 10, 2, 1)]
        client.log_batch(
            run,
            metrics=[*losses, Metric("one", 1.0, 1, 0)] if i else [],
            params=[Param("depth", str(i)), Param("kind", "even" if i % 2 == 0 else "odd")],
            tags=[RunTag("owner", "Ada" if i < 6 else "bob"), RunTag("odd key/x", str(i))],
        )
        if i % 3 == 0:
            client.set_terminated(run, "FINISHED", end_time=2000 + i)
        ids.append(run)
    return experiment, ids


def found(client: MlflowClient, runs: tuple[str, list[str]], **options: object) -> list[int]:
    """The numbers of the runs that a search finds, in its order."""
    page: list[Run] = client.search_runs([runs[0]], **options)  # type: ignore[arg-type]
    return [runs[1].index(r.info.run_id) for r in page]


ALL = list(range(COUNT))


@covers("search-order")
@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        (None, ALL[::-1]),
        (["start_time ASC"], ALL),
        (["attributes.start_time DESC"], ALL[::-1]),
        (["metrics.loss ASC"], [*ALL[1:], 0]),
        (["metrics.loss DESC"], [*ALL[:0:-1], 0]),
        (["metric.one", "attribute.start_time"], [*ALL[1:], 0]),
        (["params.kind", "metrics.loss DESC"], [10, 8, 6, 4, 2, 0, 11, 9, 7, 5, 3, 1]),
        (["tags.owner DESC", "start_time"], [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]),
        (["attributes.run_name DESC"], ALL[::-1]),
        (["end_time DESC", "start_time ASC"], [9, 6, 3, 0, 1, 2, 4, 5, 7, 8, 10, 11]),
    ],
)
def test_order(
    client: MlflowClient,
    runs: tuple[str, list[str]],
    order_by: list[str] | None,
    expected: list[int],
) -> None:
    assert found(client, runs, order_by=order_by) == expected


@covers("search-grammar", "search-missing")
@pytest.mark.parametrize(
    ("filter_string", "expected"),
    [
        ("", ALL),
        ("metrics.loss > 0.75", [8, 9, 10, 11]),
        ("metrics.loss >= 0.5 and metrics.loss < 0.7", [5, 6]),
        ("metrics.loss <= 0.1", [1]),
        ("metrics.loss = 0.3", [3]),
        ("metrics.loss != 0.3", [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("metrics.nothing != 0.3", []),
        ("params.kind = 'even'", [0, 2, 4, 6, 8, 10]),
        ("params.kind != 'even'", [1, 3, 5, 7, 9, 11]),
        ('params.depth = "7"', [7]),
        ("params.depth = '07'", []),
        ("tags.owner = 'Ada'", [0, 1, 2, 3, 4, 5]),
        ("tags.owner = 'ada'", []),
        ("tags.`odd key/x` = '4'", [4]),
        ("params.kind = 'odd' AND tags.owner = 'bob' AND metrics.loss > 0.8", [9, 11]),
        ("attributes.status = 'FINISHED'", [0, 3, 6, 9]),
        ("status != 'FINISHED'", [1, 2, 4, 5, 7, 8, 10, 11]),
        ("attributes.run_name = 'run-05'", [5]),
        ("run_name = 'run-05'", [5]),
        ("tags.`mlflow.runName` = 'run-05'", [5]),
        ("attributes.start_time >= 1010", [10, 11]),
        ("attributes.start_time < 1002", [0, 1]),
    ],
)
def test_filter(
    client: MlflowClient, runs: tuple[str, list[str]], filter_string: str, expected: list[int]
) -> None:
    order = ["start_time ASC"]
    assert found(client, runs, filter_string=filter_string, order_by=order) == expected


def test_filter_by_run_id(client: MlflowClient, runs: tuple[str, list[str]]) -> None:
    assert found(client, runs, filter_string=f"attributes.run_id = '{runs[1][4]}'") == [4]


@covers("search-paging")
@pytest.mark.parametrize("size", [1, 5, 7, 12, 100])
def test_pages_join_to_the_whole(
    client: MlflowClient, runs: tuple[str, list[str]], size: int
) -> None:
    seen: list[int] = []
    token = None
    while True:
        page = client.search_runs(
            [runs[0]], order_by=["metrics.loss DESC"], max_results=size, page_token=token
        )
        assert len(page) <= size
        seen += [runs[1].index(r.info.run_id) for r in page]
        token = page.token
        if not token:
            break
    assert seen == [*ALL[:0:-1], 0]


def test_found_runs_are_whole(client: MlflowClient, runs: tuple[str, list[str]]) -> None:
    (run,) = client.search_runs([runs[0]], filter_string="params.depth = '6'")
    assert run.to_dictionary() == client.get_run(runs[1][6]).to_dictionary()
    assert run.data.metrics == {"loss": 0.6, "one": 1.0}
    assert run.data.params == {"depth": "6", "kind": "even"}
    assert run.data.tags["owner"] == "bob"


def test_as_a_table(server: str, runs: tuple[str, list[str]]) -> None:
    mlflow.set_tracking_uri(server)
    table = mlflow.search_runs([runs[0]], order_by=["metrics.loss DESC"], max_results=3)
    assert list(table["run_id"]) == [runs[1][i] for i in (11, 10, 9)]
    assert list(table["metrics.loss"]) == [1.1, 1.0, 0.9]
    assert list(table["params.kind"]) == ["odd", "even", "odd"]


@covers("search-view-type")
def test_view_type(client: MlflowClient, experiment: str) -> None:
    kept, gone = (client.create_run(experiment).info.run_id for _ in range(2))
    client.delete_run(gone)

    def ids(view: int) -> set[str]:
        return {r.info.run_id for r in client.search_runs([experiment], run_view_type=view)}

    assert ids(ViewType.ACTIVE_ONLY) == {kept}
    assert ids(ViewType.DELETED_ONLY) == {gone}
    assert ids(ViewType.ALL) == {kept, gone}


@covers("json-absent-fields")
def test_nothing_to_search_is_empty(api: Api) -> None:
    assert api.post("runs/search", experiment_ids=["987654321"]) == {}
    assert api.post("runs/search") == {}
