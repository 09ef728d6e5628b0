"""Fixtures of the tests in a real browser: one Chromium for a module's tests, one connection to it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser, Chromium, artifacts_folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium that the tests of a module share."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as process:
        yield process


@pytest.fixture
def browser(chromium: Chromium, tmp_path: Path) -> Browser:
    """The test's own connection and profiles; its pages end with it, and their uncaught errors fail it."""
    return Browser(chromium, artifacts_folder(tmp_path))
