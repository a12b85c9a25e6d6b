"""Analysis: records to tidy table, paired differences, statistics. No torch."""
