"""Measures: functions over arrays and strings, one file each. They know no model, no file and no language list of a
run."""
