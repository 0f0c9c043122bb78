"""`o2o sweep`: searches the values of a preset's flags that succeed most often."""
