"""The report in a browser: nothing to complain of, nothing fetched, readable on a phone."""

import browser
import comparisons
import pytest
from pages import contrast

from ftplug.comparing.report import write_report

# What text is drawn on is the first ground around it that is not transparent.
_COLORS = """
(() => {
  const found = [];
  for (const e of document.querySelectorAll('h1,h2,p,th,td,a,dt,dd,li,summary,caption,code,text')) {
    if (!e.checkVisibility() || !e.textContent.trim()) continue;
    let ground = e;
    while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
      ground = ground.parentElement;
    const style = getComputedStyle(e);
    found.push([e.tagName === 'text' ? style.fill : style.color,
                getComputedStyle(ground || document.documentElement).backgroundColor]);
  }
  return [...new Set(found.map(p => p.join(';')))];
})()
"""
_HIDDEN = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return e.checkVisibility() && box.right > innerWidth + 1
    && !e.closest('.scroll') && !e.closest('pre') && !e.closest('svg') && !e.closest('thead');
}).map(e => e.tagName)
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    program = browser.found()
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(browser.NAMES)} is installed")
    directory = tmp_path_factory.mktemp("project") / "cmp"
    path = write_report(directory, *comparisons.written(directory))
    with browser.opened(program, tmp_path_factory.mktemp("profile")) as page:
        yield page, path


def hexadecimal(color):
    numbers = color.removeprefix("rgb(").rstrip(")").split(",")
    return "#" + "".join(f"{int(number):02x}" for number in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_report_in_a_browser(opened, width, dark):
    page, path = opened
    page.open(path, width=width, dark=dark)
    page.value("document.querySelector('details').open = true")
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value(_HIDDEN) == []
    assert page.value("document.querySelectorAll('svg[role=img] title').length") == 5
    assert page.value("getComputedStyle(document.body).marginTop") == "0px"  # the style has passed
    pairs = [pair.split(";") for pair in page.value(_COLORS)]
    assert len(pairs) > 5
    for color, ground in pairs:
        assert contrast(hexadecimal(color), hexadecimal(ground)) >= 4.5
    assert (contrast(hexadecimal(pairs[0][1]), "#000000") < 3) == dark
    smallest = page.value(
        "Math.min(...[...document.querySelectorAll('svg text')].map("
        "t => t.getBoundingClientRect().height))"
    )
    assert smallest >= 10  # pixels of a line
    assert page.complaints == []
    assert set(page.requests) == {path.as_uri()}
