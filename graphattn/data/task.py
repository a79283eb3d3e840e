"""What a data set asks for: the kind of label, how many of them, and the metric that decides which model is better."""

import math
from typing import NamedTuple

KIND_OF_METRIC = {"rmse": "regression", "rocauc": "binary", "ap": "binary"}
LOWER_IS_BETTER = {"rmse"}


class Task(NamedTuple):
    """The task of a data set: `num_tasks` labels per graph, each a number ("regression") or 0/1 ("binary").

    A label that is missing is NaN, in both kinds.

    >>> task = Task("ogbg-molesol", "regression", num_tasks=1, metric="rmse")
    >>> task.is_better(0.9, than=1.1)
    True
    """

    name: str
    kind: str  # "regression" | "binary"
    num_tasks: int
    metric: str  # "rmse" | "rocauc" | "ap"

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value of the metric is the better one."""
        return self.metric in LOWER_IS_BETTER

    def is_better(self, value: float, than: float) -> bool:
        """Returns whether `value` of the metric beats `than`; NaN beats nothing and is beaten by every number.

        >>> Task("toy", "binary", 1, "rocauc").is_better(0.5, than=float("nan"))
        True
        """
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value < than if self.lower_is_better else value > than

    def checked(self) -> "Task":
        """Returns the task unchanged.

        Raises:
            ValueError: if the metric is unknown, belongs to another kind, or there is no label.
        """
        if self.metric not in KIND_OF_METRIC:
            raise ValueError(f"task metric must be one of {sorted(KIND_OF_METRIC)}, got {self.metric!r}.")
        if self.kind != KIND_OF_METRIC[self.metric]:
            fitting = sorted(metric for metric, kind in KIND_OF_METRIC.items() if kind == self.kind)
            advice = f"use {' or '.join(fitting)}" if fitting else "the kinds are 'regression' and 'binary'"
            raise ValueError(f"a task of kind {self.kind!r} cannot have the metric {self.metric!r}: {advice}.")
        if self.num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, got {self.num_tasks}. Every graph needs a label to learn.")
        return self
