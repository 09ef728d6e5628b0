"""Dashboard and alert rules: Prometheus takes them, they ask only for what is there, and every alert says what to do."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from presence.archive.numbers import Numbers
from presence.metrics import Metrics
from tests.support.documents import DOCS, anchors, section
from tests.support.monitoring import (
    RULE_TESTS,
    RULES,
    expressions,
    grouped_by,
    panels,
    promtool,
    rules,
    selectors,
)
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async

TARGET = {"job", "instance", "le"}  # what Prometheus itself adds, and the edges of histograms


def families() -> list[Metric]:
    """What nodes and workers of the archive show."""
    pages = [Metrics().render()[0].decode(), generate_latest(Numbers().registry).decode()]
    return [family for page in pages for family in text_string_to_metric_families(page)]


def known_labels() -> dict[str, dict[str, set[str]]]:
    """Every series name with its labels and their values."""
    known: dict[str, dict[str, set[str]]] = {"up": {}}
    for family in families():
        for sample in family.samples:
            labels = known.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return known


@run_async
async def test_promtool_has_nothing_against_the_metrics_of_a_node_that_has_worked(stage: Stage) -> None:
    alice = await stage.member("websocket", stage.a, "alice")
    await alice.publish(stage.channel, "note", 1)

    assert promtool("check", "metrics", text=(await stage.probe("/metrics")).body.decode()) == ""


@run_async
async def test_a_node_shows_that_it_is_ready_and_how_its_redis_is(stage: Stage) -> None:
    shown = await _plain(stage)

    assert shown["presence_ready"] == 1
    assert shown["presence_redis_memory_bytes"] > 0
    assert shown["presence_redis_seconds_count"] > 0
    assert shown["presence_connections_max"] == 10_000
    assert shown["presence_feed_max"] == 1_000_000


@run_async
async def test_a_node_shows_that_its_redis_may_lose_members_and_how_full_it_is(
    fresh_redis: RedisServer, own_stage: StageMaker
) -> None:
    fresh_redis.client().config_set("maxmemory", 256 << 20)
    fresh_redis.client().config_set("maxmemory-policy", "allkeys-lru")
    stage = own_stage(nodes=1)

    async def shown() -> bool:
        now = await _plain(stage)
        return (now["presence_ready"], now["presence_redis_memory_max_bytes"]) == (0, 256 << 20)

    await eventually(shown)
    answer = await stage.probe("/readyz")
    assert (answer.status, answer.json()["no_eviction"]) == (503, False)


def test_the_alert_rules_are_rules() -> None:
    promtool("check", "rules", RULES)


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", RULE_TESTS)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = {
        (re.findall(r'alertname="(\w+)"', check["expr"])[0], bool(check["exp_samples"]))
        for case in yaml.safe_load(RULE_TESTS.read_text("utf-8"))["tests"]
        for check in case["promql_expr_test"]
    }

    assert cases == {(rule["alert"], fires) for rule in rules() for fires in (True, False)}


def test_every_alert_says_how_urgent_it_is_what_it_is_and_where_to_read_on() -> None:
    headings = anchors(DOCS / "operations.md")

    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket", "info"), rule
        assert {"summary", "description", "page"} == rule["annotations"].keys(), rule
        page, _, anchor = rule["annotations"]["page"].partition("#")
        assert page == "operations.md", rule
        assert anchor in headings, rule


def test_every_section_about_an_alert_is_named_by_one() -> None:
    explained = set(re.findall(r"^### (.+)$", section(DOCS / "operations.md", "Alarms"), re.MULTILINE))

    named = {rule["annotations"]["page"].partition("#")[2] for rule in rules()}
    assert {heading.lower().replace(" ", "-") for heading in explained} == named


def test_rules_and_dashboard_ask_only_for_metrics_and_labels_that_are_there() -> None:
    known = known_labels()
    every_label = {label for labels in known.values() for label in labels} | TARGET

    for expression in [*expressions(), *(rule["expr"] for rule in rules())]:
        asked = list(selectors(expression))
        assert asked, expression
        assert grouped_by(expression) <= every_label, expression
        for selector in asked:
            assert selector.name in known, f"{selector.name} of {expression}"
            assert selector.others <= known[selector.name].keys() | TARGET, expression
            for label, value in selector.labels.items():
                there = known[selector.name].get(label, {value} if label in TARGET else set())
                assert value in there, f"{label}={value} of {expression}"


def test_every_metric_of_the_server_is_in_a_panel() -> None:
    shown = {selector.name for expression in expressions() for selector in selectors(expression)}

    of_node = [f for f in text_string_to_metric_families(Metrics().render()[0].decode()) if f.name[:9] == "presence_"]
    assert not [family.name for family in of_node if not {sample.name for sample in family.samples} & shown]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict) -> None:
    if panel["type"] == "row":
        assert panel["title"] in ("How many", "How late", "How lossy", "How full", "Is Redis well")
        return
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        assert '{job=~"$job",instance=~"$instance"' in target["expr"], "a panel of chosen nodes"


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )

    assert max(taken.values()) == 1
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_question_of_the_dashboard_has_an_answer_once_nodes_are_scraped(tmp_path: Path) -> None:
    cases = [
        {
            "expr": f"clamp_max(count(({question}) >= 0), 1)",
            "eval_time": "20m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for question in expressions()
    ]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"tests": [{"interval": "1m", "input_series": _scraped(), "promql_expr_test": cases}]})
    )

    promtool("test", "rules", tmp_path / "test.yml")


async def _plain(stage: Stage) -> dict[str, float]:
    """The samples without labels that a node shows now."""
    page = (await stage.probe("/metrics")).body.decode()
    return {s.name: s.value for f in text_string_to_metric_families(page) for s in f.samples if not s.labels}


def _scraped() -> list[dict[str, str]]:
    """Half an hour of a node at work: counters grow, gauges stand."""
    series = []
    for family in families():
        values = "1x30" if family.type == "gauge" else "0+7x30"
        for sample in family.samples:
            labels = {**sample.labels, "job": "presence", "instance": "127.0.0.1:8080"}
            text = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            series.append({"series": f"{sample.name}{{{text}}}", "values": values})
    return series
