"""What a run of `evaluate` leaves below its own folder, beside the scores.

Tested in tests/stages/evaluation/test_evaluate.py and tests/stages/evaluation/test_run_judges.py.
"""

from __future__ import annotations

STAGE = "evaluate"
ANSWERS = "answers"  # one artifact per policy
TO_JUDGE = "to_judge"  # all policies' answers as one
JUDGED = "judged"  # one artifact per judge of answers
MATCHES = "matches"  # policies' answers against each other
GAMES = "games"  # one artifact per judge of matches
