"""Markdown as a page of its own that a browser shows without anything else: model cards and decisions."""

from __future__ import annotations

from html import escape

from markdown_it import MarkdownIt

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e3e3e3; } th { text-align: left; background: #f6f6f6; }
code, pre { background: #f4f4f4; border-radius: 3px; } code { padding: 0 0.2rem; }
pre { padding: 0.7rem; overflow-x: auto; }
"""


def page(title: str, markdown: str) -> str:
    """``markdown`` as HTML; whatever HTML it holds is shown as text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )
