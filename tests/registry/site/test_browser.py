"""The site in a browser: search, sort, phone width; nothing to complain of, nothing fetched."""

import browser
import pytest
import zoos
from browser.pages import contrast
from ftplug_registry.site.collecting import collect
from ftplug_registry.site.writing import write_site

_VISIBLE = "[...document.querySelectorAll('#artifacts tbody tr')].filter(r => r.checkVisibility())"
_TYPE = """
(() => {
  const box = document.getElementById('search');
  box.value = %r;
  box.dispatchEvent(new Event('input', {bubbles: true}));
})()
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    program = browser.found()
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(browser.NAMES)} is installed")
    root = zoos.zoo(tmp_path_factory.mktemp("zoo"), 200)
    beside = zoos.manifest(method="vera", training={"comparison": zoos.COMPARISON})
    deep = f"\n{'> ' * 15}deep\n\n{'- ' * 15}deep\n\n{'word' * 200}\n"
    zoos.artifact(root / "lab" / "evil", beside, zoos.HOSTILE_CARD + deep)
    site = write_site(collect([str(root)]), tmp_path_factory.mktemp("out") / "site", "Zoo").folder
    with browser.opened(program, tmp_path_factory.mktemp("profile")) as page:
        yield page, site


def column(page, at):
    return page.value(f"{_VISIBLE}.map(r => r.cells[{at}].dataset.key ?? r.cells[{at}].innerText)")


@pytest.mark.slow
def test_search_and_sort(opened):
    page, site = opened
    page.open(site / "index.html", width=1280, dark=False)
    assert page.value(f"{_VISIBLE}.length") == 201
    assert page.value("document.getElementById('count').textContent") == "201 of 201 artifacts"
    for text in ("b", "bi", "bitfit", "bitfit distil", "vera"):
        page.value(_TYPE % text)
    assert page.value(f"{_VISIBLE}.length") == 1
    assert page.value("document.getElementById('count').textContent") == "1 of 201 artifacts"
    page.value(_TYPE % "")
    click = "document.querySelectorAll('#artifacts thead button')[4].click()"
    page.value(click)
    up = [float(value) for value in column(page, 4)]
    assert up == sorted(up)
    sorts = "[...document.querySelectorAll('#artifacts th[aria-sort]')].map(h => h.ariaSort)"
    assert page.value(sorts) == ["ascending"]
    page.value(click)
    assert [float(value) for value in column(page, 4)] == up[::-1]
    assert page.value(sorts) == ["descending"]
    page.value("document.querySelectorAll('#artifacts thead button')[0].click()")
    names = column(page, 0)
    assert names == sorted(names)
    assert page.value("document.querySelector('label[for=search]').textContent.length > 5")
    sizes = "[...document.querySelectorAll('th button')].map(b => b.getBoundingClientRect().height)"
    assert min(page.value(sizes)) >= 24  # pixels: WCAG 2.2, 2.5.8
    assert page.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize(
    "name", ["index.html", "artifacts/lab--evil.html", "comparisons.html", "bases.html"]
)
def test_a_page_is_readable_and_asks_for_nothing(opened, name, width, dark):
    page, site = opened
    page.requests.clear()
    page.open(site / name, width=width, dark=dark)
    page.value("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.beyond_the_edge(but=".scroll, pre, svg") == []
    assert page.value("getComputedStyle(document.body).marginTop") == "0px"  # the style has passed
    for color, ground in page.colors():
        assert contrast(color, ground) >= 4.5
    assert page.value("document.title") not in ("owned", "gone")
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert (site / name).as_uri() in page.requests
