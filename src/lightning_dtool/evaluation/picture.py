"""A confusion matrix as a picture; needs matplotlib, the extra `report`."""

import io
import unicodedata
import warnings
from collections.abc import Sequence

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

MAX_LABEL = 24
"""The largest number of characters of a class's name."""

MAX_NUMBERS = 20
"""The largest number of classes for which each cell shows its number."""

_MAX_LABELS = 60
"""The largest number of names along an axis; with more classes, only every second, third, … class is named."""


def confusion_picture(confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str = "") -> bytes | None:
    """Draw a confusion matrix, as torchmetrics draws it.

    The user's matplotlib backend and settings are neither changed nor used.

    Args:
        confusion: The number of samples: a row for each true class, a column for each predicted class.
        classes: The names of the classes, in the same order.
        title: The title of the picture.

    Returns:
        A PNG file; None if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    count = len(classes)
    labels = [_label(name) for name in classes]
    # In inches: a cell has room for its number, or, without numbers, for one line of a small label.
    side = min(16.0, max(2.6, count * (0.55 if count <= MAX_NUMBERS else 0.22)))
    margin = 1.2 + 0.085 * max(map(len, labels), default=0)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about characters that the font lacks
        matplotlib.rcdefaults()
        figure = Figure(figsize=(side + margin + 1.0, side + margin), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        metric = MulticlassConfusionMatrix(count)
        numbers = torch.tensor(confusion)
        # Without numbers, colours show shares of the true class, so that rare classes are as visible as frequent ones.
        shares = numbers / numbers.sum(1, keepdim=True).clamp(min=1)
        shown = numbers if count <= MAX_NUMBERS else shares
        metric.plot(shown, ax=axes, add_text=count <= MAX_NUMBERS, labels=labels, cmap="Blues")
        size = 9 if count <= MAX_NUMBERS else 7
        step = -(-count // _MAX_LABELS)
        for axis, rotation in ((axes.xaxis, 90 if count > 4 else 0), (axes.yaxis, 0)):
            axis.set_ticks(range(0, count, step))
            axis.set_ticklabels(labels[::step], rotation=rotation, fontsize=size, parse_math=False)
            axis.label.set_fontsize(11)
        digits = len(str(int(numbers.max()))) if numbers.numel() else 1
        for text in axes.texts:
            text.set_fontsize(min(11, 56 / max(digits, 3)))
            # Most cells of a large matrix are 0; hiding these makes the others easy to find.
            text.set_visible(text.get_text() != "0" or count <= 4)
        bar = figure.colorbar(axes.images[0], ax=axes, shrink=0.8, aspect=40)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("samples" if count <= MAX_NUMBERS else "share of the true class", fontsize=9)
        if title:
            axes.set_title(_label(title, 70), fontsize=10, parse_math=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _label(name: str, longest: int = MAX_LABEL) -> str:
    """Return a name as one short line without control characters."""
    plain = "".join(character if unicodedata.category(character)[0] != "C" else "?" for character in name)
    return plain if len(plain) <= longest else f"{plain[: longest - 2]}.."
