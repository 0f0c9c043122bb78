"""Checks that texts from files and flags are printed on one line of readable length."""

from o2o.core.text import printable, shorten


def test_control_characters_are_escaped():
    assert printable("a\nb\x1b[2J") == "a\\nb\\x1b[2J"


def test_a_long_word_loses_its_middle_and_a_long_line_too():
    text = f"flag is {'a' * 5000 + 'end'!r}, wanted 1"
    assert shorten(text) == f"flag is '{'a' * 149}...{'a' * 45}end', wanted 1"
    assert shorten("ab " * 2000) == f"{('ab ' * 2000)[:2500]} ... {('ab ' * 2000)[-500:]}"


def test_other_texts_stay():
    text = "a robot of " + "/folder" * 50 + " is not found; have " + ", ".join(["robot"] * 300)
    assert shorten(text) == text
