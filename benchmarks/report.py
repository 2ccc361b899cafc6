"""Write the tables and plots of docs/performance.md from the results that were kept.

    python -m benchmarks.report
    python -m benchmarks.report --kernels FILE   # first keep what pytest-benchmark wrote there

The page's text is written by hand; between `<!-- begin NAME -->` and `<!-- end NAME -->` stands
what this script wrote, and each run writes it anew where benchmarks/results has the figures.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.day import summary
from benchmarks.harness import ROOT, load, machine_line, markdown, save

PAGE = ROOT / "docs" / "performance.md"
NAMES = {
    "limit": "the limit",
    "limit_overlapped": "the limit, two connections",
    "ours": "lb_pipelines",
    "with_duckdb": "DuckDB",
    "with_pandas": "pandas",
    "with_sql": "SQL alone",
    "naive": "a query a board*",
}
INK, OURS, OTHERS, LIMIT = "#222222", "#1f6f8b", "#b8b8b8", "#e0a030"


def main() -> None:
    """Write what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=Path)
    options = parser.parse_args()
    if options.kernels:
        keep_kernels(options.kernels)
    mpl.use("Agg")
    sections: dict[str, Callable[[], list[str]]] = {
        "day": lambda: day_section("day-1"),
        "day-1-10": lambda: day_section("day-1-10"),
        "day-1-100": lambda: day_section("day-1-100"),
        "month": month_section,
        "disk": disk_section,
        "kernels": kernels_section,
        **{f"growth-{curve}": lambda curve=curve: growth_section(curve) for curve in CURVES},  # type: ignore[misc]
    }
    text = PAGE.read_text()
    for name, make in sections.items():
        lines = make()
        if lines:
            text, count = re.subn(
                rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)",
                lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2],  # type: ignore[misc]
                text,
                flags=re.DOTALL,
            )
            print(f"{name}: {'written' if count else 'the page has no place for it'}")
    PAGE.write_text(text)


def day_section(name: str) -> list[str]:
    """The table of all ways, and a plot."""
    result = load(name)
    if not result.get("runs"):
        return []
    rows = sorted(summary(result), key=lambda row: row["seconds"])
    lines = [
        *_facts(result),
        "",
        *markdown(
            ("", "seconds", "x limit", "x ours", "peak MB", "server MB", "rounds", "equal"),
            [
                (
                    NAMES[row["way"]],
                    _seconds(row["seconds"]),
                    _ratio(row["of_limit"]),
                    _ratio(row["of_ours"]),
                    f"{row['peak_mb']:,.0f}",
                    f"{row['server_peak_mb']:,.0f}",
                    str(len(row["runs"])),
                    "yes" if row["equal"] else "NO",
                )
                for row in rows
            ],
        ),
        "",
        "Where the time went (the round of each way with the median time):",
        "",
        *(f"- {NAMES[row['way']]}: {_parts(result, row['way'])}" for row in rows),
    ]
    return [*lines, "", plot_day(name, rows)]


def _facts(result: dict[str, Any]) -> list[str]:
    district = ", ".join(f"{count:,} {what}" for what, count in result["district"].items())
    loads = [run["load_before"] for runs in result["runs"].values() for run in runs]
    return [
        f"{machine_line(result['machine'])}. Load before the single runs: {min(loads)} to"
        f" {max(loads)}.",
        "",
        f"{district}; {result['rows']:,} rows made, {result['rows_mb']:,.0f} MB as binary COPY.",
    ]


