"""Whether a server answers as the trained model does: ``ftplug verify DIR --served URL``.

Servers load adapters that fit badly, and answer as the base. The probe's prompts are asked, and the
answers compared with those that lie in the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftplug.artifacts.manifest import read_manifest
from ftplug.effect.probe import FILE, Probe
from ftplug.errors import ArtifactError
from ftplug_registry.verifying import by_continuation, by_log_probs
from ftplug_registry.verifying.completions import FORMS, Answer, Form, ask
from ftplug_registry.verifying.server import PATIENCE, Server, ServerError
from ftplug_registry.verifying.spelling import spelled_tokens

TRAINED = "trained"


@dataclass(frozen=True)
class Served:
    """What a server was found to answer: ``verdict`` is one of four, ``figures`` say how far.

    ``trained``, ``base`` (as without the adapter), ``neither``, or ``not decidable``: trained and
    base answer too much alike, or too few prompts could be asked.
    """

    model: str
    url: str
    verdict: str
    by: str
    prompts: int
    figures: str

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @property
    def line(self) -> str:
        """What was found, for people."""
        what = {
            TRAINED: "answers as the trained model",
            "base": "answers as the base, without the adapter",
            "neither": "answers neither as the trained model nor as the base",
        }.get(self.verdict, "answers so that it is not decidable which model it has")
        by = f"{self.by} of {self.prompts} prompts"
        return f"{self.url} serves {self.model!r:.80}: {what} ({by}: {self.figures})"


def served(directory: Path, url: str, model: str, *, patience: float = PATIENCE) -> Served:
    """Ask a server's ``model`` the prompts of an artifact's probe.

    ``patience`` is what one answer may take in seconds. A key is read from the environment variable
    ``FTPLUG_SERVER_KEY``. Raises :class:`ArtifactError` for an artifact without a probe of a
    language model, :class:`ServerError` where the server cannot be asked.
    """
    server = Server(url, patience)
    probe = _probe(directory)
    form, first = _form(server, model, probe, directory)
    judge = by_log_probs if form.log_probs else by_continuation
    asked = judge.asked(probe, ids=form.ids)
    answers: dict[int, Answer] = {}
    for index in asked:
        answer = first if index == asked[0] else ask(server, model, probe.inputs[index], form)
        if isinstance(answer, str):
            raise ServerError(f"{server} stopped to answer: {answer}")
        answers[index] = answer
    spelled = _spelled(directory, probe, answers) if form.log_probs else {}
    verdict, figures = judge.judged(probe, answers, spelled)
    return Served(model, str(server), verdict, judge.NAME, len(answers), figures)


def require_trained(found: Served, artifact: str) -> None:
    """Raise :class:`ArtifactError` where a server answers otherwise than the trained model."""
    if found.verdict != TRAINED:
        raise ArtifactError(f"{artifact}: {found.line}")


def _probe(directory: Path) -> Probe:
    manifest = read_manifest(directory, plugins=False)
    if FILE not in manifest.files:
        note = (getattr(manifest, "effect", None) or {}).get("note")
        raise ArtifactError(
            f"{directory}: it has no probe{f' ({note})' if note else ''}: there are no answers to "
            "compare a server's with; save it anew with this version of ftplug"
        )
    probe = Probe.read(directory / FILE)
    if not probe.token_ids or not by_log_probs.asked(probe, ids=True):
        raise ArtifactError(
            f"{directory}: its model does not continue a text: /v1/completions cannot be asked"
        )
    return probe


def _form(server: Server, model: str, probe: Probe, directory: Path) -> tuple[Form, Answer]:
    """Return the most telling form that the server takes, and its answer to the first prompt."""
    why = "nothing could be asked"
    for form in FORMS:
        judge = by_log_probs if form.log_probs else by_continuation
        if not (asked := judge.asked(probe, ids=form.ids)):
            continue
        answer = ask(server, model, probe.inputs[asked[0]], form)
        if isinstance(answer, str):
            why = answer
        elif form.log_probs and not _can_be_read(directory, probe, asked[0], answer):
            why = "it names tokens by their text, and the artifact has no tokenizer to read them"
        else:
            return form, answer
    raise ServerError(
        f"{server} takes the probe's prompts for {model!r:.80} neither as ids nor as text at "
        f"/v1/completions ({why}); a chat endpoint is not asked, its template changes prompts"
    )


def _can_be_read(directory: Path, probe: Probe, index: int, answer: Answer) -> bool:
    names_ids = any(isinstance(token, int) for token in answer.log_probs)
    return names_ids or bool(spelled_tokens(directory, probe.token_ids[index].tolist()))


def _spelled(directory: Path, probe: Probe, answers: Mapping[int, Answer]) -> Mapping[str, int]:
    """Return the ids of tokens by their text, where the server names them so."""
    if all(isinstance(token, int) for answer in answers.values() for token in answer.log_probs):
        return {}
    ids = {int(each) for index in answers for each in probe.token_ids[index]}
    return spelled_tokens(directory, sorted(ids))
