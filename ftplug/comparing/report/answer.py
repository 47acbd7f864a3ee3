"""The answer of a comparison in a sentence, and what its verdicts mean."""

from __future__ import annotations

from ftplug.comparing.report import texts
from ftplug.comparing.report.texts import NAME, clean
from ftplug.comparing.summary import Judged, Summary


def answer(summary: Summary) -> str:
    """Return which candidate is best and how sure that is, in one sentence."""
    best = next((c for c in summary.candidates if c.candidate == summary.best), None)
    if best is None:
        return "No answer: no candidate finished."
    name, against = clean(best.candidate, NAME), clean(summary.baseline, NAME)
    at = f" at learning rate {texts.rate(best.lr)}" if best.lr is not None else ""
    mean = f"{metric_name(summary)} {texts.number(best.mean)}"
    # Rates and the winner are chosen there: on the test set another one may stand higher.
    first = " on the evaluation set" if summary.set == "test" else ""
    where = " on the test set" if first else ""
    if best.verdict == "baseline":
        others = _the_others(summary)
        return f"Best{first}: {name}, the baseline{at} ({mean}{where}): {others}."
    how_sure = f"{_difference(best)}{_seeds(best)}"
    if best.verdict == "better":
        return f"Best: {name}{at} ({mean}), better than {against}: {how_sure}."
    if best.verdict == "equivalent":
        return f"{name}{at} ({mean}) is as good as {against} within ±{summary.delta:g}: {how_sure}."
    if best.verdict == "worse":
        return f"{name}{at} ({mean}) is chosen, but worse than {against}: {how_sure}."
    why = "; ".join(open_because(best))
    more = f"; {why}" if why and best.difference is not None else ""
    return (
        f"Not decided: {name}{at} comes first{first} ({mean}{where}), but whether it is better "
        f"than {against} is open: {how_sure}{more}."
    )


def open_because(judged: Judged) -> list[str]:
    """Return why a verdict is no decision, and what would decide it."""
    said = [clean(judged.reason)] if judged.reason else []
    if judged.more_seeds and not any("more seed" in text for text in said):
        said.append(f"about {judged.more_seeds} more seeds would decide it")
    return said


def metric_name(summary: Summary) -> str:
    """Return the metric as people say it."""
    return clean(summary.metric or "metric", 40).replace("_", " ")


def direction(summary: Summary) -> str:
    """Say whether more of the metric is better, and what says otherwise."""
    word, other = ("more", "less") if summary.greater_is_better else ("less", "more")
    return f"of {metric_name(summary)} {word} is taken as better: --{other}-is-better if not"


def measured_on(summary: Summary) -> str:
    """Say on which data the report is, and whether rates were chosen on them too."""
    if summary.set is None:
        return ""
    if summary.set == "test":
        return "Measured on the test set; rates were chosen on the evaluation set."
    return "Measured on the evaluation set, on which rates and epochs are chosen as well."


def _the_others(summary: Summary) -> str:
    others = [c.verdict for c in summary.candidates if c.candidate != summary.best]
    counts = [(others.count(word), texts.WORDS[word]) for word in ("equivalent", "worse")]
    counts += [(others.count(word), texts.WORDS[word]) for word in ("not_decided", "failed")]
    said = ", ".join(f"{count} {word}" for count, word in counts if count)
    if "better" in others:
        return said or "see the table"
    return f"no other is better ({said})" if said else "nothing else was tried"


def _difference(judged: Judged) -> str:
    if judged.difference is None:
        return clean(judged.reason or "no difference was measured")
    said = texts.signed(judged.difference)
    if judged.interval:
        said += f", 95\N{NO-BREAK SPACE}% interval {texts.interval(judged.interval)}"
    return said + (f", adjusted p {_p(judged.p)}" if judged.p is not None else "")


def _p(p: float) -> str:
    text = texts.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _seeds(judged: Judged) -> str:
    count = judged.paired_seeds or len(judged.seeds)
    return f", {count} seed{'s' * (count != 1)}" if count else ""


def meanings(delta: float) -> list[tuple[str, str]]:
    """Return what each verdict means."""
    return [
        (
            "better, worse",
            "The adjusted p is below 0.05 and the 95 % interval of the difference lies wholly "
            "above or below 0. With one seed nothing is called better or worse.",
        ),
        (
            "equivalent",
            f"The 90 % interval of the difference lies within ±{delta:g}: whatever "
            "difference there is, it is smaller than what was said to matter.",
        ),
        (
            "not decided",
            "Neither: the data and seeds at hand cannot tell. It does not mean that there is no "
            "difference.",
        ),
        ("baseline", "What the others are compared with."),
        ("failed", "No cell of it finished; the reason stands beside it."),
    ]
