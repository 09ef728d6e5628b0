"""The browser of the tests is a real one: windows are seen, covered tabs are not, and errors of pages are failures."""

from __future__ import annotations

import pytest

from tests.support.browser import Browser
from tests.support.node import Node
from tests.support.waiting import eventually, run_async


@run_async
async def test_windows_are_visible_and_a_covered_tab_is_hidden(browser: Browser, two_nodes: list[Node]) -> None:
    page = f"{two_nodes[0].url}/healthz"
    first, second = await browser.open(page), await browser.open(page)
    assert [await one.run("document.visibilityState") for one in (first, second)] == ["visible", "visible"]

    await browser.open(page, beside=True)

    await eventually(lambda: second.run("document.visibilityState === 'hidden'"), what="the covered tab is hidden")
    assert await first.run("document.visibilityState") == "visible"


@run_async
async def test_an_uncaught_error_of_a_page_is_a_failure(browser: Browser, two_nodes: list[Node]) -> None:
    page = await browser.open(f"{two_nodes[0].url}/healthz")

    await page.run("() => { setTimeout(() => { throw new Error('lost') }); }")

    await eventually(lambda: page.errors, what="the error is noticed")
    with pytest.raises(AssertionError, match="lost"):
        browser.verify()
    page.errors.clear()
