"""Tests that the report of a sweep claims no more than its intervals show."""

from o2o.commands.sweep.report import best, verdict
from o2o.commands.sweep.search import Outcome

BEST = Outcome(3, "complete", 0.9, {"critic.expectile": "0.9"})


def compared(success, success_95, reached=0.0, return_95=(-1.0, 1.0)) -> dict:
    difference = {"seeds": 3, "success": success, "success_95": success_95}
    return {"difference": {**difference, "return": reached, "return_95": return_95}}


def test_the_best_is_the_first_of_the_highest_complete_trials():
    outcomes = [Outcome(0, "complete", 0.5, {}), Outcome(1, "pruned", None, {}), BEST,
                Outcome(4, "complete", 0.9, {}), Outcome(5, "running", None, {})]  # fmt: skip
    assert best(outcomes) is BEST and best(outcomes[1:2]) is None


def test_an_interval_above_zero_is_better():
    said = verdict("small", BEST, compared(0.12, (0.03, 0.21)))
    assert said == (
        "Trial 3 (--critic.expectile 0.9) is better than small itself: success 12 % higher [3 %, 21 %], "
        "3 further seeds."
    )


def test_an_interval_that_holds_zero_is_not():
    said = verdict("small", BEST, compared(0.02, (-0.05, 0.09), 3.0, (1.0, 5.0)))
    assert "is not shown to be better than small itself: success 2 % higher [-5 %, 9 %]" in said
    assert "is not shown to be better" in verdict("small", BEST, compared(-0.2, (-0.3, -0.1)))


def test_return_decides_where_success_never_differs():
    assert "is better than small itself: return 3 higher [1, 5]" in verdict(
        "small", BEST, compared(0.0, (0.0, 0.0), 3.0, (1.0, 5.0))
    )
    assert "is not shown to be better" in verdict("small", BEST, compared(0.0, (0.0, 0.0)))


def test_nothing_is_claimed_without_a_comparison():
    assert verdict("small", None, None) == "No trial is complete."
    assert verdict("small", Outcome(0, "complete", 1.0, {}), None) == "No trial was better than small itself."
    assert "was not compared on further seeds" in verdict("small", BEST, None)
