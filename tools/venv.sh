#!/bin/sh
# venv.sh DIR PYTHON LOCK... : a virtual environment in DIR with what the locks say, and this package, editable.
# An environment that works is kept and brought up to date; one whose Python is gone is made anew.
set -eu

dir=$1
python=$2
shift 2

if ! command -v "$python" >/dev/null 2>&1; then
    echo "samvad needs Python 3.11 or newer: there is no '$python' here. Install it, or name another: make PYTHON=…" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "samvad needs Python 3.11 or newer, and '$python' is $("$python" -V 2>&1). Name another: make PYTHON=…" >&2
    exit 1
fi

if ! "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian ships these apart
        package=$("$python" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')
        sh tools/debian.sh "-:$package"
    fi
    echo "making $dir with $("$python" -V)"
    rm -rf "$dir"
    "$python" -m venv "$dir"
fi

requirements=
for lock in "$@"; do
    requirements="$requirements --requirement $lock"
done
echo "installing $* into $dir"
# A lock is complete: nothing is resolved anew. (pip 23 would, for a package with extras, and then misses its hash.)
# shellcheck disable=SC2086 # one word each
"$dir/bin/python" -m pip install --quiet --no-input --no-deps --require-hashes $requirements
"$dir/bin/python" -m pip install --quiet --no-input --no-deps --no-build-isolation --editable .
