"""Data: one file, one source of labelled images; each is listed by its name."""
