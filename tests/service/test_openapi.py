"""The service keeps to its own description: requests drawn from it by Schemathesis."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
schemathesis = pytest.importorskip("schemathesis", reason="needs Schemathesis, of the extra dev")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    negative_data_rejection,
    positive_data_acceptance,
)

from emorec import EmoRec  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.service.app import Settings, create_app  # noqa: E402
from tests.service.test_page import served  # noqa: E402
from tests.small import small_config  # noqa: E402

MODES = schemathesis.GenerationMode
OPERATIONS = (
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "POST /events",
    "GET /users/{user}/recommendations",
    "POST /recommendations",
    "GET /users/{user}/history",
    "GET /users/{user}/explanations/{item}",
    "DELETE /users/{user}",
    "GET /items/{item}/similar",
    "GET /model",
    "POST /model",
    "POST /model/rollback",
)
REFUSE = (  # that can be asked wrongly
    "POST /events",
    "GET /users/{user}/recommendations",
    "POST /recommendations",
    "GET /users/{user}/history",
    "GET /users/{user}/explanations/{item}",
    "GET /items/{item}/similar",
    "POST /model",
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    log = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
    config = small_config("training.epochs=1", preset="emorec")
    EmoRec(config=config).fit(log, progress=False).save(folder / "run")
    with served(create_app(Settings(folder / "run", f"sqlite:///{folder / 'events.db'}"))) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_all_operations_are_described(schema):
    found = [each.ok() for each in schema.get_all_operations()]
    assert sorted(f"{each.method.upper()} {each.path}" for each in found) == sorted(OPERATIONS)
    for each in found:
        answers = each.definition.raw["responses"]
        for status in ("4XX", "5XX"):
            assert list(answers[status]["content"]) == ["application/problem+json"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, MODES.POSITIVE) for name in OPERATIONS] + [(name, MODES.NEGATIVE) for name in REFUSE],
)
def test_answers_are_as_described(schema, name, mode):
    method, path = name.split()

    @settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call()
        if answer.content == b"Invalid HTTP request received.":
            return  # of uvicorn, which reads no address of more than 64 KB
        # Valid is not all: an event has either feedback or behaviour, a candidate must be known.
        excluded = [positive_data_acceptance]
        # Schemathesis does not count 413 among the refusals, and an array of one value is that
        # value in an address.
        if answer.status_code == 413 or method == "GET":
            excluded.append(negative_data_rejection)
        case.validate_response(answer, excluded_checks=excluded)

    ask()
