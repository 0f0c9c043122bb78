"""Reads an operator's commands, labels and takeovers from keyboard, gamepad or a file."""
