"""`python -m alignx_trainer`, for launchers: `accelerate launch -m alignx_trainer RECIPE`."""

from alignx_trainer.cli import main

main()
