"""``dcnlab study modulation|sharing|groups``: the ablations of the InternImage paper's Table 6, at the size of digits.

`run` trains, measures, and writes the record; `write_pages` makes figures and page from a record alone.
"""

from dcnlab.study.ablation.page import write_pages
from dcnlab.study.ablation.program import run
from dcnlab.study.ablation.studies import STUDIES
from dcnlab.study.ablation.verdicts import verdicts

__all__ = ["STUDIES", "run", "verdicts", "write_pages"]
