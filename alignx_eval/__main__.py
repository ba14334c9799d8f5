"""`python -m alignx_eval` is `alignx-eval`."""

from alignx_eval.cli import main

main()
