"""Does the wheel that users get work? It is built, looked into, installed in a fresh environment, and run.

The wheel must hold every file under src/samvad. The environment gets serve.lock and the wheel, nothing
else, so that a dependency that only the tests bring is noticed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src"


def run(*command: str | Path, cwd: Path = REPOSITORY) -> str:
    """What the command prints; ends the check with all of its output where it fails."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SAMVAD_"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


def build(directory: Path) -> Path:
    """The path of the wheel, built from the unpacked sdist, so that both are known to be whole."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", directory)
    sdist = next(directory.glob("*.tar.gz"))
    run(sys.executable, "-m", "tarfile", "--extract", sdist, directory)
    unpacked = directory / sdist.name.removesuffix(".tar.gz")
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        directory,
        cwd=unpacked,
    )
    return next(directory.glob("*.whl"))


def check_contents(wheel: Path) -> int:
    """How many files of the package the wheel holds; ends the check where any is missing or too many."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    here = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if packed != here:
        sys.exit(f"wheel and src differ: missing {sorted(here - packed)}, too many {sorted(packed - here)}")
    if "samvad/py.typed" not in packed:
        sys.exit("the wheel has no py.typed: type checkers would ignore our types")
    return len(packed)


def check_run(wheel: Path, directory: Path) -> str:
    """The installed version, after the package was imported and its command run outside the tree."""
    environment = directory / "environment"
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    pip = (scripts / "python", "-m", "pip", "--disable-pip-version-check")
    lock = REPOSITORY / "requirements" / "serve.lock"
    run(*pip, "install", "--quiet", "--no-input", "--require-hashes", "--requirement", lock)
    run(*pip, "install", "--quiet", "--no-input", "--no-deps", "--no-index", wheel)
    run(*pip, "check")
    program = (
        "import importlib.metadata, samvad; version = importlib.metadata.version('samvad-sessions'); "
        "assert samvad.__version__ == version, (samvad.__version__, version); print(version)"
    )
    version = run(scripts / "python", "-W", "error", "-c", program, cwd=directory).strip()
    if "serve" not in run(scripts / "samvad", "--help", cwd=directory):
        sys.exit("samvad --help does not name the verb 'serve'")
    return version


def main() -> None:
    """Build, look, install, run; one line when all is well."""
    with tempfile.TemporaryDirectory(prefix="samvad-wheel-") as name:
        directory = Path(name)
        wheel = build(directory)
        files = check_contents(wheel)
        version = check_run(wheel, directory)
        print(f"{wheel.name}: {files} files, version {version}, imports and runs")


if __name__ == "__main__":
    main()
