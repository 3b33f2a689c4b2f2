"""The Ray dashboard in a real browser: the documented token opens it, replicas come and go, their logs are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.serving import TOLLAMA, Server, wait_for

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync")
PATIENCE_MS = 60_000
"""The page looks at the cluster every few seconds."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the dashboard, whose families go at once."""
    home = tmp_path_factory.mktemp("shown")
    with Server(home, [str(TOLLAMA), "serve"], TOLLAMA_FAMILY_LINGER="1") as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser.new_page()
        browser.close()


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))


def test_the_dashboard_shows_the_graph_to_whoever_has_the_token(shown: Server, page: Page) -> None:
    address = json.loads((shown.home / "run/ray.json").read_text())["dashboard"]
    assert f"http://{address}" in shown.out.read_text(), "it is told at the start"
    command = [str(TOLLAMA), "info", "--dashboard-token"]
    asked = subprocess.run(command, env=shown.environment, capture_output=True, text=True, check=True)
    page.goto(f"http://{address}/#/serve")
    token = page.get_by_placeholder("Enter your authentication token")
    token.fill("another")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Invalid authentication token")).to_be_visible(timeout=PATIENCE_MS)
    token.fill(asked.stdout.strip())
    page.get_by_role("button", name="Submit").click()
    expect(row(page, "ingress")).to_contain_text("HEALTHY", timeout=PATIENCE_MS)
    for family in ("mock", "baseline", "torch", "timesfm", "uni2ts"):
        expect(row(page, family)).to_contain_text("HEALTHY")

    assert shown.forecast(keep_alive="10m").status_code == 200
    page.goto(f"http://{address}/#/serve/applications/tollama/mock")
    replica = page.get_by_role("row").filter(has_text="RUNNING")
    expect(replica).to_have_count(1, timeout=PATIENCE_MS)
    expect(page.get_by_text("model mock loaded")).to_be_visible(timeout=PATIENCE_MS)

    shown.post("/v1/models/mock/unload", {})
    wait_for(lambda: not shown.processes("ServeReplica:tollama:mock"), 30, "the end of the family's process")
    expect(replica).to_have_count(0, timeout=PATIENCE_MS)
    page.goto(f"http://{address}/#/serve")
    expect(row(page, "ingress")).to_contain_text(re.compile(r"HEALTHY\D+1\D"), timeout=PATIENCE_MS)
