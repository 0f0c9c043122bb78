"""Which system is best on a robot's data: all under one budget, each run in a process of its own."""
