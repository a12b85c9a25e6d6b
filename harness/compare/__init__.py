"""Compare: two models, or two folders of lm-eval's samples, item by item: what AFTER lost and gained beside BEFORE."""
