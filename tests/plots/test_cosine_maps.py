"""The heat map of cosines shows the matrix, with its classes in the middle of their blocks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from repanalysis import plots
from repanalysis.analyses.cosines import class_cosines


def test_the_image_is_the_matrix_and_names_are_text(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(9, 4)), np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    x[4] = 0
    values = class_cosines(x, y)
    axes = plots.cosines(values, title="layer$_1$", names=["$a$", "<b>", "c"])
    image = axes.get_images()[0]
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), values.values)
    assert image.get_clim() == (0, 1)
    assert axes.get_yticks().tolist() == [1.5, 4.5, 7.0]
    axes.figure.canvas.draw()
    assert "n = 9" in axes.get_xlabel()
    plt.close(axes.figure)


def test_it_draws_into_given_axes() -> None:
    figure, axes = plt.subplots()
    assert plots.cosines(class_cosines(np.eye(3), [0, 1, 2]), ax=axes) is axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
    plt.close(figure)
