"""Write the tables of docs/architectures.md: what works with each causal architecture of the installed transformers.

python tools/list_architectures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    import transformers
    from helpers.architectures import NOT_BUILT, causal_architectures, row, support

    transformers.logging.set_verbosity_error()
    table = [
        "| architecture | layers, language_id | language_modelling | translation | how it decodes |",
        "|---|---|---|---|---|",
    ]
    for model_type in causal_architectures():
        print(model_type, file=sys.stderr)
        table.append(row(model_type, NOT_BUILT.get(model_type) or support(model_type)))
    opening, closing = "<!-- architectures -->\n", "\n<!-- end of architectures -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(opening)
    text = f"With transformers {transformers.__version__}:\n\n" + "\n".join(table)
    PAGE.write_text(before + opening + text + closing + rest.partition(closing)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
