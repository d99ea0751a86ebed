"""``python -m kerngp``: what it reports, what it refuses; and the compiler used where NVRTC is missing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kerngp.__main__ import main
from kerngp.engine.backends import cuda, headers, nvrtc
from kerngp.errors import BackendUnavailable
from kerngp.install import pycuda_wheel
from kerngp.install.doctor import report


def test_doctor_reports_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    text, healthy = report()
    assert healthy, text
    lines = {line[5:24].strip(): line for line in text.splitlines()}
    parts = "python,torch,cpu backend,cache of binaries,GPU,NVRTC,PyCUDA and driver,cuda backend"
    assert list(lines) == parts.split(",")
    assert lines["cpu backend"].startswith("ok") and "vectors of" in lines["cpu backend"]
    if not torch.cuda.is_available():
        assert lines["GPU"].startswith("none") and "formulas run on the CPU" in lines["GPU"]
    assert main(["doctor"]) == 0
    assert "cpu backend" in capsys.readouterr().out


def test_doctor_fails_where_the_cpu_backend_does(monkeypatch) -> None:
    from kerngp.errors import KerngpError
    from kerngp.install import doctor

    def broken(place: str, backend: str) -> None:
        raise KerngpError("a sum came out wrong")

    monkeypatch.setattr(doctor, "_try", broken)
    text, healthy = report()
    assert not healthy and "FAIL cpu backend        a sum came out wrong" in text


def test_the_command_line_needs_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kerngp"], capture_output=True, text=True)
    assert done.returncode == 2 and "doctor" in done.stderr and "install-cuda" in done.stderr


def test_a_missing_compiler_is_named(monkeypatch, capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    monkeypatch.setenv("KERNGP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert main(["install-cuda"]) == 1
    assert "gcc and g++ not found; install a C++ compiler" in capsys.readouterr().err


def test_a_failing_step_is_told_with_its_output() -> None:
    with pytest.raises(pycuda_wheel.InstallError, match="looking failed .*\n.*No such file"):
        pycuda_wheel._run(["ls", "/nowhere/at/all"], "looking")


def test_the_wheel_built_here_is_kept_and_reused(monkeypatch, tmp_path) -> None:
    """A second call installs the wheel of the first; nothing is compiled."""
    monkeypatch.setenv("KERNGP_CACHE_DIR", str(tmp_path))
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    built, installed = [], []

    def build(store: Path, jobs: int) -> Path:
        built.append(jobs)
        store.mkdir()
        wheel = store / f"pycuda-{pycuda_wheel.VERSION}-{tag}-{tag}-linux.whl"
        wheel.touch()
        return wheel

    monkeypatch.setattr(pycuda_wheel, "build_wheel", build)
    monkeypatch.setattr(pycuda_wheel, "_pip", lambda *a, **k: installed.append(a[-1]))
    for _ in range(2):
        assert "is installed" in pycuda_wheel.install_pycuda(jobs=1)
    assert built == [1] and len(installed) == 2


def test_headers_that_are_nowhere() -> None:
    with pytest.raises(BackendUnavailable, match="no_such.h not found.*nvidia-cuda-runtime.*CUDA_HOME"):
        headers.find(("no_such.h",))


# ---------------------------------------------------------------- nvcc in place of NVRTC


@pytest.fixture
def no_nvrtc(monkeypatch) -> None:
    def missing() -> None:
        raise BackendUnavailable("NVRTC was not found")

    monkeypatch.setattr(nvrtc, "library", missing)


def test_nvcc_serves_where_nvrtc_is_missing(mock, no_nvrtc, monkeypatch, tmp_path) -> None:
    """PyCUDA calls the nvcc it finds, with our options; here a script that writes them into its result."""
    script = tmp_path / "nvcc"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "if '--version' in sys.argv: print('fake nvcc 1.0'); sys.exit()\n"
        "name = next(a for a in sys.argv if a.endswith('.cu'))\n"
        "open(name[:-2] + 'cubin', 'w').write(' '.join(sys.argv[1:]))\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("PYCUDA_CACHE_DIR", str(tmp_path / "cache"))
    command = cuda.compile_source("// nothing", "sm_90").decode()
    assert "--cubin" in command and "-arch sm_90" in command.replace("-arch=", "-arch ")
    assert all(option in command for option in cuda.OPTIONS)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA toolkit here; the test above needs none")
def test_the_real_nvcc_compiles_generated_code(mock, no_nvrtc, monkeypatch, tmp_path) -> None:
    import test_machine_code

    monkeypatch.setenv("PYCUDA_CACHE_DIR", str(tmp_path))
    source = test_machine_code.render(test_machine_code.plan("gaussian 3", "float32"))
    image = cuda.compile_source(source, "sm_90")
    assert image.startswith(b"\x7fELF") and b"kg_tile" in image
