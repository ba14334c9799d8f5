"""`alignx-eval schema`: the form of what users store."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def schema(
    what: Annotated[
        Literal["rows", "policy", "baseline", "default-policy"],
        typer.Argument(
            help=(
                "rows of results.json, gate policy, baseline: JSON schemas; "
                "default-policy: the policy that holds without "
                "a file."
            )
        ),
    ] = "rows",
) -> None:
    """Print a JSON schema, or the default policy as YAML.

    \b
    Examples:
      alignx-eval schema > row.schema.json
      alignx-eval schema default-policy > gate.yaml
      alignx-eval schema policy > gate.schema.json
    """
    import json

    if what == "default-policy":
        from alignx_eval.judgement.policy import DEFAULT_POLICY_YAML

        print(DEFAULT_POLICY_YAML, end="")
        return
    if what == "policy":
        from alignx_eval.judgement.policy import policy_schema

        document = policy_schema()
    elif what == "baseline":
        from alignx_eval.judgement.baseline import baseline_schema

        document = baseline_schema()
    else:
        from pydantic import TypeAdapter

        from alignx_eval.results import SCHEMA_VERSION, Row

        document = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$comment": f"schema version {SCHEMA_VERSION}",
            **TypeAdapter(Row).json_schema(),
        }
    print(json.dumps(document, indent=2))
