"""Forms of values that E2B's clients know and IPython does not: a table's data, a chart's, saved pictures."""

from __future__ import annotations

import math
import sys
from typing import Any

from IPython.core.formatters import BaseFormatter, catch_format_error
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from traitlets import ObjectName, Unicode

_MOST_CELLS = 1_000_000
"""Of a table whose data is sent along; a larger one is shown, and can be written to a file."""


class _DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class _ChartFormatter(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    @catch_format_error
    def __call__(self, obj: Any) -> Any:
        """matplotlib's inline backend takes what is known of figures out of every formatter's table."""
        figures = sys.modules.get("matplotlib.figure")
        return _chart(obj) if figures and isinstance(obj, figures.Figure) else super().__call__(obj)


def install(shell: InteractiveShell) -> None:
    """Teach the shell."""
    formatters = shell.display_formatter.formatters
    data, chart = _DataFormatter(parent=shell.display_formatter), _ChartFormatter(parent=shell.display_formatter)
    formatters[data.format_type], formatters[chart.format_type] = data, chart
    data.for_type_by_name("pandas.core.frame", "DataFrame", _table)
    data.for_type_by_name("pandas", "DataFrame", _table)
    formatters["application/json"].for_type(dict, _json)
    formatters["application/json"].for_type(list, _json)
    _show_pictures()


def _table(frame: Any) -> dict[str, list[Any]] | None:
    """Columns by name."""
    if frame.size > _MOST_CELLS:
        return None
    return {str(name): [_plain(value) for value in frame.iloc[:, at].tolist()] for at, name in enumerate(frame.columns)}


def _plain(value: Any) -> Any:
    """What JSON can say; anything else as text, and what is missing as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "isoformat"):
        return None if value != value else value.isoformat()
    return str(value)


def _chart(figure: Any) -> dict[str, Any] | None:
    try:
        from e2b_charts import chart_figure_to_dict

        return _finite(chart_figure_to_dict(figure)) or None
    except Exception:  # it does not know every chart, and the picture is there anyway
        return None


def _finite(value: Any) -> Any:
    """Without numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json(value: Any) -> Any:
    """What is JSON as it is."""
    import orjson

    try:
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
    except TypeError:
        return None


def _show_pictures() -> None:
    """`picture.show()` shows it where there is no screen, and so does `picture.save("name")`."""
    try:
        from PIL import Image
    except ImportError:
        return
    save = Image.Image.save

    def save_and_show(self: Any, fp: Any, format: str | None = None, **options: Any) -> None:
        save(self, fp, format, **options)
        if isinstance(fp, str):
            display(self)

    Image.Image.save = save_and_show
    Image.Image.show = lambda self, *_, **__: display(self)
