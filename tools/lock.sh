#!/bin/sh
# Writes requirements/*.lock: every package pinned with the hashes of all its files, no address anywhere.
# Pins that still fit are kept; `sh tools/lock.sh --upgrade` takes the newest of everything.
# Only the public package index is asked: local wheels and settings of this machine would leave their traces.
set -eu

cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}

for name in $(env | sed -n 's/^\(UV_[A-Z_]*\)=.*/\1/p') PIP_FIND_LINKS PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
    unset "$name"
done

compile() { # compile NAME SOURCE... : writes requirements/NAME.lock
    name=$1
    shift
    echo "requirements/$name.lock"
    "$uv" pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" --output-file "requirements/$name.lock" $upgrade "$@"
}

upgrade=${1:-}
compile serve pyproject.toml
compile build requirements/build.in --constraints requirements/serve.lock
# A .venv made for `make serve` is made into one for `make test`, and back: the same pins, and more of them.
compile dev pyproject.toml requirements/dev.in --constraints requirements/serve.lock --constraints requirements/build.lock
# What the container image holds: the same pins as are tested.
compile container pyproject.toml --extra firestore --extra otel --extra redis --constraints requirements/dev.lock
# The peers have a say in their own versions of what they share with us.
compile bench pyproject.toml requirements/bench.in
