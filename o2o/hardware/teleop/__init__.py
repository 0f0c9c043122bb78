"""A person beside the robot: keyboard, gamepad or a file of commands, labels and takeovers."""
