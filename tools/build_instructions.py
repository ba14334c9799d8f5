"""Rebuild the bundled general instructions from the training split of the bundled corpus `interface`.

    python tools/build_instructions.py

Four kinds of task in every language, each a function of one sentence: name its language, complete it, put its words in
order, and copy it. They teach a small model to follow more than one instruction; they are no substitute for a real
instruction collection. The result depends on the text alone.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from alignx_eval.corpora import load_corpus
from alignx_eval.languages import LANGUAGES

EACH = 150  # records of each kind and language
TARGET = Path(__file__).parent.parent / "alignx_eval" / "bundled" / "text" / "instructions" / "train.jsonl"


def units(text: str, code: str) -> tuple[list[str], str]:
    """Words of a sentence and what joins them; characters where the script writes no blanks."""
    return (list(text), "") if LANGUAGES[code].script in {"Hans", "Hant", "Jpan", "Thai"} else (text.split(), " ")


def record(kind: str, text: str, code: str, shuffler: random.Random) -> dict[str, str]:
    words, joint = units(text, code)
    half = max(1, len(words) // 2)
    mixed = shuffler.sample(words, len(words))
    instruction, given, wanted = {
        "language": ("Name the language:", text, LANGUAGES[code].name),
        "complete": ("Complete the text:", joint.join(words[:half]), joint.join(words[half:])),
        "order": ("Put the words in order:", joint.join(mixed), text),
        "copy": ("Copy the text:", text, text),
    }[kind]
    return {"instruction": instruction, "input": given, "output": wanted, "language": code, "kind": kind}


def main() -> None:
    corpus = load_corpus("interface", split="train")
    records = []
    for code in corpus.languages:
        shuffler = random.Random(f"instructions {code}")
        long_enough = [text for text in corpus.sentences[code] if len(units(text, code)[0]) >= 4]
        for kind in ("language", "complete", "order", "copy"):
            records += [record(kind, text, code, shuffler) for text in shuffler.sample(long_enough, EACH)]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(
        "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in records), encoding="utf-8", newline="\n"
    )
    print(f"{len(records)} records, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
