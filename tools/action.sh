#!/usr/bin/env bash
# What the GitHub Action runs: compare with a base, or measure and gate against a baseline. Inputs come as environment variables, so that no
# input is ever read as shell code. Ends with the exit code of the gate, after the summary and the outputs are written.
set -euo pipefail
: "${CANDIDATE:?the input candidate is needed}" "${OUTPUT:=alignx-eval}"
base=${BASE:-} baseline=${BASELINE:-} control=${CONTROL:-} policy=${POLICY:-}

if [[ -n $base && -n $baseline ]] || [[ -z $base && -z $baseline ]]; then
    echo "error: give either base or baseline" >&2
    exit 2
fi
mapfile -t candidates < <(sed 's/^[[:space:]]*//; s/[[:space:]]*$//; /^$/d' <<<"$CANDIDATE")
read -r -a further <<<"${ARGUMENTS:-}"
gate=(--annotations)
[[ ${STRICT:-false} == true ]] && gate+=(--strict)
[[ -n $policy ]] && gate+=(--policy "$policy")
mkdir -p "$OUTPUT"
reports=(-o "$OUTPUT/summary.md" -o "$OUTPUT/report.html" -o "$OUTPUT/rows.csv" -o "$OUTPUT/verdict.json" -o "$OUTPUT/junit.xml")

code=0
if [[ -n $base ]]; then
    [[ -n $control ]] && further+=(--control "$control")
    alignx-eval compare "$base" "${candidates[@]}" --out "$OUTPUT/run" --gate "${gate[@]}" "${reports[@]}" "${further[@]}" || code=$?
else
    if [[ ${#candidates[@]} -ne 1 || -n $control ]]; then
        echo "error: with a baseline, exactly one candidate and no control" >&2
        exit 2
    fi
    alignx-eval run "${candidates[0]}" --out "$OUTPUT/run" --quiet "${further[@]}" >/dev/null || code=$?
    if [[ $code -eq 0 ]]; then
        alignx-eval gate "$OUTPUT/run" --baseline "$baseline" "${gate[@]}" "${reports[@]}" || code=$?
    fi
fi

if [[ -n ${GITHUB_OUTPUT:-} ]]; then
    printf 'exit-code=%s\nreport=%s\n' "$code" "$OUTPUT/report.html" >>"$GITHUB_OUTPUT"
fi
if [[ -n ${GITHUB_STEP_SUMMARY:-} ]]; then
    if [[ -f $OUTPUT/summary.md ]]; then
        cat "$OUTPUT/summary.md" >>"$GITHUB_STEP_SUMMARY"
    else
        echo "alignx-eval ended with exit code $code before there was anything to report; its message is in the log." >>"$GITHUB_STEP_SUMMARY"
    fi
fi
exit "$code"
