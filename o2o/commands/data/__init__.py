"""`o2o data`: show, convert, relabel, split and merge recordings."""