def _parts(result: dict[str, Any], way: str) -> str:
    runs = sorted(result["runs"][way], key=lambda run: run["seconds"])
    parts = runs[len(runs) // 2]["parts"]
    return ", ".join(f"{part} {_seconds(seconds)}" for part, seconds in parts.items())


def month_section() -> list[str]:
    """30 days in one pass."""
    tables = []
    for name in ("month-1", "month-1-10"):
        result = load(name)
        if result.get("runs"):
            tables += [
                *_facts(result),
                "",
                *markdown(
                    (f"{result['days']} days in one pass", "seconds", "peak MB", "rounds"),
                    [
                        (
                            NAMES[row["way"]],
                            _seconds(row["seconds"]),
                            f"{row['peak_mb']:,.0f}",
                            str(len(row["runs"])),
                        )
                        for row in summary(result)
                    ],
                ),
                "",
                _month_ratio(result),
                "",
            ]
    return tables[:-1]


def _month_ratio(result: dict[str, Any]) -> str:
    medians = {row["way"]: row["seconds"] for row in summary(result)}
    runs = sorted(result["runs"]["limit"], key=lambda run: run["seconds"])
    rows_in = runs[len(runs) // 2]["parts"]["rows in"]
    return (
        f"{medians['ours'] / rows_in:.2f} x COPY of the rows in ({_seconds(rows_in)} s of the"
        f" limit), {medians['ours'] / medians['limit']:.2f} x the limit."
    )


def disk_section() -> list[str]:
    """Bytes of a row."""
    lines: list[str] = []
    for name in ("month-1", "month-1-10", "day-1", "day-1-10"):
        result = load(name)
        if not result.get("sizes"):
            continue
        sizes = result["sizes"]
        lines += [
            f"{_days(result)}, {sizes['rows']:,} rows: **{sizes['bytes_a_row']:,} bytes a row"
            f" on disk** (heap {sizes['heap_a_row']:,}, indexes {sizes['indexes_a_row']:,}, TOAST"
            f" and maps {sizes['toast_and_maps_a_row']:,}).",
            "",
            *markdown(
                ("bytes of a value, mean", "row", "entries", "distribution", "metadata"),
                [
                    (
                        granularity,
                        *(f"{of[part]:,}" for part in ("row", "entries", "distribution")),
                        f"{of['metadata']:,}",
                    )
                    for granularity, of in sizes["by_granularity"].items()
                ],
            ),
        ]
        break
    return lines


CURVES = {
    "students": "students",
    "history": "days of history",
    "days": "days in one pass",
    "leaves": "leaves",
}


def growth_section(curve: str) -> list[str]:
    """A curve's table and plot."""
    found = load(f"growth-{curve}")
    if not found:
        return []
    points = found["points"]
    extra = ("plan of a read, ms",) if curve == "leaves" else ()
    first = next(iter(points.values()))
    lines = [
        machine_line(first["machine"]) + (f"; scale {found['scale']}" if "scale" in found else ""),
        "",
        *markdown(
            (CURVES[curve], "rows", "limit s", "ours s", "x limit", "x first", "peak MB", *extra),
            [
                (
                    label,
                    f"{point['rows']:,}",
                    _seconds(point["seconds"]["limit"]),
                    _seconds(point["seconds"]["ours"]),
                    _ratio(point["of_limit"]),
                    _ratio(point["seconds"]["ours"] / first["seconds"]["ours"]),
                    f"{point['peak_mb']:,.0f}",
                    *((f"{point['plan_ms']:.1f}",) if extra else ()),
                )
                for label, point in points.items()
            ],
        ),
    ]
    return [*lines, "", plot_growth(curve, list(points.values()))]


def keep_kernels(path: Path) -> None:
    """Keep the medians of pytest-benchmark's JSON, and where they were taken."""
    found = json.loads(path.read_text())
    kernels: dict[str, dict[str, float]] = {}
    for each in found["benchmarks"]:
        size = re.fullmatch(r".*\[(.*)\]", each["name"])
        kernel = each["name"].partition("[")[0].removeprefix("test_").replace("_", " ")
        kernels.setdefault(kernel, {})[size[1] if size else ""] = each["stats"]["median"]
    cpu = found["machine_info"].get("cpu", {}).get("brand_raw", "")
    save("kernels", {"at": found["datetime"], "cpu": cpu, "seconds": kernels})


def kernels_section() -> list[str]:
    """Milliseconds of every kernel by size."""
    found = load("kernels")
    if not found:
        return []
    sizes = list(next(iter(found["seconds"].values())))
    return [
        f"Milliseconds, median; {found['cpu']}, {found['at'][:10]}.",
        "",
        *markdown(
            ("kernel", *(size.replace("-", " ") for size in sizes)),
            [
                (kernel, *(f"{1000 * by_size[size]:,.2f}" for size in sizes))
                for kernel, by_size in found["seconds"].items()
            ],
        ),
    ]


def plot_day(name: str, rows: list[dict[str, Any]]) -> str:
    """Bars, the quickest on top."""
    from matplotlib import pyplot

    colours = {"ours": OURS, "limit": LIMIT}
    rows = [row for row in rows if row["way"] != "naive"]
    figure, axis = pyplot.subplots(figsize=(7.5, 0.55 * len(rows) + 1), layout="constrained")
    bars = axis.barh(
        [NAMES[row["way"]] for row in rows],
        [row["seconds"] for row in rows],
        color=[colours.get(row["way"], OTHERS) for row in rows],
    )
    axis.bar_label(
        bars,
        [f" {_seconds(row['seconds'])} s, {row['peak_mb']:,.0f} MB" for row in rows],
        color=INK,
    )
    axis.invert_yaxis()
    axis.set_xlim(0, 1.25 * max(row["seconds"] for row in rows))
    axis.set_xlabel("seconds for one day of all institutions")
    return _keep(figure, axis, f"performance-{name}", "Seconds of one day, by way")


def plot_growth(curve: str, points: list[dict[str, Any]]) -> str:
    """Seconds of ours and of the limit, and ours' memory."""
    from matplotlib import pyplot

    figure, (axis, memory) = pyplot.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
    x = [point["x"] for point in points]
    for way, colour in (("ours", OURS), ("limit", LIMIT)):
        axis.plot(
            x, [p["seconds"][way] for p in points], marker="o", color=colour, label=NAMES[way]
        )
    axis.set_ylabel("seconds")
    axis.legend(frameon=False)
    memory.plot(x, [point["peak_mb"] for point in points], marker="o", color=OURS)
    memory.set_ylabel("peak memory, MB")
    for each in (axis, memory):
        each.set_xlabel(CURVES[curve])
        each.set_ylim(bottom=0)
        each.set_xlim(left=0)
        each.xaxis.set_major_formatter("{x:,.0f}")
    memory.spines[["top", "right"]].set_visible(False)
    return _keep(figure, axis, f"performance-{curve}", f"Seconds and memory by {CURVES[curve]}")


def _keep(figure: Any, axis: Any, name: str, title: str) -> str:
    from matplotlib import pyplot

    axis.spines[["top", "right"]].set_visible(False)
    path = PAGE.with_name(f"{name}.png")
    # No date inside: the same figures give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return f"![{title}]({path.name})"


def _days(result: dict[str, Any]) -> str:
    return "One day" if result["days"] == 1 else f"{result['days']} days"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.{1 if seconds >= 10 else 2}f}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"


if __name__ == "__main__":
    main()
