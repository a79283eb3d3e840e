"""Patches over an image: each covered by the weight with which it is read."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from graphattn.viz.coloring import CHANGE_COLORS
from graphattn.viz.patches import COVER, checked_image, draw_patches
from tests.layered import by_hand

IMAGE = np.linspace(0, 1, 4 * 6).reshape(4, 6)  # patches of 2: 2 × 3


def reading(edges, number=6, **fields):
    return by_hand([0] * number + [1] * number, [(s, number + t, w) for s, t, w in edges], **fields)


def cover_of(ax) -> np.ndarray:
    return np.asarray(ax.images[1].get_array())[..., 3]


def test_the_weight_of_every_patch_for_a_target_lies_over_it() -> None:
    ax = draw_patches(reading([(1, 4, 0.8), (5, 4, 0.2), (4, 4, 0.4), (0, 2, 9.0)]), IMAGE, 2, target=4)
    np.testing.assert_allclose(cover_of(ax), COVER * np.array([[0, 1, 0], [0, 0.5, 0.25]]))
    (heads,) = [each for each in ax.collections if isinstance(each, PolyCollection) and len(each.get_paths()) == 2]
    tips = np.array([path.vertices[0] for path in heads.get_paths()])
    assert np.abs(tips - [1, 1]).max() < 0.5  # both point at patch (1, 1)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "patch, weight 0.8" in names and "target" in names
    assert ax.get_xlabel().startswith("overlay: how much of each patch is read by element 4")


def test_a_change_has_a_colour_for_more_and_one_for_less() -> None:
    ax = draw_patches(reading([(1, 4, 0.8), (5, 4, -0.4)]), IMAGE, 2, target=4)
    color = np.asarray(ax.images[1].get_array())[..., :3]
    np.testing.assert_allclose(color[0, 1], to_rgb(CHANGE_COLORS["more"]))
    np.testing.assert_allclose(color[1, 2], to_rgb(CHANGE_COLORS["less"]))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"more", "less", "patch, weight 0.8", "patch, weight -0.8"} <= set(names)


def test_without_a_target_it_is_the_mean_over_all() -> None:
    ax = draw_patches(reading([(1, 4, 0.8), (1, 5, 0.4), (0, 2, 0.6)]), IMAGE, (2, 2))
    np.testing.assert_allclose(cover_of(ax)[0], [COVER / 2, COVER, 0])
    assert "patch, weight 0.2" in [text.get_text() for text in ax.get_legend().get_texts()]  # 1.2 over 6 elements


def test_a_class_token_has_no_place_on_the_image() -> None:
    ax = draw_patches(reading([(0, 0, 0.5), (6, 0, 0.5), (2, 3, 0.1)], 7), IMAGE, 2, target=0, num_before=1)
    np.testing.assert_allclose(cover_of(ax), COVER * np.array([[0, 0, 0], [0, 0, 1.0]]))
    assert "drawn: no edge" in ax.get_xlabel().replace("\n", " ")
    names = tuple("cabdefg")
    ax = draw_patches(reading([(2, 3, 0.1)], 7, labels=names), IMAGE, 2, target="d", num_before=1)
    assert ax.get_xlabel().startswith("overlay: how much of each patch is read by element d")
    with pytest.raises(ValueError, match=r"7 elements, the image 2 × 3 patches and 0 before them\. Check patch_size"):
        draw_patches(reading([(0, 6, 1.0)], 7), IMAGE, 2)


def test_an_image_of_more_patches_is_refused_unless_pruning_left_elements_out() -> None:
    with pytest.raises(ValueError, match=r"6 elements, the image 4 × 6 patches and 0 before them\. Check patch_size"):
        draw_patches(reading([(0, 1, 1.0)]), IMAGE, 1)
    pruned = reading([(0, 1, 1.0), (0, 5, 0.1)]).keep(torch.tensor([0]))
    np.testing.assert_allclose(cover_of(draw_patches(pruned, IMAGE, 2))[0], [COVER, 0, 0])


def test_images_come_as_arrays_and_tensors_grey_and_coloured() -> None:
    whole = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_allclose(checked_image(torch.from_numpy(whole)), whole / 255)
    assert checked_image(torch.rand(2, 4)).shape == (2, 4, 3)
    for wrong, advice in (
        (np.zeros((3, 4, 6)), r"got \[3, 4, 6\]. Channels come last: pass image.permute\(1, 2, 0\)"),
        (np.zeros(4), r"got \[4\]"),
        (np.zeros((0, 4)), r"got \[0, 4\]"),
        (np.full((2, 2), -1.5), "got -1.5 to -1.5. Undo the normalisation"),
        (np.full((2, 2), np.nan), "Undo the normalisation"),
    ):
        with pytest.raises(ValueError, match=advice):
            checked_image(wrong)


@pytest.mark.parametrize("patch_size", [4, (2, 4), 0, (3, 2)])
def test_an_image_that_patches_do_not_fill_is_refused(patch_size) -> None:
    with pytest.raises(ValueError, match="patch_size must divide the image of 4 × 6 pixels, got"):
        draw_patches(reading([(0, 1, 1.0)]), IMAGE, patch_size)
