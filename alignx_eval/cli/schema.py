"""`alignx-eval schema`: the form of the rows in results.json."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON schema of a row of results.json.

    \b
    Example:
      alignx-eval schema > row.schema.json
    """
    import json

    from pydantic import TypeAdapter

    from alignx_eval.results import SCHEMA_VERSION, Row

    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"schema version {SCHEMA_VERSION}",
        **TypeAdapter(Row).json_schema(),
    }
    print(json.dumps(document, indent=2))
