"""`o2o study`: measures presets on a suite of tasks, before, during and after fine-tuning."""
