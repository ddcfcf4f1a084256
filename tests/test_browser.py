"""The browser of the tests: one that hangs is ended, and its test has one more try with another."""

from __future__ import annotations

import threading

from playwright.sync_api import Browser

from conftest import end_browsers

TRIES: list[str] = []


def test_a_browser_that_hangs_is_ended_and_another_one_answers(browser: Browser) -> None:
    TRIES.append("try")
    page = browser.new_page()
    if len(TRIES) == 1:
        threading.Timer(1, end_browsers).start()
        page.evaluate("new Promise(() => {})")  # for ever
    assert page.evaluate("1 + 1") == 2
    assert len(TRIES) == 2
