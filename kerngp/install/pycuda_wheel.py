"""Build PyCUDA where only NVIDIA's driver and torch are installed.

PyCUDA is published as source. Its own build wants a CUDA toolkit: cuda.h, a driver library to link with,
cuRAND. Here cuda.h comes from NVIDIA's header wheel, the library is a stub with the driver's symbols (the
real one is found at run time), and cuRAND is left out, which kerngp does not use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

from ..engine.backends import headers
from ..engine.cache import default_directory
from ..errors import BackendUnavailable, KerngpError

VERSION = "2026.1"
# The wheels that hold cuda.h and cudaProfiler.h; the interface is the same for every later driver.
HEADERS = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-profiler-api==13.0.85")

# setuptools compiles one source after the other; this lets it compile them side by side, the largest first.
PARALLEL = """
import os, runpy, sys
from concurrent.futures import ThreadPoolExecutor
import setuptools
from distutils import ccompiler
def compile(self, sources, output_dir=None, macros=None, include_dirs=None, debug=0,
            extra_preargs=None, extra_postargs=None, depends=None):
    macros, objects, extra, options, build = self._setup_compile(
        output_dir, macros, include_dirs, sources, depends, extra_postargs)
    arguments = self._get_cc_args(options, debug, extra_preargs)
    todo = sorted((o for o in objects if o in build), key=lambda o: -os.path.getsize(build[o][0]))
    with ThreadPoolExecutor(int(os.environ["KERNGP_JOBS"])) as pool:
        list(pool.map(lambda o: self._compile(o, *build[o], arguments, extra, options), todo))
    return objects
for name in ("distutils.ccompiler", "setuptools._distutils.ccompiler",
             "setuptools._distutils.compilers.C.base"):
    try:
        module = __import__(name, fromlist=["x"])
        for kind in ("CCompiler", "Compiler"):
            if hasattr(module, kind):
                getattr(module, kind).compile = compile
    except ImportError:
        pass
sys.argv = ["setup.py", "-q", "bdist_wheel", "-d", os.environ["KERNGP_OUT"]]
sys.path.insert(0, os.getcwd())
runpy.run_path("setup.py", run_name="__main__")
"""


class InstallError(KerngpError, RuntimeError):
    """The installation stopped; the message says at which step and what to do."""


def install_pycuda(*, jobs: int | None = None, rebuild: bool = False) -> str:
    """Build PyCUDA's wheel (a minute or two; it is kept) and install it into this Python.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    InstallError
        A compiler or a download is missing; the message says which.
    """
    if sys.platform == "win32":
        raise InstallError("Windows is not supported by this command; install PyCUDA with a CUDA toolkit.")
    store = (default_directory() or Path(tempfile.gettempdir())) / "wheels"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    found = sorted(store.glob(f"pycuda-{VERSION}-{tag}-*.whl"))
    if rebuild or not found:
        found = [build_wheel(store, jobs or os.cpu_count() or 1)]
    _pip("install", "--quiet", str(found[-1]))
    return f"PyCUDA {VERSION} is installed in {sys.prefix}; wheel kept in {found[-1]}"


def build_wheel(store: Path, jobs: int) -> Path:
    """Compile PyCUDA for the running Python and put the wheel into ``store``."""
    _require_tools()
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kerngp-pycuda-") as scratch:
        work = Path(scratch)
        include = _headers(work)
        _pip("download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "pycuda",
             "-d", scratch, f"pycuda=={VERSION}", before=("setuptools", "wheel"), work=work)  # fmt: skip
        with tarfile.open(next(work.glob("pycuda-*.tar.gz"))) as archive:
            archive.extractall(work, filter="data")
        source = next(p for p in work.glob("pycuda-*") if p.is_dir())
        stub = _stub(work / "stub", include)
        (source / "siteconf.py").write_text(_configuration(include, stub))
        (source / "parallel.py").write_text(PARALLEL)
        out = work / "out"
        environment = {**os.environ, "KERNGP_JOBS": str(jobs), "KERNGP_OUT": str(out)}
        _run([str(_python(work)), "parallel.py"], "compiling PyCUDA", cwd=source, env=environment)
        wheel = next(out.glob("*.whl"))
        target = store / wheel.name
        draft = target.with_suffix(".part")
        shutil.copy(wheel, draft)
        draft.replace(target)
    return target


def _require_tools() -> None:
    missing = [tool for tool in ("gcc", "g++") if shutil.which(tool) is None]
    if missing:
        raise InstallError(
            f"{' and '.join(missing)} not found; install a C++ compiler (Debian, Ubuntu: apt install g++)."
        )
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise InstallError(
            f"{include}/Python.h is missing; install Python's headers (apt install python3-dev)."
        )


def _headers(work: Path) -> Path:
    """A folder with cuda.h and cudaProfiler.h: one that is here, or that of NVIDIA's wheels."""
    try:
        return headers.find(("cuda.h", "cudaProfiler.h"))
    except BackendUnavailable:
        pass
    _pip("download", "--quiet", "--no-deps", "-d", str(work), *HEADERS)
    for wheel in work.glob("nvidia_cuda_*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "headers")
    return next((work / "headers").glob("nvidia/*/include"))


def _stub(folder: Path, include: Path) -> Path:
    """A library to link with: every function of the driver, answering that there is no device."""
    folder.mkdir()
    source = folder / "stub.c"
    names = sorted(headers.driver_symbols(include))
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names))
    target = folder / "libcuda.so.1"
    _run(
        ["gcc", "-w", "-shared", "-fPIC", str(source), "-Wl,-soname,libcuda.so.1", "-o", str(target)],
        "making the stub of the driver",
    )
    (folder / "libcuda.so").symlink_to(target.name)
    return folder


def _configuration(include: Path, stub: Path) -> str:
    return f"""
USE_SHIPPED_BOOST = True
CUDA_ROOT = {str(include.parent)!r}
CUDA_INC_DIR = [{str(include)!r}]
CUDA_ENABLE_CURAND = False
CUDA_ENABLE_GL = False
CUDADRV_LIB_DIR = [{str(stub)!r}]
CUDADRV_LIBNAME = ['cuda']
CXXFLAGS = ['-O1', '-g0', '-w']
LDFLAGS = ['-Wl,--strip-all']
"""


def _python(work: Path) -> Path:
    """An environment with what the build needs, so that the user's own stays as it is."""
    folder = work / "environment"
    python = folder / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)], "making an environment for the build")
        packages = ["setuptools", "wheel", "numpy>=2"]
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        _run(command, "installing what PyCUDA's build needs")
    return python


def _pip(*arguments: str, before: tuple[str, ...] = (), work: Path | None = None) -> None:
    """pip, in this Python, or in the build's environment where packages are needed ``before``."""
    python = str(_python(work)) if before and work is not None else sys.executable
    _run([python, "-m", "pip", *arguments, "--disable-pip-version-check"], f"pip {arguments[0]}")


def _run(command: list[str], what: str, **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise InstallError(f"{what} failed ({' '.join(command)}):\n{(done.stderr or done.stdout)[-4000:]}")
