#!/usr/bin/env bash
# Build the wheel, and the wheel from the sdist; install each in a clean environment; run a comparison outside the checkout, without a network.
# Usage: tools/check_wheel.sh [lines per language]
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
limit=${1:-20}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "check_wheel: $*" >&2
    exit 1
}

echo "-- building"
"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet --disable-pip-version-check build
"$work/build/bin/python" -m build --sdist --wheel --outdir "$work/direct" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; fail "build failed"; }
mkdir "$work/source"
tar -xzf "$work"/direct/*.tar.gz -C "$work/source" --strip-components=1
"$work/build/bin/python" -m build --wheel --outdir "$work/sdist" "$work/source" >"$work/build.log" 2>&1 || { cat "$work/build.log"; fail "build from sdist failed"; }

contents() { "$python" -c 'import sys, zipfile; [print(f"{i.CRC:08x} {i.filename}") for i in sorted(zipfile.ZipFile(sys.argv[1]).infolist(), key=lambda i: i.filename)]' "$1"; }
diff <(contents "$work"/direct/*.whl) <(contents "$work"/sdist/*.whl) || fail "the wheel from the sdist differs"
for wheel in "$work"/direct/*.whl "$work"/sdist/*.whl; do
    size=$(stat -c %s "$wheel")
    echo "$(basename "$wheel"): $size bytes"
    [ "$size" -lt 40000000 ] || fail "the wheel is not under 40 MB"
done

# Cut the network for real where this user may: a network namespace of its own has no way out.
if unshare -n true 2>/dev/null; then
    cut=(unshare -n)
    [ "$("${cut[@]}" grep -c : /proc/net/dev)" = 1 ] || fail "the network namespace has more than a loopback interface"
    echo "-- the network is cut off by unshare -n"
else
    cut=()
    echo "-- WARNING: unshare -n IS NOT PERMITTED HERE. THE NETWORK IS ONLY SWITCHED OFF BY ENVIRONMENT VARIABLES."
fi

for kind in direct sdist; do
    echo "-- installing the wheel ($kind)"
    "$python" -m venv "$work/$kind-env"
    bin=$work/$kind-env/bin
    # One environment with adapters for the trainer, one with nothing that is optional.
    extra=$([ "$kind" = direct ] && echo "[lora]" || true)
    "$bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$(echo "$work/$kind"/*.whl)$extra"
    mkdir -p "$work/$kind-outside/home"
    cd "$work/$kind-outside"
    # Nothing of the caller's environment: no PYTHONPATH, no caches, no settings.
    clean=(env -i "PATH=$bin:/usr/bin:/bin" "HOME=$work/$kind-outside/home" LANG=C.UTF-8 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1)
    run() { "${cut[@]}" "${clean[@]}" "$@"; }
    for name in tasks reports trainer; do
        if run python -c "import $name" 2>/dev/null; then fail "import $name works in an installation"; fi
    done
    run python -c "
import alignx_eval, alignx_trainer, importlib.metadata, pathlib
assert not pathlib.Path(alignx_eval.__file__).is_relative_to('$checkout'), alignx_eval.__file__
tops = {path.parts[0] for path in importlib.metadata.files('alignx-eval')} - {'..'}
assert {top for top in tops if not top.endswith('.dist-info')} == {'alignx_eval', 'alignx_trainer'}, tops
"
    run alignx-train --help >/dev/null
    if [ "$kind" = direct ]; then
        echo "-- one step of every recipe"
        cp "$checkout/tools/dry_run_recipes.py" .
        run python dry_run_recipes.py
    fi
    echo "-- comparing"
    run alignx-eval compare bundled:base bundled:alignx --control bundled:tuned --limit "$limit" --out run -o rows.csv
    for file in report.html summary.md results.json manifest.json samples.jsonl; do
        [ -s "run/$file" ] || fail "run/$file is missing or empty"
    done
    [ "$(stat -c %s run/report.html)" -lt 3000000 ] || fail "the report is not under 3 MB"
    run alignx-eval report run --quiet >/dev/null
    cd "$checkout"
done
echo "check_wheel: both wheels install, and compare without a network"
