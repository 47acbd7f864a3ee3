"""The report in a browser: nothing to complain of, nothing fetched, readable on a phone."""

import browser
import comparisons
import pytest
from browser.pages import contrast

from ftplug.comparing.report import write_report


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    program = browser.found()
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(browser.NAMES)} is installed")
    directory = tmp_path_factory.mktemp("project") / "cmp"
    path = write_report(directory, *comparisons.written(directory))
    with browser.opened(program, tmp_path_factory.mktemp("profile")) as page:
        yield page, path


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_report_in_a_browser(opened, width, dark):
    page, path = opened
    page.open(path, width=width, dark=dark)
    page.value("document.querySelector('details').open = true")
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.beyond_the_edge(but=".scroll, pre, svg, thead") == []
    assert page.value("document.querySelectorAll('svg[role=img] title').length") == 5
    assert page.value("getComputedStyle(document.body).marginTop") == "0px"  # the style has passed
    pairs = page.colors()
    assert len(pairs) > 5
    for color, ground in pairs:
        assert contrast(color, ground) >= 4.5
    assert (contrast(pairs[0][1], "#000000") < 3) == dark
    smallest = page.value(
        "Math.min(...[...document.querySelectorAll('svg text')].map("
        "t => t.getBoundingClientRect().height))"
    )
    assert smallest >= 10  # pixels of a line
    assert page.complaints == []
    assert set(page.requests) == {path.as_uri()}
