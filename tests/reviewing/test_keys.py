"""The review's page in a browser, with keys that are really pressed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import manifest_of
from local_pages import CHROMIUM, Browser

from headstart.config.data import SplitSettings
from headstart.data.corrections import FILE, read_corrections
from headstart.reviewing.local import ReviewServer
from headstart.reviewing.queue import Review
from headstart.run_folder import RunFolder

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
WRONG = 30


@pytest.fixture(params=[1200, 390])
def browser(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile", request.param)
    yield browser
    browser.close()


@pytest.fixture
def server(flat: Path, tmp_path: Path) -> Iterator[ReviewServer]:
    """Serves a review of WRONG labels to accept, to keep, or to leave out."""
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report" / "report.json").write_text(json.dumps({"label_issues": {"listed": WRONG}}))
    manifest = manifest_of(flat, SplitSettings(6, 3))
    paths = [path for split in manifest.splits.values() for path in split.paths][:WRONG]
    rows = [f"{rank},{path},train,x,green,0.1" for rank, path in enumerate(paths, 1)]
    (run / "report" / "suspicious.csv").write_text("\n".join(["rank,path,split,label,suggested,belief", *rows]))
    server = ReviewServer(Review(RunFolder(run), manifest, None, flat / FILE)).serve_in_thread()
    yield server
    server.close()


def decided(browser: Browser, count: int) -> None:
    browser.wait_for(f'document.getElementById("count").textContent.endsWith("; {count} decided")')


@pytest.mark.slow
def test_keys__review_without_a_mouse(browser: Browser, server: ReviewServer, flat: Path) -> None:
    browser.call("Page.enable")
    browser.call("Page.navigate", url=server.address)
    browser.wait_for('document.getElementById("count")?.textContent.startsWith("1 of 30")')
    expected: dict[str, tuple[str, str]] = {}
    suggested = 'document.getElementById("suggestion").textContent'
    for number in range(WRONG):
        path = browser.evaluate('document.getElementById("large").alt')
        action, label = ("relabel", "green") if browser.evaluate(suggested) else ("keep", "")
        if number == 3:
            action, label = "leave_out", ""
        if number == 5:
            action, label = "relabel", "red"
            for key in ("c", "r", "e", "Enter"):
                browser.press(key)
        else:
            browser.press({"relabel": "a", "keep": "k", "leave_out": "x"}[action])
        expected[path] = action, label
        decided(browser, number + 1)
        if number == 7:
            browser.press("u")
            decided(browser, number)
            browser.press("x")
            expected[path] = "leave_out", ""
            decided(browser, number + 1)
    assert {c.path: (c.action, c.label) for c in read_corrections(flat / FILE)} == expected
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
    assert browser.evaluate('document.getElementById("error").textContent') == ""
    browser.call("Page.reload")
    browser.wait_for('document.getElementById("count")?.textContent.endsWith("; 30 decided")')
