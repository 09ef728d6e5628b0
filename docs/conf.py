"""Sphinx:  sphinx-build -W -b html docs docs/_build

The pages must work without the internet: fonts are the reader's own, scripts and styles come from the theme.
"""

project = "Presence"
html_title = "Presence"
html_theme = "furo"
html_logo = html_favicon = "_static/presence.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0a6e4c", "color-brand-content": "#0a6e4c"},
    "dark_css_variables": {"color-brand-primary": "#4cc79a", "color-brand-content": "#4cc79a"},
    "navigation_with_keys": True,
    "top_of_page_buttons": [],
}
extensions = ["myst_parser"]
myst_heading_anchors = 4
nitpicky = True
exclude_patterns = ["_build"]
html_copy_source = False
html_show_sourcelink = False
