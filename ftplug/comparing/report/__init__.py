"""How a comparison is shown: ``report.html`` and its pictures, a table, the winner's card.

Reading order: ``texts`` (strings of strangers, numbers), ``facts`` (a row a candidate), ``answer``
(the conclusion in a sentence), ``figures`` and ``page``; ``writing`` puts them into the folder.
"""

from ftplug.comparing.report.writing import write_report

__all__ = ["write_report"]
