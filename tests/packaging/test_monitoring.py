"""The dashboard and the alerts ask for metrics that there are."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
MONITORING = REPO / "packaging/monitoring"
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=Path(sys.executable).parent)
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def known_metrics():
    rows = re.findall(r"^\| `(kelp\w+)` \| (\w+) \|", (REPO / "docs/metrics.md").read_text(), re.MULTILINE)
    return {name + part for name, kind in rows for part in (HISTOGRAM_PARTS if kind == "histogram" else ("",))}


def dashboard_queries():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yaml"])
def test_every_metric_that_is_asked_for_exists(file):
    asked = set(re.findall(r"\b(kelp(?:fs|d)_\w+)", (MONITORING / file).read_text()))
    assert asked and asked - known_metrics() == set()


def test_no_two_panels_of_the_dashboard_overlap():
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    taken = [(x, y) for panel in panels for g in [panel["gridPos"]]
             for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]
    assert len(taken) == len(set(taken)) and max(x for x, _ in taken) < 24


@pytest.mark.skipif(not PROMTOOL, reason="no promtool: scripts/setup gets it")
def test_promtool_accepts_the_alerts_and_the_queries(tmp_path):
    variables = {"$__rate_interval": "1m", "$instance": ".*"}
    rules = []
    for number, query in enumerate(dashboard_queries()):
        for name, value in variables.items():
            query = query.replace(name, value)
        rules.append({"record": f"query{number}", "expr": query})
    queries = tmp_path / "queries.yaml"  # JSON is YAML
    queries.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for file in (MONITORING / "alerts.yaml", queries):
        done = subprocess.run([PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
