"""Which cells a comparison needs: rates first, then seeds of the best; a grid where asked."""

import dataclasses
from pathlib import Path

import fake_cells
import pytest

from ftplug.comparing.artifacts import kept
from ftplug.comparing.results import Cell
from ftplug.comparing.scheduling.budget import Budget, Durations
from ftplug.comparing.scheduling.planning import Plan, planned_rates
from ftplug.comparing.scheduling.schedule import Schedule

LOW, SUGGESTED, HIGH = 1e-4, 1e-3, 1e-2


def plan_of(*candidates, **options):
    comparison = fake_cells.comparison(Path("/work"), *candidates, **{"rates": None} | options)
    return Plan(comparison, planned_rates(comparison), fake_cells.choose, fake_cells.at_edge)


def told(cells):
    return [(cell.candidate, cell.lr, cell.seed) for cell in cells]


def run(plan, values, *, status=lambda cell: "finished"):
    """End all cells that a plan needs, in its order; return their results."""
    results = []
    while todo := plan.todo(results):
        cell = todo[0]
        results.append(fake_cells.result(cell, values(cell), status=status(cell)))
    assert len({result.cell for result in results}) == len(results)
    return results


def test_each_rate_once_then_the_seeds_of_the_best():
    plan = plan_of("lora", "bitfit", seeds=3)
    results = run(plan, lambda cell: 1.0 if cell.lr in (SUGGESTED, 3e-3) else 0.5)
    assert told(result.cell for result in results) == [
        ("lora", SUGGESTED, 0), ("bitfit", 3e-3, 0),
        ("lora", LOW, 0), ("bitfit", 1e-4, 0),
        ("lora", HIGH, 0), ("bitfit", 1e-2, 0),
        ("lora", SUGGESTED, 1), ("bitfit", 3e-3, 1),
        ("lora", SUGGESTED, 2), ("bitfit", 3e-3, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("best", "further"),
    [(SUGGESTED, None), (HIGH, 1e-1), (LOW, 1e-5)],
)
def test_a_best_rate_at_the_edge_has_one_step_beyond_it(best, further):
    plan = plan_of("lora", seeds=2)
    results = run(plan, lambda cell: 1.0 if cell.lr == best else 0.5)
    tried = [result.lr for result in results if result.seed == 0]
    assert tried[3:] == ([] if further is None else [pytest.approx(further)])
    assert [result.lr for result in results if result.seed == 1] == [best]


def test_the_step_beyond_is_taken_where_it_is_better_and_once():
    plan = plan_of("lora", seeds=2)
    results = run(plan, lambda cell: cell.lr)
    assert [result.lr for result in results] == [SUGGESTED, LOW, HIGH, 0.1, 0.1]


def test_a_rate_that_diverged_is_no_edge_to_go_beyond():
    plan = plan_of("lora", seeds=2)
    status = {HIGH: "diverged"}
    results = run(plan, lambda cell: cell.lr, status=lambda cell: status.get(cell.lr, "finished"))
    assert [result.lr for result in results] == [SUGGESTED, LOW, HIGH, SUGGESTED]


def test_a_candidate_of_which_nothing_finished_gets_no_seeds():
    plan = plan_of("lora", "bitfit", seeds=3)
    status = {"lora": "failed"}
    results = run(plan, lambda _: 0.5, status=lambda cell: status.get(cell.candidate, "finished"))
    assert {result.seed for result in results if result.candidate == "lora"} == {0}
    assert {result.seed for result in results if result.candidate == "bitfit"} == {0, 1, 2}


def test_where_nothing_is_suggested_the_scripts_rate_counts():
    results = run(plan_of("lora-plus", seeds=2, rates="suggested"), lambda _: 0.5)
    assert told(result.cell for result in results) == [
        ("lora-plus", None, 0), ("lora-plus", None, 1),
    ]  # fmt: skip


def test_a_list_of_rates_without_a_budget_is_a_grid():
    plan = plan_of("lora", "bitfit", rates=(3e-4, 1e-4), seeds=2)
    every = [
        (candidate, rate, seed)
        for seed in (0, 1)
        for candidate in ("lora", "bitfit")
        for rate in (3e-4, 1e-4)
    ]
    assert told(plan.todo([])) == every
    assert not any(map(plan.is_for_rates, plan.cells([])))


def test_with_a_budget_a_list_of_rates_is_searched():
    plan = plan_of("lora", rates=(3e-4, 1e-4), seeds=2, budget_minutes=10)
    assert told(plan.todo([])) == [("lora", 3e-4, 0), ("lora", 1e-4, 0)]
    assert all(map(plan.is_for_rates, plan.cells([])))
    results = run(plan, lambda cell: cell.lr)
    assert told(result.cell for result in results)[2:] == [("lora", 3e-4, 1)]  # and no further


@pytest.mark.parametrize("cut", range(11))
def test_the_plan_is_the_same_after_any_number_of_ended_cells(cut):
    plan = plan_of("lora", "bitfit", seeds=3)
    whole = run(plan, fake_cells.value_of)
    before, results = whole[:cut], whole[:cut]
    while todo := plan.todo(results):
        results.append(fake_cells.result(todo[0], fake_cells.value_of(todo[0])))
    assert results == whole
    assert results[:cut] == before


def test_more_seeds_and_candidates_leave_the_others_as_they_are():
    plan = plan_of("lora", seeds=2)
    results = run(plan, fake_cells.value_of)
    more = plan_of("bitfit", "lora", seeds=3)
    ended = {result.cell for result in results}
    assert ended <= set(more.cells(results))
    assert {cell.seed for cell in more.todo(results) if cell.candidate == "lora"} == {2}


def test_how_many_there_will_be_is_known_from_the_start():
    plan = plan_of("lora", "bitfit", seeds=3)
    assert plan.most([]) == len(run(plan, lambda cell: -abs(cell.lr - 2e-3)))


class Engine:
    """Takes seconds of its own clock for a cell."""

    def __init__(self, jobs=1, seconds=60.0, values=fake_cells.value_of):
        self.jobs, self.seconds, self.values = jobs, seconds, values
        self.now, self.running, self.pruning = 0.0, {}, []

    def start(self, cell, *, prunes):
        assert cell not in self.running
        self.running[cell] = self.now
        self.pruning += [cell] if prunes else []

    def look(self, seconds):
        self.now += seconds

    def ended(self):
        over = [c for c, since in self.running.items() if self.now - since >= self.seconds]
        return [self._ended(cell) for cell in over]

    def end(self, reason):
        return [self._ended(cell, status="pruned", reason=reason) for cell in list(self.running)]

    def since(self):
        return {cell: self.now - since for cell, since in self.running.items()}

    def _ended(self, cell, **facts):
        took = self.now - self.running.pop(cell)
        return fake_cells.result(cell, self.values(cell), seconds=took, **facts)


class Folder:
    """Keeps results in memory."""

    def __init__(self, comparison):
        self.comparison, self.results = comparison, []

    def append(self, result):
        self.results.append(result)

    def cell(self, cell):
        return Path("/nowhere") / cell.id


class Silent:
    def started(self, cell):
        pass

    def ended(self, result):
        pass

    def look(self, *_):
        pass


def scheduled(plan, engine, minutes=None):
    budget = Budget(minutes, 0.0, lambda: engine.now, engine.jobs) if minutes else None
    schedule = Schedule(Folder(plan.comparison), engine, plan, Silent(), budget)
    schedule.run()
    return schedule, schedule.folder.results


def test_without_a_budget_all_run_and_none_is_pruned():
    engine = Engine()
    schedule, results = scheduled(plan_of("lora", "bitfit", seeds=3), engine)
    assert schedule.left_out() == []
    assert engine.pruning == []
    assert {result.status for result in results} == {"finished"}


def test_jobs_run_at_the_same_time_and_end_with_the_same_cells():
    one, many = Engine(), Engine(jobs=4)
    alone = scheduled(plan_of("lora", "bitfit", seeds=3), one)[1]
    together = scheduled(plan_of("lora", "bitfit", seeds=3), many)[1]
    assert {result.cell for result in alone} == {result.cell for result in together}
    assert many.now < one.now / 2


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("minutes", [1, 3, 7, 12, 20, 60])
def test_a_budget_is_kept(minutes, jobs):
    plan = plan_of("lora", "bitfit", "ia3", seeds=3, budget_minutes=minutes)
    engine = Engine(jobs=jobs)
    schedule, _ = scheduled(plan, engine, minutes)
    assert engine.now <= minutes * 60
    needed = 3 * (3 + 2) * 60 / jobs
    assert bool(schedule.left_out()) == (needed > minutes * 60)
    assert {cell.seed for cell in engine.pruning} == {0}


def test_what_is_furthest_behind_gets_no_more_seeds():
    """Nine cells of rates leave time for eight of the twelve others."""
    plan = plan_of("lora", "bitfit", "ia3", seeds=5, baseline="lora", budget_minutes=18)
    values = {"lora": 0.1, "bitfit": 0.5, "ia3": 0.9}
    engine = Engine(seconds=58.0, values=lambda cell: values[cell.candidate])
    schedule, results = scheduled(plan, engine, 18)
    seeds = {name: {r.seed for r in results if r.candidate == name} for name in values}
    assert seeds == {"lora": set(range(5)), "bitfit": {0}, "ia3": set(range(5))}
    assert {cell.candidate for cell in schedule.left_out()} == {"bitfit"}


def test_rates_take_half_of_a_budget_at_most():
    plan = plan_of("lora", "bitfit", seeds=3, budget_minutes=8)
    _, results = scheduled(plan, Engine(), 8)
    assert sum(result.seed == 0 for result in results) == 4
    assert sum(result.seed > 0 for result in results) == 4


def test_a_cell_that_runs_at_the_limit_is_pruned():
    plan = plan_of("lora", seeds=2, budget_minutes=1)
    engine = Engine(seconds=90.0)
    _, [result] = scheduled(plan, engine, 1)
    assert (result.status, result.reason) == ("pruned", "the budget of 1 minutes had ended")
    assert engine.now == pytest.approx(60)


def test_a_cell_that_would_exceed_the_budget_is_not_started():
    plan = plan_of("lora", seeds=2, budget_minutes=2.5)
    engine = Engine()
    _, results = scheduled(plan, engine, 2.5)
    assert [result.status for result in results] == ["finished", "finished"]
    assert engine.now == pytest.approx(120)


def test_what_was_spent_before_counts():
    plan = plan_of("lora", seeds=2, budget_minutes=2.5)
    engine = Engine()
    schedule = Schedule(Folder(plan.comparison), engine, plan, Silent(), None)
    schedule.budget = Budget(2.5, 60.0, lambda: engine.now)
    schedule.run()
    assert engine.now == pytest.approx(60)


def test_durations_are_the_candidates_own_where_it_has_any():
    slow, quick = Cell("full", 1.0, 0), Cell("lora", 1.0, 0)
    took = Durations(
        [
            fake_cells.result(slow, seconds=10.0),
            fake_cells.result(quick, seconds=2.0),
            fake_cells.result(Cell("lora", 2.0, 0), seconds=0.1, status="pruned"),
        ]
    )
    assert (took.of(slow), took.of(quick)) == (10.0, 2.0)
    assert took.of(Cell("ia3", 1.0, 0)) == 6.0
    assert Durations([]).of(slow) == 0.0


def test_artifacts_stay_of_each_rate_until_one_is_chosen():
    plan = plan_of("lora", rates=(LOW, HIGH), seeds=2)
    results = [fake_cells.result(Cell("lora", rate, 0), rate) for rate in (LOW, HIGH)]
    assert kept(plan, results) == {Cell("lora", LOW, 0), Cell("lora", HIGH, 0)}
    results += [fake_cells.result(Cell("lora", rate, 1), rate) for rate in (LOW, HIGH)]
    assert kept(plan, results) == {Cell("lora", HIGH, 0)}
    results[1] = dataclasses.replace(results[1], status="failed")
    assert kept(plan, results) == {Cell("lora", HIGH, 1)}
