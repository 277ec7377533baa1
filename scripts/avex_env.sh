#!/usr/bin/env bash
# Makes .venv-avex: avex, the independent BEATs that tests and benchmarks compare against.
#
# It is heavy (torch and some forty packages), so the environment borrows every package that
# .venv already has and only adds what is missing. `.venv` itself is never changed.
set -euo pipefail
cd "$(dirname "$0")/.."

base=.venv
target=.venv-avex
if [[ ! -x $base/bin/python ]]; then
    echo "avex_env.sh: no $base here: run 'make install' first" >&2
    exit 2
fi
if [[ -x $target/bin/python ]] && "$target/bin/python" -c 'import avex.models.beats' 2>/dev/null; then
    echo "$target is ready"
    exit 0
fi

"$base/bin/python" -m venv "$target"
borrowed=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
own=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Read after the environment's own folder, so its own packages win.
echo "$borrowed" >"$own/borrowed.pth"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check 'avex==1.4.0'
"$target/bin/python" -c 'import avex.models.beats, torch; print("avex with torch", torch.__version__)'
