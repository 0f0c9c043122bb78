"""Tests that processes share the trials of a sweep, and that none is lost or run twice."""

import pytest

from o2o.commands.sweep.search import JOURNAL, Search
from o2o.commands.sweep.space import Parameter
from o2o.core.errors import UsageError

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
SPACE = [Parameter("penalty", low=0.0, high=20.0), Parameter("expectile", choices=("0.7", "0.9")),
         Parameter("horizon", low=2, high=6, whole=True),
         Parameter("rate", low=1e-4, high=1e-2, log=True)]  # fmt: skip


def test_two_processes_do_the_trials_once_each(tmp_path):
    searches = [Search(tmp_path, SPACE, 6, 0) for _ in range(2)]
    done = []
    while True:
        with searches[0].trial() as one, searches[1].trial() as other:
            if one is None and other is None:
                break
            for claim in (one, other):
                if claim:
                    done.append((claim.number, claim.values))
                    claim.complete(float(claim.number))
    assert [number for number, _ in done] == list(range(6))
    assert done[0][1] == {} and len({tuple(values.items()) for _, values in done}) == 6
    for _, values in done[1:]:
        assert list(values) == ["penalty", "expectile", "horizon", "rate"]
        assert 0 <= float(values["penalty"]) <= 20 and values["expectile"] in ("0.7", "0.9")
        assert int(values["horizon"]) in range(2, 7) and 1e-4 <= float(values["rate"]) <= 1e-2
    outcomes = Search(tmp_path, SPACE, 6, 0).outcomes()
    assert [(one.state, one.value, one.values) for one in outcomes] == [
        ("complete", float(number), values) for number, values in done
    ]


def test_a_trial_of_a_killed_process_is_continued_with_its_values(tmp_path):
    first = Search(tmp_path, SPACE, 2, 0)
    with first.trial() as claim:
        claim.complete(0.0)
    with first.trial() as claim:  # ends without a result, and its lock is released, as after kill -9
        number, values = claim.number, claim.values
        with Search(tmp_path, SPACE, 2, 0).trial() as other:
            assert other is None  # it is locked
    with Search(tmp_path, SPACE, 2, 0).trial() as claim:
        assert (claim.number, claim.values) == (number, values) == (1, values)
        claim.end("fail")
    with first.trial() as claim:
        assert claim is None
    assert [one.state for one in first.outcomes()] == ["complete", "fail"]


def test_a_trial_that_learns_worse_than_the_median_is_pruned(tmp_path):
    search = Search(tmp_path, SPACE, 7, 0)
    for value in (0.5, 0.6, 0.7, 0.8):
        with search.trial() as claim:
            assert not claim.should_prune([]) and not claim.should_prune([value])
            assert not claim.should_prune([value, value])
            claim.complete(value)
    with search.trial() as claim:
        assert not claim.should_prune([0.9])
        claim.complete(0.9)
    with search.trial() as claim:
        assert claim.should_prune([0.1])
        claim.end("pruned")
    assert search.outcomes()[-1].state == "pruned" and search.outcomes()[-1].value is None


def test_more_trials_can_be_added(tmp_path):
    for num_trials, expected in ((1, [0]), (3, [1, 2])):
        search, numbers = Search(tmp_path, SPACE, num_trials, 0), []
        for _ in range(4):
            with search.trial() as claim:
                if claim:
                    numbers.append(claim.number)
                    claim.complete(0.0)
        assert numbers == expected


@pytest.mark.parametrize("text", ["{]\n{}\n", "[]\n", '{"op_code": 99}\n'])
def test_a_damaged_journal_is_one_line(tmp_path, text):
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(UsageError, match=r"journal.log is damaged, or no journal of Optuna"):
        Search(tmp_path, SPACE, 2, 0)
