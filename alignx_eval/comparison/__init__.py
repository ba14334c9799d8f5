"""Results side by side: paired differences, means and costs. Numbers only; words are made in `judgement`."""
