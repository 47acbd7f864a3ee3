"""The pages of a zoo: the list, one an artifact, the comparisons, quality against size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftplug.comparing.report import colors
from ftplug.comparing.report.published import Published
from ftplug_registry.card.compared import compared
from ftplug_registry.site import curves, groups, listing, loading, views
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.artifact import Artifact

_HERE = Path(__file__).parent
_TEMPLATES, _STYLE, _SCRIPT = _HERE / "templates", _HERE / "site.css", _HERE / "site.js"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_MOST_COMPARED = 100  # comparisons on one page


@dataclass(frozen=True)
class Site:
    """A zoo with the addresses of its pages; ``title`` is what the zoo is called."""

    artifacts: Sequence[Artifact]
    addresses: Addresses
    title: str

    def home(self) -> str:
        """Return the list of artifacts."""
        return self._rendered(
            "list",
            up=self._up(self.addresses.home),
            here="home",
            rows=[listing.row(one, self.addresses) for one in listing.newest_first(self.artifacts)],
            columns=listing.COLUMNS,
        )

    def comparisons(self) -> str:
        """Return what ``ftplug compare`` concluded of the artifacts that it chose."""
        found = [(one, beside) for one in self.artifacts if (beside := comparison_of(one))]
        return self._rendered(
            "comparisons",
            up=self._up(self.addresses.comparisons),
            here="comparisons",
            left_out=max(0, len(found) - _MOST_COMPARED),
            found=[
                (one, self.addresses.page(one.name), views.comparison(f"c{at}", beside))
                for at, (one, beside) in enumerate(found[:_MOST_COMPARED])
            ],
        )

    def bases(self) -> str:
        """Return the pictures of quality against size, one for each base, data and metric."""
        return self._rendered(
            "bases",
            up=self._up(self.addresses.bases),
            here="bases",
            groups=groups.pictured(self.artifacts, self.addresses),
        )

    def page(self, artifact: Artifact, address: str | None = None) -> str:
        """Return the page of an artifact; ``address`` if it is not the one that is listed."""
        known = address or self.addresses.pages[artifact.name]
        beside = comparison_of(artifact)
        return self._rendered(
            "artifact",
            up=self._up(known),
            here="",
            artifact=artifact,
            view=views.view(artifact),
            curves=curves.curves(artifact.facts),
            compared=views.comparison("compared", beside) if beside else None,
            snippets=loading.snippets(artifact),
        )

    def missing(self, address: str) -> str:
        """Return what is said where there is no page."""
        return self._rendered("missing", up=self._up(address), here="")

    def _up(self, address: str) -> str:
        """Return the way from a page to the root: relative, and of a server's pages absolute."""
        return "../" * address.count("/") if self.addresses.home else "/"

    def _rendered(self, template: str, **values: Any) -> str:
        text: str = (
            _environment()
            .get_template(f"{template}.html.jinja")
            .render(policy=POLICY, to=self.addresses, title=self.title, **values)
        )
        return text.lstrip()


def comparison_of(artifact: Artifact) -> Published | None:
    """Return the comparison that an artifact won, if its manifest holds one."""
    return compared(artifact.facts["training"]) if artifact.facts else None


@cache
def style() -> str:
    """Return the style sheet: the colours and the ground of a report, and what pages add."""
    from ftplug.comparing.report.page import STYLE

    ground = STYLE.read_text(encoding="utf-8")
    return colors.variables() + ground + _STYLE.read_text(encoding="utf-8")


@cache
def script() -> str:
    """Return the script: search and sort."""
    return _SCRIPT.read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
