"""Reading recordings into episodes, and replaying them."""
