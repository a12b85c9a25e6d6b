"""Report: figures, tables and the page, made from the tidy table. No torch."""
