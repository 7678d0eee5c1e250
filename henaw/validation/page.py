"""The verdict as a page: one HTML file that says what failed and why, without a line that it fetches from elsewhere.

Great Expectations' own Data Docs load style sheets, scripts, icons and a logo from public servers, so that offline they
are bare text; they know neither what a failure does nor the suspected units. This page is made of the verdict, which
holds counts alone, none of one to four people.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from henaw.validation.verdict import UNITS

_WORDS = {"block": "blocks", "set_aside": "sets rows aside", "warn": "warns"}
_ORDER = ("block", "set_aside", "warn")

_STYLE = """
:root { --ink: #1c2733; --soft: #5b6b7b; --line: #d9e0e7; --back: #f5f7f9; --card: #fff;
  --block: #b3261e; --set_aside: #9a5b00; --warn: #6a5a00; --fine: #1b6e3c; --bar: #c9d3dd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9fb0c0; --line: #33404d; --back: #12181e;
  --card: #1b232b; --block: #ff8a80; --set_aside: #ffb454; --warn: #e3d26f; --fine: #6fd39a; --bar: #3d4b59; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.75rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
.verdict { border-left: .5rem solid var(--fine); padding: 1.25rem 1.5rem; }
.verdict, .facts li, .scroll { background: var(--card); border-radius: .4rem; }
.facts li, .scroll { border: 1px solid var(--line); }
.verdict.refused { border-color: var(--block); } .verdict.refused h1 { color: var(--block); }
.verdict p { margin: .35rem 0 0; font-size: 1.05rem; }
.facts { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 0; padding: 0; list-style: none; }
.facts li { flex: 1 1 9rem; padding: .7rem 1rem; }
.facts b { display: block; font-size: 1.4rem; } .facts span, .soft { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .55rem .8rem; vertical-align: top; }
th { font-size: .85rem; color: var(--soft); font-weight: 600; } tr + tr td { border-top: 1px solid var(--line); }
td:first-child { font-weight: 600; white-space: nowrap; } td.number { text-align: right; white-space: nowrap; }
.tag { white-space: nowrap; font-weight: 600; } .block { color: var(--block); } .set_aside { color: var(--set_aside); }
.warn { color: var(--warn); } .fine { color: var(--fine); }
.share { width: 5rem; height: .4rem; margin: .3rem 0 0 auto; background: var(--bar); border-radius: .2rem; }
.share i { display: block; height: 100%; background: currentColor; border-radius: .2rem; }
details { margin-top: .5rem; } summary { cursor: pointer; padding: .3rem 0; font-weight: 600; }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; }
"""

_FOOTER = """Counts are rounded to multiples of five, one to four stand as &lt;5; no participant's value is on this
page. The rows set aside are in a file on the machine that validated them, with the rule. The suites are the files in
expectations/; units are judged against what adults have, and reported, never converted."""


def verdict_page(verdict: dict[str, Any], source: str) -> str:
    """The page of a verdict's published form (``Verdict.to_dict``); ``source`` is the kind of source.

    Failures come first, the gravest at the top, each with what was expected, what was found and what happens.
    """
    results: list[dict[str, Any]] = verdict["results"]
    failed = [result for result in results if not result["success"]]
    failed.sort(
        key=lambda result: (_ORDER.index(result["on_failure"]), -_size(result["fraction"]), result["suite"] != UNITS)
    )
    held = [result for result in results if result["success"]]
    word = "passed" if verdict["passed"] else "refused"
    suites = dict.fromkeys(result["suite"] for result in results)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Validation: {word}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>",
            f'<section class="verdict {word}">\n<h1>Validation: {word}</h1>',
            f"<p>{_why(verdict, failed)}</p>\n</section>",
            _facts(verdict, failed, source),
            "<h2>What failed</h2>" if failed else '<h2 class="fine">Nothing failed</h2>',
            _table(failed) if failed else "",
            "<h2>What holds</h2>",
            *(_held(suite, [result for result in held if result["suite"] == suite]) for suite in suites),
            f"<footer><p>{_FOOTER}</p></footer>",
            "</main>\n</body>\n</html>\n",
        ]
    )


def _why(verdict: dict[str, Any], failed: list[dict[str, Any]]) -> str:
    blocking = [result for result in failed if result["on_failure"] == "block"]
    aside = f"{_number(verdict['set_aside'])} of {_number(verdict['rows'])} rows are set aside"
    if blocking:
        first = blocking[0]
        more = f", and {len(blocking) - 1} more" if len(blocking) > 1 else ""
        return _text(f"{first['column']}: {_found(first)}; expected {first['expected']}{more}. Nothing is trained on.")
    if not verdict["passed"]:
        most = [result for result in failed if result["on_failure"] == "set_aside"][:1]
        why = [f"Most by {one['column']}: expected {one['expected']}." for one in most]
        hints = [
            one for one in failed if one["suite"] == UNITS and one["column"] in [worst["column"] for worst in most]
        ]
        why += [f"{one['column']}: {one['found']}." for one in hints]
        limit = f"{aside}; at most {verdict['max_set_aside']:.1%} may be. Nothing is trained on."
        return "<br>".join(map(_text, [limit, *why]))
    return _text(f"{aside}; the others are trained on.")


def _facts(verdict: dict[str, Any], failed: list[dict[str, Any]], source: str) -> str:
    counts = {how: sum(result["on_failure"] == how for result in failed) for how in _ORDER}
    facts = {
        "rows judged": verdict["rows"],
        "rows set aside": verdict["set_aside"],
        "failures that block": counts["block"],
        "failures that set rows aside": counts["set_aside"],
        "warnings": counts["warn"],
        "expectations that hold": len(verdict["results"]) - len(failed),
    }
    items = "\n".join(
        f"<li><b>{_text(_number(value))}</b><span>{_text(name)}</span></li>" for name, value in facts.items()
    )
    about = f'<p class="soft">Panel {_text(verdict["panel"])}, source {_text(source)}.</p>'
    return f'<ul class="facts">\n{items}\n</ul>\n{about}'


def _table(failed: Iterable[dict[str, Any]]) -> str:
    rows = []
    for result in failed:
        fraction = result["fraction"]
        share = _text(fraction)
        if isinstance(fraction, float):
            bar = f'<div class="share {result["on_failure"]}"><i style="width: {fraction:.0%}"></i></div>'
            share = f"{fraction:.2%}{bar}"
        rows.append(
            f"<tr><td>{_text(result['column'])}</td><td>{_text(_found(result))}</td>"
            f"<td>{_text(result['expected'])}</td>"
            f'<td class="number">{share}</td>'
            f'<td class="tag {result["on_failure"]}">{_WORDS[result["on_failure"]]}</td>'
            f'<td class="soft">{_text(result["suite"])}: {_text(result["rule"])}</td></tr>'
        )
    titles = ("column", "found", "expected", "share of rows", "what it does", "rule")
    head = f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"
    return f'<div class="scroll"><table>\n{head}\n{"".join(rows)}\n</table></div>'


def _held(suite: str, held: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{_text(result['column'])}</td><td>{_text(result['expected'])}</td>"
        f'<td class="soft">{_text(result["rule"])}</td></tr>'
        for result in held
    )
    head = "<tr><th>column</th><th>expected</th><th>rule</th></tr>"
    summary = f"<summary>{_text(suite)}: {len(held)} expectations</summary>"
    return f'<details>{summary}<div class="scroll"><table>\n{head}\n{rows}\n</table></div></details>'


def _found(result: dict[str, Any]) -> str:
    rows = f"{_number(result['unexpected'])} of {_number(result['checked'])}"
    return str(result["found"] or f"{rows} rows fail")


def _number(count: int | str) -> str:
    return count if isinstance(count, str) else f"{count:,}"


def _size(fraction: float | str) -> float:
    return fraction if isinstance(fraction, float) else 0.0


def _text(value: object) -> str:
    return html.escape(str(value))
