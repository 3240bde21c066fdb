"""The text that Prometheus scrapes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from promptgps_client import PromptGPS

from tests.server import Server

DASHBOARD = (
    Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards" / "promptgps.json"
)


def test_metrics_parse_and_count_what_was_done(server: Server, client: PromptGPS) -> None:
    client.create_pool("scraped", embedding={"kind": "given", "dimension": 2})
    client.add_prompts("scraped", vectors=[[1.0, float(row)] for row in range(10)])
    client.create_run(name="scraped", pool="scraped", rollouts_per_prompt=4)
    batch = client.select_batch(run="scraped", sequence=0, batch_size=4)
    client.select_batch(run="scraped", sequence=0, batch_size=4)
    client.report_groups(
        run="scraped", draw_id=batch.draws.draw_id, successes=[1, 2, 3, 4], trials=[4] * 4
    )
    server.wait_trained("scraped")
    server.request("GET", "/runs/nobody")

    families = {family.name: family for family in text_string_to_metric_families(_scrape(server))}

    def value(name: str, **labels: str) -> float:
        samples = [s for family in families.values() for s in family.samples if s.name == name]
        (found,) = [s.value for s in samples if labels.items() <= s.labels.items()]
        return found

    assert value("promptgps_log_position", run="scraped") == 4
    assert value("promptgps_trained_through", run="scraped") == 4
    assert value("promptgps_model_version", run="scraped") >= 1
    assert value("promptgps_draws_total", run="scraped") == 4
    assert value("promptgps_selections_total", run="scraped") == 1
    assert value("promptgps_outcomes_total", run="scraped") == 4
    assert families["promptgps_request_seconds"].type == "histogram"
    asked = {"method": "POST", "route": "/select_batch", "status": "200"}
    assert value("promptgps_request_seconds_count", **asked) >= 2
    assert value("promptgps_request_seconds_bucket", **asked, le="+Inf") >= 2
    assert (
        value("promptgps_request_seconds_count", method="GET", route="/runs/{run}", status="404")
        >= 1
    )
    asked_for = set(re.findall(r"promptgps_\w+", " ".join(_queries())))
    assert asked_for <= {sample.name for family in families.values() for sample in family.samples}


def test_addresses_that_nobody_serves_do_not_each_make_a_series(server: Server) -> None:
    for number in range(5):
        server.request("GET", f"/nowhere/{number}")
    assert "/nowhere" not in _scrape(server)


def _queries() -> list[str]:
    """What the dashboard asks Prometheus."""
    return [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]


def _scrape(server: Server) -> str:
    answer = server.request("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text
