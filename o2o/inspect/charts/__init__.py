"""Charts described once and drawn twice: by matplotlib as a PNG, by plotly in a page."""
