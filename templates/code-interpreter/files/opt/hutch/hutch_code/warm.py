"""What is imported, and used once, before any code runs: what that costs is paid when the template is built."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import threading
import warnings

_MODULES = (
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "IPython.core.completer",
    "asyncio",
    "sqlite3",
    "ssl",
    "decimal",
    "fractions",
    "statistics",
    "csv",
    "zipfile",
    "xml.etree.ElementTree",
    "numpy",
    "pandas",
    "scipy.stats",
    "scipy.optimize",
    "scipy.sparse",
    "scipy.signal",
    "scipy.interpolate",
    "matplotlib.pyplot",
    "seaborn",
    "sklearn.linear_model",
    "sklearn.ensemble",
    "sklearn.cluster",
    "sklearn.decomposition",
    "sklearn.model_selection",
    "sklearn.preprocessing",
    "sklearn.pipeline",
    "sklearn.metrics",
    "PIL.Image",
    "openpyxl",
    "requests",
    "bs4",
    "lxml.etree",
    "e2b_charts",
    "hutch_code.python_service",
)


def up() -> None:
    """Import it all. What a template of the user's leaves out is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _MODULES:
            try:
                importlib.import_module(name)
            except ImportError as error:
                os.write(2, f"not warm: {name}: {error}\n".encode())
        for use in (_show, _stumble):
            with contextlib.suppress(ImportError):
                use()
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        os.write(2, f"threads that no kernel will have: {names}\n".encode())


def _stumble() -> None:
    """The first traceback looks for what finds its place in the source."""
    from IPython.core.ultratb import AutoFormattedTB

    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        AutoFormattedTB(mode="Context").text(*sys.exc_info())


def _show() -> None:
    """The first chart looks for fonts, the first table for its formats."""
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = pd.DataFrame({"number": [1.5, 2.5], "name": ["a", "b"]})
    frame._repr_html_()
    frame.groupby("name").sum()
    figure = Figure()
    figure.subplots().plot([1, 2], [1, 2])
    FigureCanvasAgg(figure).print_png(io.BytesIO())
