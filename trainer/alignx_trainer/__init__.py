"""The two-stage AlignX trainer (arXiv 2509.24338): contrastive alignment at a middle layer, language matching at the last, then
instruction tuning."""
