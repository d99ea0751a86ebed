"""``python -m kerngp doctor`` and ``python -m kerngp install-cuda``."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m kerngp", description="Look at, and complete, the installation."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what the CPU and CUDA backends find here, and what is missing")
    install = commands.add_parser(
        "install-cuda", help="build PyCUDA for this Python and install it; no CUDA toolkit is needed"
    )
    install.add_argument("--rebuild", action="store_true", help="do not use the wheel built earlier")
    install.add_argument("--jobs", type=int, help="compiler processes at once (default: all cores)")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        from .install.doctor import report

        text, healthy = report()
        print(text)
        return 0 if healthy else 1
    from .install.pycuda_wheel import InstallError, install_pycuda

    try:
        print(install_pycuda(jobs=options.jobs, rebuild=options.rebuild))
    except InstallError as error:
        print(f"install-cuda: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
