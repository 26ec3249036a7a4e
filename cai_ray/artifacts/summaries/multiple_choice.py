"""The summary of `multiple_choice`: the accuracy of each model beside what needs no model.

Tested in tests/artifacts/summaries/test_models.py.
"""

from __future__ import annotations

from pydantic import Field

from cai_ray.artifacts.summaries.summary import Summary
from cai_ray.metrics.multiple_choice import Accuracy, Baselines


class ModelAccuracy(Accuracy):
    """One model on the items that it answered."""

    dropped: dict[str, int] = Field(description="Reason -> items that it could not answer, >= 1.")
    categories: dict[str, Accuracy] = Field(description="Category -> accuracy on its items; empty without categories.")


class MultipleChoiceSummary(Summary):
    """Of one set of items; intervals are over the conversations that items share."""

    num_items: int = Field(description="Items that could be read, >= 0.")
    num_clusters: int = Field(description="Conversations that they come from, >= 0.")
    records_dropped: dict[str, int] = Field(description="Reason -> records that are no item, >= 1.")
    layout: str = Field(description='How items were asked: "file" or "comparison".')
    baselines: Baselines | None = Field(description="What needs no model; None without items.")
    models: dict[str, ModelAccuracy] = Field(description="Model, as the recipe calls it -> how it did.")
