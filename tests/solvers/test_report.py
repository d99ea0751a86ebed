"""Reports: text that fits a screen and holds the facts, data that survive JSON, a picture."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from kerngp.errors import BackendUnavailable
from kerngp.solvers import CG, Certificate, Cholesky, Dense, Note, Report, Solution, Status, identity, solve
from kerngp.solvers.report import WIDTH, explain, plot, to_dict


def made(**changes):
    s = Solution(
        x=torch.zeros(7, 2),
        status=Status.converged,
        iterations=12,
        residual_norms=torch.tensor([3e-7, 8e-7]),
        history=torch.logspace(0, -6, 13)[:, None].expand(13, 2),
        products=14,
        method="CG",
        report=Report(
            choice=(
                "n = 7, 2 right-hand sides: a product takes 3 s (measured).",
                "A race predicts:",
                "  Vecchia: 5",
            ),
            preconditioner="Vecchia, 40 neighbours",
            passes=14.2,
            seconds={"products": 3.0, "rows": 0.5, "total": 3.6},
            ritz=(0.5, 4.0),
            certificate=Certificate(torch.tensor([1e-3, 2e-3]), "bound"),
            attainable=1e-12,
            notes=(Note("SWITCHED", "something else went on."),),
            tol=1e-6,
        ),
    )
    return replace(s, **changes)


class TestText:
    def test_everything_known_is_said(self):
        text = explain(made())
        for part in (
            "converged: CG, 12 iterations",
            "8.0e-07 (asked: 1.0e-06), the largest of 2 columns",
            "a product takes 3 s",
            "Vecchia, 40 neighbours",
            "at most 2.0e-03 (proven)",
            "near 1.0e-12",
            "14.2 passes over the matrix, 3.6 s: products 3 s, rows 0.5 s",
            "from 0.5 to 4, condition number at least 8",
            "SWITCHED: something else went on.",
        ):
            assert part in " ".join(text.split()), part

    def test_one_screen(self):
        s = made()
        many = replace(
            s, report=replace(s.report, choice=("word " * 50,) * 3, notes=(Note("A", "b " * 90),) * 2)
        )
        lines = explain(many).splitlines()
        assert max(map(len, lines)) <= WIDTH and len(lines) < 40
        assert len(explain(s).splitlines()) <= 12

    def test_what_is_not_known_is_not_mentioned(self):
        text = explain(made(report=Report()))
        assert (
            text
            == "Outcome     converged: CG, 12 iterations, relative residual 8.0e-07, the largest of 2 columns"
        )

    def test_failures_come_with_a_remedy(self):
        text = " ".join(explain(made(status=Status.max_iter, detail="why")).split())
        assert "max_iter: CG" in text and "(why). The iterations ran out. Raise max_iter" in text

    def test_estimates_are_called_so(self):
        s = made()
        c = Certificate(torch.tensor([1e-3]), "estimate", "products were float32")
        text = explain(replace(s, report=replace(s.report, certificate=c, suggested_alpha=3.2e-3)))
        assert "(an estimate: products were float32)" in text and "adding 3.2e-03 to the diagonal" in text

    def test_str_and_repr(self):
        s = made()
        assert str(s) == explain(s) == s.explain()
        assert repr(s) == "Solution(CG: converged, 12 iterations, x of shape (7, 2))"
        assert "1 iteration," in repr(made(iterations=1))

    @pytest.mark.parametrize("kind", ["torch", "numpy", "vector", "nan", "empty", "zero"])
    def test_real_solutions(self, kind):
        A = Dense(torch.ones(5, 5).double(), psd=True) + identity(5)
        b = torch.ones(5, 2, dtype=torch.float64)
        b = {
            "numpy": b.numpy(),
            "vector": b[:, 0],
            "nan": b * torch.nan,
            "empty": b[:, :0],
            "zero": b * 0,
        }.get(kind, b)
        for method in (CG(), Cholesky(), "auto"):
            s = solve(A, b, method, on_fail="ignore")
            text = s.explain()
            assert text.startswith(f"Outcome     {s.status.name}")
            assert ("nan" in text) == (kind == "nan")
            json.dumps(s.to_dict(), allow_nan=False)


class TestData:
    def test_json(self):
        data = to_dict(made())
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert data["status"] == "converged" and data["converged"] is True
        assert data["passes"] == 14.2 and data["seconds"]["total"] == 3.6
        assert data["certificate"] == {"error": pytest.approx([1e-3, 2e-3]), "kind": "bound", "reason": ""}
        assert data["notes"] == [{"code": "SWITCHED", "text": "something else went on."}]
        assert len(data["history"]) == 13 and len(data["history"][0]) == 2
        assert "x" not in data

    def test_what_is_not_finite_becomes_none(self):
        data = to_dict(made(residual_norms=torch.tensor([torch.nan, torch.inf]), report=Report()))
        assert data["residual_norms"] == [None, None] and data["passes"] is None

    def test_every_field_of_the_report_is_there(self):
        from dataclasses import fields

        assert {f.name for f in fields(Report)} <= set(to_dict(made()))


class TestPicture:
    @pytest.fixture(autouse=True)
    def _no_window(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        yield
        import matplotlib.pyplot as plt

        plt.close("all")

    def test_columns_and_tolerance(self):
        ax = made().plot()
        lines = {line.get_label(): line for line in ax.get_lines()}
        torch.testing.assert_close(torch.tensor(lines["column 1"].get_ydata()).float(), made().history[:, 1])
        assert set(lines["tolerance"].get_ydata()) == {1e-6}
        assert ax.get_yscale() == "log" and "Vecchia" in ax.get_title()

    def test_given_axes_are_used(self):
        import matplotlib.pyplot as plt

        _, ax = plt.subplots()
        assert plot(made(), ax) is ax

    def test_zeros_and_many_columns(self):
        s = made(history=torch.zeros(3, 40), residual_norms=torch.zeros(40), report=Report())
        ax = s.plot()
        ax.figure.canvas.draw()
        assert len(ax.get_lines()) == 40 and ax.get_legend() is None

    def test_vectors_and_numpy(self):
        A = Dense(torch.ones(5, 5).double(), psd=True) + identity(5)
        s = solve(A, torch.arange(5.0).double().numpy(), CG())
        (line,) = [line for line in s.plot().get_lines() if len(line.get_xdata()) == len(s.history)]
        assert line.get_ydata()[0] == 1.0

    def test_missing_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(BackendUnavailable, match=r"pip install kerngp\[plot\]"):
            made().plot()
