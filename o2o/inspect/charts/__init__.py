"""Defines charts once and draws them twice: with matplotlib as PNG, with plotly on a page."""
