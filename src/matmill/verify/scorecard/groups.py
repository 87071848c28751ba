"""The groups of metrics of a scorecard, in the order of the table. A new one is one line here.

A group is a function of the `Subject` that returns `Findings`: numbers about the set, columns
about its crystals, and notes on what was left out. Expensive facts are on the subject, found once.
"""

from collections.abc import Callable

from matmill.verify.scorecard.checks import checks
from matmill.verify.scorecard.coverage import coverage
from matmill.verify.scorecard.distributions import distributions
from matmill.verify.scorecard.diversity import diversity
from matmill.verify.scorecard.ensemble import ensemble
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.novelty import novelty
from matmill.verify.scorecard.prediction import prediction
from matmill.verify.scorecard.stability import stability
from matmill.verify.scorecard.subject import Subject
from matmill.verify.scorecard.symmetry import symmetry
from matmill.verify.scorecard.targets import targets
from matmill.verify.scorecard.vsun import vsun

Group = Callable[[Subject], Findings]

GROUPS: tuple[tuple[str, Group], ...] = (
    ("Validity", checks),
    ("Symmetry", symmetry),
    ("Uniqueness and novelty", novelty),
    ("Distributions", distributions),
    ("Diversity", diversity),
    ("Coverage", coverage),
    ("Stability", stability),
    ("Several potentials", ensemble),
    ("Validity, stability, uniqueness and novelty as degrees", vsun),
    ("Targets", targets),
    ("Structure prediction", prediction),
)
