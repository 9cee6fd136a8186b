"""What the benchmark says: text for a terminal, the form of the JSON file, and tables for kernels/README.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dcnlab.bench.gpu.floors import FLOORS
from dcnlab.tables import format_table

SCHEMA_VERSION = 1
NOT_MEASURED = (
    "No GPU figure is measured yet. `dcnlab bench gpu --out kernels/results/NAME.json`, on a machine with an NVIDIA "
    "GPU and CuPy, measures them; `python docs/refresh.py` then shows them here."
)
FLOOR_NAMES = {"hbm": "HBM", "l1": "L1", "issue": "issue"}

Row = Mapping[str, Any]
# The form of a record: a type, several, a list of things of one form, or a mapping; ... stands for any key.
_NUMBER = (int, float)
_CONTENDER = {"name": str, "kind": str}  # and a timing, or why there is none
_TIMING = {"us": _NUMBER, "low": _NUMBER, "high": _NUMBER, "launches": int, "copies": int, "repeats": int}
SCHEMA: dict[Any, Any] = {
    "schema": int,
    "gpu": {"name": str, "compute_capability": str, "driver": str, "cupy": str, "l2_bytes": int, "processors": int},
    "machine": {"date": str, "python": str, "numpy": str},
    "seconds": _NUMBER,
    "budget_seconds": _NUMBER,
    "ceilings": {...: {"per_second": _NUMBER, "unit": str, "what": str, "timing": _TIMING}},
    "tests": dict,
    "peers": {...: str},
    "checks": [{"what": str, "size": str, "dtype": str, "error": (*_NUMBER, type(None)), "right": bool}],
    "rows": [
        {
            "operator": str,
            "size": str,
            "dtype": str,
            "batch": int,
            "offsets": str,
            "outside": (*_NUMBER, type(None)),
            "bytes": int,
            "floors": {...: _NUMBER},
            "contenders": [_CONTENDER],
        }
    ],
    "models": [{"variant": str, "size": int, "batch": int, "times": {...: _TIMING}, "share": {...: _NUMBER}}],
    "failed": [str],
    "dropped": [str],
    "without_problem": [str],
}


def require_valid(record: Any) -> None:
    """Refuse a record of another form.

    Raises
    ------
    ValueError
        Saying where, what was expected and what came.
    """
    _require(record, SCHEMA, "record")
    if record["schema"] != SCHEMA_VERSION:
        raise ValueError(f"record: schema must be {SCHEMA_VERSION}, got {record['schema']}")
    for row in record["rows"]:
        for contender in row["contenders"]:
            if "failed" not in contender:
                _require(contender, _TIMING, f"record.rows: {row['operator']} {contender['name']}")


def _require(value: Any, form: Any, where: str) -> None:
    if isinstance(form, dict):
        _require(value, dict, where)
        for key, inner in form.items():
            if key is not ... and key not in value:
                raise ValueError(f"{where} must have {key!r}, got {', '.join(map(str, value)) or 'nothing'}")
            for name in value if key is ... else (key,):
                _require(value[name], inner, f"{where}.{name}")
    elif isinstance(form, list):
        _require(value, list, where)
        for number, item in enumerate(value):
            _require(item, form[0], f"{where}[{number}]")
    elif not isinstance(value, form):
        names = " or ".join(t.__name__ for t in (form if isinstance(form, tuple) else (form,)))
        raise ValueError(f"{where} must be {names}, got {value!r}")


# -- text ----------------------------------------------------------------------------------------------------------


def text(record: Mapping[str, Any]) -> str:
    """Return the report that `dcnlab bench gpu` prints."""
    parts = [_headline(record), "", "what the GPU does at best, measured", _ceilings(record), "", _checks(record)]
    parts.append(_tests(record["tests"]))
    absent = [f"{name}: {why}" for name, why in record["peers"].items() if why]
    parts += [f"not timed beside us: {line}" for line in absent]
    for operator in dict.fromkeys(row["operator"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["operator"] == operator]
        parts += ["", operator, format_table(ROW_HEADER, [line for row in rows for line in _lines(row)])]
    if record["models"]:
        header = ["InternImage", "batch", "pass", "ms", "low .. high", "share of DCNv3 and its modulation"]
        parts += ["", format_table(header, [line for model in record["models"] for line in _model_lines(model)])]
    parts += _left_out(record)
    return "\n".join(parts)


ROW_HEADER = ["size", "type", "batch", "offsets", "outside", "", "us", "low .. high", "GB/s"]
ROW_HEADER += [f"% {FLOOR_NAMES[name]}" for name in FLOORS]


def _headline(record: Mapping[str, Any]) -> str:
    gpu, m = record["gpu"], record["machine"]
    return (
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, {gpu['processors']} multiprocessors, "
        f"{gpu['l2_bytes'] / 2**20:.0f} MB of L2, driver {gpu['driver']}, CuPy {gpu['cupy']}, NumPy {m['numpy']}, "
        f"Python {m['python']}, {m['date']}; {record['seconds']:.0f} s"
    )


def _ceilings(record: Mapping[str, Any]) -> str:
    lines = []
    for ceiling in record["ceilings"].values():
        timing = ceiling["timing"]
        spread = (timing["high"] - timing["low"]) / timing["us"]
        lines.append([ceiling["what"], f"{ceiling['per_second'] / 1e12:.3g} T{ceiling['unit']}/s", f"{spread:.1%}"])
    return format_table(["", "a second", "spread"], lines)


def _checks(record: Mapping[str, Any]) -> str:
    wrong = [c for c in record["checks"] if not c["right"]]
    if not wrong:
        return f"{len(record['checks'])} checks against float64: all right"
    lines = [f"{len(wrong)} of {len(record['checks'])} checks against float64 are WRONG:"]
    lines += [f"  {c['what']} {c['size']} {c['dtype']}: {c['error']} exceeds {c['allowed']:.0e}" for c in wrong]
    return "\n".join(lines)


def _tests(tests: Mapping[str, Any]) -> str:
    if not tests:
        return "GPU tests: not asked for"
    if not tests["ran"]:
        return f"GPU tests did not run to the end: {tests['why_not']}"
    counts = ", ".join(f"{tests[what]} {what}" for what in ("passed", "failed", "errors", "skipped"))
    return f"GPU tests: {counts}" + (f"\n{tests['tail']}" if tests.get("tail") else "")


def contender_name(contender: Row) -> str:
    """Return how tables call who solved a problem."""
    name = f"rung {contender['name']}" if contender["kind"] == "rung" else contender["name"]
    whole = contender["kind"] == "call" or contender.get("alone") is False
    return f"{name}, whole call" if whole else str(name)


def _lines(row: Row) -> Iterator[list[str]]:
    """Yield a line for each contender; the problem itself stands on the first."""
    outside = "" if row["outside"] is None else f"{row['outside']:.1%}"
    problem = [row["size"], row["dtype"], str(row["batch"]), row["offsets"], outside]
    for contender in row["contenders"]:
        yield [*problem, contender_name(contender), *_figures(row, contender)]
        problem = [""] * len(problem)


def _figures(row: Row, contender: Row) -> list[str]:
    if "failed" in contender:
        return [contender["failed"], "", "", *[""] * len(FLOORS)]
    us = contender["us"]
    waited = " (host)" if contender["waited"] else ""
    shares = [f"{row['floors'][name] / us:.0%}" if name in row["floors"] else "" for name in FLOORS]
    spread = f"{contender['low']:.4g} .. {contender['high']:.4g}"
    return [f"{us:.4g}{waited}", spread, f"{row['bytes'] / us * 1e-3:.0f}", *shares]


def _model_lines(model: Row) -> Iterator[list[str]]:
    name = f"{model['variant']} {model['size']}x{model['size']}"
    for which, timing in model["times"].items():
        spread = f"{timing['low'] / 1e3:.4g} .. {timing['high'] / 1e3:.4g}"
        yield [name, str(model["batch"]), which, f"{timing['us'] / 1e3:.4g}", spread, f"{model['share'][which]:.0%}"]


def _left_out(record: Mapping[str, Any]) -> list[str]:
    lines = [""] if record["failed"] or record["dropped"] or record["without_problem"] else []
    lines += [f"failed: {line}" for line in record["failed"]]
    if record["dropped"]:
        lines.append(f"left out after {record['budget_seconds']:g} s, {len(record['dropped'])} problems:")
        lines += [f"  {title}" for title in record["dropped"]]
    if record["without_problem"]:
        lines.append(f"no problem is made for: {', '.join(record['without_problem'])}")
    return lines


# -- kernels/README.md -----------------------------------------------------------------------------------------------


def markdown(record: Mapping[str, Any], picture: str | None = None) -> str:
    """Return the figures of one GPU: its ceilings, and DCNv3 at the batch and offsets that matter most."""
    lines = [f"### {record['gpu']['name']}", "", "| at best, measured | a second |", "|---|---|"]
    for ceiling in record["ceilings"].values():
        lines.append(f"| {ceiling['what']} | {ceiling['per_second'] / 1e12:.3g} T{ceiling['unit']}/s |")
    for operator in ("dcnv3_forward", "dcnv3_backward"):
        for dtype in dict.fromkeys(row["dtype"] for row in record["rows"]):
            rows = main_rows(record, operator, dtype)
            if rows:
                lines += ["", *_markdown_table(operator, rows)]
    if picture is not None:
        lines += ["", f"![time of each rung over its floor]({picture})"]
    for model in record["models"]:
        times = ", ".join(
            f"{which} {timing['us'] / 1e3:.4g} ms ({model['share'][which]:.0%} of it DCNv3 and its modulation)"
            for which, timing in model["times"].items()
        )
        lines += [
            "",
            f"InternImage-{model['variant']}, {model['size']}x{model['size']}, batch {model['batch']}: {times}.",
        ]
    wrong = [c["what"] for c in record["checks"] if not c["right"]]
    lines += [
        "",
        f"us, and in brackets the share of the largest floor. {_headline(record)}. Checks against float64: "
        f"{len(record['checks']) - len(wrong)} right, {len(wrong)} wrong. {_tests(record['tests']).splitlines()[0]}.",
    ]
    return "\n".join(lines)


def main_rows(record: Mapping[str, Any], operator: str, dtype: str) -> list[Row]:
    """Return the rows of the first batch and offsets that were timed: those that matter most."""
    rows = [row for row in record["rows"] if (row["operator"], row["dtype"]) == (operator, dtype)]
    return [row for row in rows if (row["batch"], row["offsets"]) == (rows[0]["batch"], rows[0]["offsets"])]


def _markdown_table(operator: str, rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    title = f"{operator}, {first['dtype']}, batch {first['batch']}, offsets {first['offsets']}"
    lines = [f"| {title} | " + " | ".join(row["size"] for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    names = dict.fromkeys(contender_name(c) for row in rows for c in row["contenders"])
    floor = [f"{FLOOR_NAMES[name]} {max(row['floors'].values()):.3g}" for row in rows for name in (largest(row),)]
    lines.append("| largest floor | " + " | ".join(floor) + " |")
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(row, name) for row in rows) + " |")
    return lines


def largest(row: Row) -> str:
    """Return the name of the largest floor of a row."""
    return max(row["floors"], key=lambda name: row["floors"][name])


def _cell(row: Row, name: str) -> str:
    for contender in row["contenders"]:
        if contender_name(contender) == name:
            if "failed" in contender:
                return str(contender["failed"]).replace("|", "\\|")
            return f"{contender['us']:.3g} ({max(row['floors'].values()) / contender['us']:.0%})"
    return ""
