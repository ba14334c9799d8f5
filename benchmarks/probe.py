"""The language probe of 51 languages x 19 layers x 500 lines x 640 dimensions against the time of encoding those
sentences.

    PYTHONPATH=. python benchmarks/probe.py gemma-3-270m.gguf FLORES_FOLDER

probe    `probe.language_probe` on one layer of random vectors (content shared by the translations of a line, an offset
         per language, and noise); the time of 19 layers is 19 times that
encode   `encode` of 4 lines of each of 51 languages; the time of all lines is that times (tokens of all lines / tokens
         of these). All languages are in one plan of batches, which pads least, so this underestimates what encoding
         takes
"""

from __future__ import annotations

import argparse

import numpy as np
from turns import in_turns, show_ratio, show_times

from alignx_eval.checkpoint import open_checkpoint
from alignx_eval.corpora import load_corpus
from alignx_eval.engine.encode import encode
from alignx_eval.measures.probe import control_labels, grouped_folds, language_probe

LANGUAGES, LAYERS, LINES, WIDTH, FOLDS = 51, 19, 500, 640, 5
SAMPLE_LINES, REPEATS = 4, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("corpus")
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.checkpoint)
    corpus = load_corpus(options.corpus, limit=LINES)
    languages = corpus.languages[:: len(corpus.languages) // LANGUAGES][:LANGUAGES]
    sentences = [text for language in languages for text in corpus.sentences[language]]
    sample = [text for language in languages for text in corpus.sentences[language][:SAMPLE_LINES]]
    tokens, sampled = (sum(map(len, checkpoint.tokenizer(texts)["input_ids"])) for texts in (sentences, sample))
    share = tokens / sampled
    print(
        f"{len(sentences)} sentences, {tokens} tokens; encoded for the estimate: {len(sample)} sentences, {sampled} "
        "tokens"
    )

    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((LANGUAGES, LINES, WIDTH), dtype=np.float32)
    vectors += generator.standard_normal((1, LINES, WIDTH), dtype=np.float32)
    vectors += 0.3 * generator.standard_normal((LANGUAGES, 1, WIDTH), dtype=np.float32)
    folds = grouped_folds(np.arange(LINES), FOLDS, generator)
    control = control_labels(LANGUAGES, LINES, generator)
    scripts = [language.split("_")[1] for language in languages]

    times = in_turns(
        {
            "probe": lambda: language_probe(vectors, folds, control, scripts),
            "encode": lambda: encode(checkpoint, sample),
        },
        REPEATS,
    )
    show_times(times)
    print(
        f"probe, {LAYERS} layers: {LAYERS * np.median(times['probe'][:, 0]):.1f} s; all sentences encoded, "
        "extrapolated: "
        f"{share * np.median(times['encode'][:, 0]):.0f} s"
    )
    show_ratio(times, "probe", "encode", scale=LAYERS / share)


if __name__ == "__main__":
    main()
