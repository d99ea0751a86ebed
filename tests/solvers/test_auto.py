"""Choices: pure arithmetic on given numbers, races with known winners, forecasts that turn out wrong."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from kerngp import options
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.formulas import FORMULAS
from kerngp.errors import OptionError, ShapeError
from kerngp.solvers import CG, AddedDiagonal, Auto, Dense, KernelOperator, RPCholesky, Status, identity, solve
from kerngp.solvers.alternating import AlternatingProjection
from kerngp.solvers.askotch import ASkotch
from kerngp.solvers.auto import choose, decide, raceable, seconds_text
from kerngp.solvers.cost import (
    FAMILIES,
    LOW_RANK,
    NONE,
    SPARSE,
    Machine,
    Workload,
    cheapest,
    cholesky_fits,
    cholesky_seconds,
    extrapolate,
    forecasts,
    machine,
    predict,
    promising,
)
from kerngp.solvers.meter import metering
from kerngp.solvers.preconditioners import LowRankInverse
from kerngp.solvers.race import (
    SOON,
    Heat,
    growth,
    halved,
    iterations,
    lagging,
    race,
    rows_for,
    subsample,
)
from kerngp.solvers.switch import Direct, Switching, better

MACHINE = Machine(gemm=5e10, cholesky=2e10, small=2e9, stream=1e10)


def work(n=50_000, product=2.0, **changes):
    w = Workload(n=n, columns=1, itemsize=8, product=product, exact=product, memory=1 << 30, dimensions=3)
    return dataclasses.replace(w, **changes)


def kernel_system(n, D=3, alpha=1e-2, lengthscale=0.3, dtype=torch.float64, kernel="matern32"):
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(n, D, generator=g, dtype=torch.float64) / lengthscale).to(dtype)
    K = KernelOperator(FORMULAS[kernel](Vi(0, D), Vj(1, D)), (x, x), psd=True)
    b = torch.randn(n, 1, generator=g, dtype=torch.float64)
    return K + alpha * identity(n), b


class TestCost:
    def test_rates_of_this_machine_are_positive_and_measured_once(self):
        m = machine()
        assert all(math.isfinite(v) and v > 1e6 for v in dataclasses.astuple(m))
        assert machine() is m

    def test_cholesky_by_memory(self):
        assert cholesky_fits(work(n=11_000))
        assert not cholesky_fits(work(n=12_000))
        assert not cholesky_fits(work(n=11_000, batch=2))

    def test_cholesky_grows_with_the_cube(self):
        one, two = (cholesky_seconds(MACHINE, work(n=n, product=0.0)) for n in (50_000, 100_000))
        assert 7 < two / one < 8

    def test_setup_counts_and_iterations_count(self):
        p = predict(MACHINE, work(), LOW_RANK, 500, 100)
        assert p.setup > 500 * 50_000 * work().entry
        assert p.seconds == pytest.approx(p.setup + 100 * p.iteration + 3 * 2.0)
        assert predict(MACHINE, work(), NONE, 0, math.inf).seconds == math.inf

    def test_search_for_neighbours_is_dearer_without_a_tree(self):
        tree, whole = (SPARSE.setup(MACHINE, work(dimensions=d), 30) for d in (3, 50))
        assert whole > tree + 2 * 2.0 * 0.9
        assert SPARSE.setup(MACHINE, work(dimensions=None), 30) == whole

    @pytest.mark.parametrize(
        "measured, size, want",
        [
            ({100: 80.0, 400: 40.0}, 400, 40.0),
            ({100: 80.0, 400: 40.0}, 1600, 20.0),
            ({100: 80.0}, 400, 40.0),
            ({100: 80.0, 400: 80.0}, 1600, 80.0),
            ({100: 80.0, 400: 2.0}, 1600, 2.0),  # at most inversely, at least 2
            ({100: 10.0, 400: 20.0}, 1600, 20.0),  # more is never expected to be worse
            ({100: math.inf, 400: 20.0}, 1600, 10.0),
            ({}, 800, math.inf),
        ],
    )
    def test_extrapolation(self, measured, size, want):
        assert extrapolate(measured, size) == pytest.approx(want)

    def test_sizes_stay_within_memory_and_reach(self):
        sizes = [p.size for p in forecasts(MACHINE, work(), LOW_RANK, {100: 80.0, 300: 40.0})]
        assert min(sizes) == 100 and max(sizes) == 1000  # 1500 numbers a row would fill 600 MB
        tight = forecasts(MACHINE, work(memory=100 << 20), LOW_RANK, {100: 80.0, 300: 40.0})
        assert [p.size for p in tight] == [100]

    def test_best_of_each_family(self):
        ps = [predict(MACHINE, work(), LOW_RANK, k, i) for k, i in ((100, 90), (300, 40), (1000, 37))]
        ps += [predict(MACHINE, work(), NONE, 0, 45)]
        assert [p.size for p in cheapest(ps)] == [300, 0]
        cheap = [dataclasses.replace(p, setup=0.0) for p in ps]
        assert [p.size for p in cheapest(cheap)] == [1000, 0]

    def test_neighbours_come_first_in_few_dimensions_only(self):
        first = {d: promising(work(dimensions=d))[0] for d in (1, 3, 4, 100, None)}
        assert first == {1: SPARSE, 3: SPARSE, 4: LOW_RANK, 100: LOW_RANK, None: LOW_RANK}
        assert set(promising(work())) == set(FAMILIES)


def heats(**iterations):
    families = {"sparse": SPARSE, "low": LOW_RANK, "none": NONE}
    out = []
    for key, value in iterations.items():
        name, _, size = key.partition("_")
        failed = "it is singular" if value is None else ""
        out.append(
            Heat(families[name], int(size or 0), value or math.inf, (1.0, 1e-7), value is not None, failed)
        )
    return out


class TestDecision:
    def winner(self, w=None, factorise=math.inf, rows=50_000, **iterations):
        decision = decide(MACHINE, w or work(), heats(**iterations), rows, factorise)
        return decision.predictions[0].family.name if decision.predictions else "Cholesky"

    def test_fewest_iterations_win_when_products_are_dear(self):
        assert self.winner(sparse_15=8, sparse_40=5, low_100=200, low_300=100, none_0=400) == "Vecchia"
        assert self.winner(sparse_15=60, sparse_40=41, low_100=30, low_300=14, none_0=81) == "RPCholesky"

    def test_setup_decides_when_products_are_cheap(self):
        assert self.winner(work(product=0.01), sparse_15=8, low_100=20, none_0=25) == "no preconditioner"

    def test_cholesky_if_it_is_cheaper_than_any(self):
        assert self.winner(factorise=3.0, sparse_15=8, none_0=100) == "Cholesky"
        assert self.winner(factorise=300.0, sparse_15=8, none_0=100) == "Vecchia"

    def test_failures_are_out_and_say_why(self):
        decision = decide(MACHINE, work(), heats(sparse_15=None, low_100=None, none_0=50), 50_000)
        assert [p.name for p in decision.predictions] == ["no preconditioner"]
        assert any("it is singular" in line for line in decision.lines)

    def test_nothing_works(self):
        assert decide(MACHINE, work(), heats(none_0=None), 50_000).predictions == ()

    def test_sparse_factors_are_expected_to_need_more_at_full_size(self):
        full, half = (
            decide(MACHINE, work(), heats(sparse_15=10), rows).predictions[0].iterations
            for rows in (50_000, 500)
        )
        assert half == pytest.approx(full * 100**SPARSE.growth)

    def test_lines_hold_the_numbers(self):
        lines = decide(MACHINE, work(), heats(low_100=200, none_0=400), 50_000).lines
        assert any(line.startswith("no preconditioner: 400 iterations, 14 min") for line in lines)


class TestRace:
    def test_rows_follow_what_is_at_stake(self):
        assert rows_for(MACHINE, work(), 1e-3) == 500
        assert rows_for(MACHINE, work(), 1e6) == 3000
        assert rows_for(MACHINE, work(n=300), 1e6) == 300
        assert 500 < rows_for(MACHINE, work(), 2.0) < rows_for(MACHINE, work(), 10.0) < 3000

    def test_subsample_keeps_lambda(self):
        A, b = kernel_system(90)
        d = torch.linspace(1, 2, 90, dtype=torch.float64)
        A = AddedDiagonal(A.base, d)
        with metering() as meter:
            small, small_b = subsample(A, b, 30, 0)
        assert meter.entries["race"] == 900 and sum(meter.entries.values()) == 900
        picked = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:30].sort().values
        want = A.base.dense()[picked][:, picked] + torch.diag(d[picked] / 3)
        torch.testing.assert_close(small.dense(), want)
        torch.testing.assert_close(small_b, b[picked])

    def test_vecchia_wins_in_three_dimensions(self):
        A, b = kernel_system(400, alpha=1e-3, lengthscale=0.1)
        found = race(A, b, FAMILIES, MACHINE, work(), 1e-6, 60.0)
        best = min((h for h in found if h.finished), key=lambda h: h.iterations)
        assert best.family is SPARSE and best.iterations < 25
        assert next(h for h in found if h.family is NONE).iterations > 2 * best.iterations

    def test_the_hopeless_are_called_off_soon(self):
        A, b = kernel_system(400, alpha=1e-3, lengthscale=0.1)
        found = race(A, b, FAMILIES, MACHINE, work(), 1e-9, 60.0)
        plain = next(h for h in found if h.family is NONE)
        assert not plain.finished and len(plain.residuals) <= SOON + 1

    def test_those_called_off_late_count_like_those_who_finished(self):
        finished = Heat(LOW_RANK, 300, 40.0, finished=True)
        early, late = (Heat(LOW_RANK, 100, 150.0, far=far) for far in (False, True))
        assert iterations([finished, early]) == {300: 40.0}
        assert iterations([finished, late]) == {300: 40.0, 100: 150.0}

    def test_growth_is_measured_on_half_of_the_rows(self):
        A, b = kernel_system(400, alpha=1e-3, lengthscale=0.1)
        found = race(A, b, FAMILIES, MACHINE, work(), 1e-6, 60.0)
        sparse = [h for h in found if h.family is SPARSE]
        assert sparse and all(h.finished and 0 < h.half <= h.iterations for h in sparse)
        assert all(math.isnan(h.half) for h in found if h.family is not SPARSE)
        part, part_b = halved(A, b)
        assert part.shape == (200, 200) and len(part_b) == 200
        torch.testing.assert_close(part.base.dense(), A.base.dense()[::2, ::2])
        assert torch.equal(part.values.expand(200), (0.5 * A.values).expand(400)[::2])

    def test_growth_stays_within_what_was_seen(self):
        assert growth(SPARSE, [Heat(SPARSE, 15, 40.0)]) == SPARSE.growth
        assert growth(SPARSE, [Heat(SPARSE, 15, 40.0, half=10.0)]) == 0.7
        assert growth(SPARSE, [Heat(SPARSE, 15, 40.0, half=41.0)]) == 0.2
        assert growth(SPARSE, [Heat(SPARSE, 15, 32.0, half=22.627417)]) == pytest.approx(0.5)

    def test_a_race_with_all_rows_has_nothing_to_grow(self):
        A, b = kernel_system(100)
        assert all(math.isnan(h.half) for h in race(A, b, FAMILIES, MACHINE, work(n=150), 1e-6, 60.0))

    def test_iterations_of_the_finished_count_alone_if_there_are_any(self):
        done, cut = Heat(LOW_RANK, 100, 50.0, (1.0, 1e-7), True), Heat(LOW_RANK, 30, 900.0, (1.0, 0.1))
        assert iterations([done, cut]) == {100: 50.0}
        assert iterations([cut]) == {30: 900.0}
        assert iterations([dataclasses.replace(cut, failed="singular")]) == {}

    def test_the_hopeless_are_called_off(self):
        A, b = kernel_system(400, alpha=1e-3, lengthscale=0.1)
        none = next(h for h in race(A, b, FAMILIES, MACHINE, work(), 1e-6, 60.0) if h.family is NONE)
        alone = CG().run(A, b)
        assert not none.finished and len(none.residuals) < alone.iterations / 2

    def test_stored_products_are_not_counted_but_timed(self):
        A, b = kernel_system(100)
        with metering() as meter:
            race(A, b, FAMILIES, MACHINE, work(), 1e-6, 60.0)
        assert set(meter.entries) == {"race"} and meter.entries["race"] == 0 and meter.seconds["race"] > 0

    def test_no_diagonal_no_low_rank(self):
        x = torch.rand(60, 1, dtype=torch.float64)
        K = Dense(torch.exp(-(x - x.T).abs()), psd=True)
        found = race(K, x, FAMILIES, MACHINE, work(), 1e-6, 60.0)
        assert "alpha" in next(h for h in found if h.family is LOW_RANK).failed

    def test_lagging(self):
        fast = tuple(10.0**-k for k in range(13))
        good = [10.0**-k for k in range(13)]
        assert not lagging(good, fast, 1.0)
        assert not lagging([1.0] * 9, fast, 1.0)  # too early to tell
        assert lagging([1.0] * 11, fast, 1.0)
        assert lagging([10 ** (-0.4 * k) for k in range(12)], fast, 1.0)
        assert not lagging([10 ** (-0.6 * k) for k in range(12)], fast, 1.0)
        assert not lagging([1.0] * 11, fast, 20.0)  # nothing was due yet
        assert not lagging([1.0] * 11, (), 1.0)
        assert not lagging([*good[:6], 1.0, 1.0, 1.0, 1.0, 1.0], fast, 1.0)  # a rise after a fall is no lag


class TestChoice:
    def test_tiny_systems_are_factorised_without_measuring(self):
        A, b = kernel_system(60)
        with metering() as meter:
            choice = choose(A, b)
        assert isinstance(choice.method, Direct) and meter.entries == {}
        assert "measuring" in choice.lines[0]

    @pytest.mark.parametrize("n", [1, 2, 31, 300])
    def test_solves(self, n):
        A, b = kernel_system(n)
        s = solve(A, b)
        assert s.status is Status.converged and s.report.choice
        torch.testing.assert_close(s.x, torch.linalg.solve(A.dense(), b), rtol=1e-6, atol=1e-6)

    def test_a_race_decides_about_larger_ones(self):
        A, b = kernel_system(1500, alpha=1e-2, lengthscale=0.2)
        with options.options(memory_limit=1 << 24):  # no Cholesky
            choice = choose(A, b)
        assert isinstance(choice.method, Switching) and choice.predictions
        text = "\n".join(choice.lines)
        assert "memory_limit" in text and "race on" in text and choice.predictions[0].name in text
        s = choice.method.run(A, b, preconditioner=choice.preconditioner)
        assert s.status is Status.converged

    def test_everything_is_counted(self):
        A, b = kernel_system(1500)
        with options.options(memory_limit=1 << 24):
            s = solve(A, b)
        assert s.report.passes >= s.products + 2 + 500**2 / 1500**2
        assert s.report.seconds["race"] > 0 and s.report.seconds["total"] >= s.report.seconds["race"]
        assert s.report.tol == 1e-6

    def test_no_diagonal(self):
        A, b = kernel_system(700)
        with options.options(memory_limit=1 << 21):
            s = solve(A.base, A.base @ b)
        assert s.status is Status.converged

    def test_singular_systems_with_a_solution_are_solved_all_the_same(self):
        Q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0][:, :20]
        A = Dense(Q @ Q.T, psd=True)
        b = Q @ torch.randn(20, 1, dtype=torch.float64)
        s = solve(A, b)
        assert s.status is Status.converged
        assert [n.code for n in s.report.notes] == ["CHOLESKY_FAILED"]
        torch.testing.assert_close(A @ s.x, b)

    def test_indefinite_matrices_end_as_such(self):
        A = Dense(torch.diag(torch.tensor([1.0, 2.0, -1.0])).double(), symmetric=True)
        s = solve(A, torch.ones(3).double(), on_fail="ignore")
        assert s.status is Status.indefinite

    @pytest.mark.parametrize("b", [torch.zeros(600, 1), torch.full((600, 1), torch.nan)])
    def test_nothing_to_choose(self, b):
        A, _ = kernel_system(600)
        with metering() as meter:
            choice = choose(A, b.double())
        assert isinstance(choice.method, CG) and meter.entries == {}
        status = solve(A, b.double(), on_fail="ignore").status
        assert status is (Status.converged if bool((b == 0).all()) else Status.nan)

    def test_a_given_preconditioner_is_used(self):
        A, b = kernel_system(300)
        s = solve(A, b, preconditioner=RPCholesky(30))
        assert s.method == "CG" and "30" in s.report.preconditioner
        assert solve(A, b, preconditioner="none").method == "CG"

    def test_preconditioner_auto_for_cg(self):
        A, b = kernel_system(300, alpha=1e-4, lengthscale=0.1)
        plain = solve(A, b, CG(max_iter=3000))
        chosen = solve(A, b, CG(max_iter=3000), preconditioner="auto")
        assert chosen.method == "CG" and chosen.status is Status.converged
        assert any("race on" in line for line in chosen.report.choice) and plain.report.choice == ()
        assert not any("Cholesky would" in line for line in chosen.report.choice)

    def test_batches(self):
        M = torch.randn(3, 40, 40, dtype=torch.float64)
        A = Dense(M @ M.mT + torch.eye(40).double(), psd=True)
        b = torch.randn(3, 40, 2, dtype=torch.float64)
        torch.testing.assert_close(solve(A, b).x, torch.linalg.solve(A.dense(), b), rtol=1e-5, atol=1e-6)
        assert not raceable(A)

    def test_expensive_entries_do_not_race(self):
        A, b = kernel_system(700)
        P = A @ A + identity(700)
        assert raceable(A) and not raceable(P)
        with options.options(memory_limit=1 << 21):
            choice = choose(P, b)
        assert isinstance(choice.method, CG) and any("entries are expensive" in s for s in choice.lines)

    def test_unsymmetric_operators_are_refused(self):
        with pytest.raises(ShapeError, match="normal equations"):
            solve(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(2))
        with pytest.raises(ShapeError, match="square"):
            choose(Dense(torch.ones(2, 3)), torch.ones(3, 1))

    @pytest.mark.parametrize("change", [{"tol": 0.0}, {"max_iter": -1}, {"time_limit": -1.0}])
    def test_bad_limits(self, change):
        with pytest.raises(OptionError):
            Auto(**change)

    def test_the_time_limit_holds_for_the_choice_as_well(self):
        A, b = kernel_system(1500, alpha=1e-10, lengthscale=3.0)
        with options.options(memory_limit=1 << 24):
            s = solve(A, b, time_limit=1e-3, on_fail="ignore")
        assert s.status is Status.time_limit

    def test_too_little_time_for_conjugate_gradients(self):
        A, b = kernel_system(1500, alpha=1e-10, lengthscale=3.0)
        with options.options(memory_limit=1 << 24):
            choice = choose(A, b, CG(tol=1e-9, time_limit=1e-3))
        assert isinstance(choice.method, (AlternatingProjection, ASkotch))
        assert choice.method.tol == 1e-9 and choice.method.time_limit == 0.0
        assert any("too few for conjugate gradients" in line for line in choice.lines)

    def test_float32(self):
        A, b = kernel_system(700, dtype=torch.float32)
        with options.options(memory_limit=1 << 21):
            s = solve(A, b)
        assert s.status is Status.converged and s.x.dtype == torch.float64

    def test_gradients_do_not_choose_again(self):
        A, b = kernel_system(700, alpha=0.1)
        b.requires_grad_()
        phases = []
        with options.options(memory_limit=1 << 21):
            s = solve(A, b, callback=lambda p: phases.append(p.phase) and None)
            before = len(phases)
            (g,) = torch.autograd.grad(s.x.sum(), b)
        assert phases.count("race of preconditioners") == 1 and len(phases) == before
        torch.testing.assert_close(g, torch.linalg.solve(A.dense(), torch.ones_like(b)), rtol=1e-4, atol=1e-4)


class TestSwitching:
    """A forecast of 5 iterations for a preconditioner that is none."""

    expected = tuple(10.0**-k for k in range(7))

    def run(self, others, n=400):
        A, b = kernel_system(n, alpha=1e-3, lengthscale=0.1)
        chosen = predict(MACHINE, work(), NONE, 0, 6)
        return Switching(CG(), chosen, self.expected, others).run(A, b), A, b

    def test_a_wrong_forecast_is_noticed(self):
        s, A, b = self.run((predict(MACHINE, work(), SPARSE, 20, 8),))
        assert s.status is Status.converged
        assert [n.code for n in s.report.notes] == ["SWITCHED"] and "Vecchia" in s.report.notes[0].text
        assert s.iterations < CG().run(A, b).iterations
        assert s.history.shape[0] == s.iterations + 1
        assert "Vecchia" in s.extra["preconditioner"].description
        torch.testing.assert_close(s.x, torch.linalg.solve(A.dense(), b), rtol=1e-3, atol=1e-3)

    def test_no_change_without_something_better(self):
        s, *_ = self.run((predict(MACHINE, work(), LOW_RANK, 20, 1e6),))
        assert s.status is Status.converged and s.report.notes == ()

    def test_a_right_forecast_is_left_alone(self):
        A, b = kernel_system(300, alpha=1.0)
        iterations = CG().run(A, b).iterations
        expected = tuple(float(r) for r in CG().run(A, b).history[:, 0])
        chosen = predict(MACHINE, work(), NONE, 0, iterations)
        s = Switching(CG(), chosen, expected, (predict(MACHINE, work(), SPARSE, 20, 1),)).run(A, b)
        assert s.report.notes == () and s.iterations == iterations

    def test_the_callers_stop_is_no_change(self):
        A, b = kernel_system(300, alpha=1e-3, lengthscale=0.1)
        plan = Switching(CG(), predict(MACHINE, work(), NONE, 0, 6), self.expected,
                         (predict(MACHINE, work(), SPARSE, 20, 8),))  # fmt: skip
        s = plan.run(A, b, callback=lambda p: p.iteration == 3)
        assert s.status is Status.stopped and s.iterations == 3 and s.report.notes == ()

    def test_what_is_better(self):
        chosen = predict(MACHINE, work(), NONE, 0, 10)
        slow = [10 ** (-0.1 * k) for k in range(11)]  # 50 more iterations of 2 s
        assert better(chosen, [predict(MACHINE, work(), LOW_RANK, 100, 20)], slow, 1e-6) is not None
        assert better(chosen, [predict(MACHINE, work(), LOW_RANK, 100, 60)], slow, 1e-6) is None
        assert better(chosen, [], slow, 1e-6) is None
        stuck = better(chosen, [predict(MACHINE, work(), LOW_RANK, 100, 1e4)], [1.0] * 11, 1e-6)
        assert stuck is not None

    def test_gradients_begin_where_the_solve_ended(self):
        A, b = kernel_system(400, alpha=1e-3, lengthscale=0.1)
        plan = Switching(CG(), predict(MACHINE, work(), NONE, 0, 6), self.expected,
                         (predict(MACHINE, work(), LOW_RANK, 200, 8),))  # fmt: skip
        b.requires_grad_()
        s = solve(A, b, plan)
        assert isinstance(s.extra["preconditioner"], LowRankInverse)
        with metering() as meter:
            torch.autograd.grad(s.x.sum(), b)
        assert meter.entries["products"] / 400**2 < s.products - 10


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0123, "12 ms"),
        (1.5, "1.5 s"),
        (75.0, "75 s"),
        (600.0, "10 min"),
        (7200.0, "2 h"),
        (math.inf, "forever"),
    ],
)
def test_times_for_people(seconds, text):
    assert seconds_text(seconds) == text
