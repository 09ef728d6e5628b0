"""Sphinx:  sphinx-build -W -b html docs docs/_build"""

project = "Presence"
html_title = "Presence"
html_theme = "furo"
extensions = ["myst_parser"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_copy_source = False
