import numpy as np
import pytest
import torch
from scipy import stats

from tests.drawing import CAPTION, cut, enlarge, make_images, read_canvas, read_ticks
from vae.pictures.latent_space import (
    decode_plane,
    interpolate,
    interpolations_figure,
    manifold_figure,
    traversals_figure,
    traverse,
)


@pytest.mark.parametrize("conditional", [False, True])
def test_interpolations_are_between_their_ends_and_name_the_label_used(conditional):
    starts, ends = make_images(2, 3, 28, 28)
    decoded = make_images(3, 5, 28, 28)
    figure = interpolations_figure(starts, decoded, ends, conditional, CAPTION)
    canvas = read_canvas(figure)
    assert canvas[:28, :28].tolist() == starts[0, 0].tolist()
    assert canvas[-28:, -28:].tolist() == ends[2, 0].tolist()
    labels = [name for name, _ in read_ticks(figure.axes[0].xaxis)]
    assert labels == ["start", "decoded along a straight line", "end"]
    middle = dict(read_ticks(figure.axes[0].xaxis))[labels[1]]
    assert cut(canvas, 13.5 + 30, middle, 28).tolist() == decoded[1, 2, 0].tolist()
    assert ("labeled as the nearer end" in figure.texts[0].get_text()) == conditional


def test_traversals_name_the_dimensions_and_whole_standard_deviations():
    decoded = make_images(2, 5, 28, 28)
    figure = traversals_figure(decoded, [7, 0], [2.345, -0.001], [-1, -0.5, 0, 0.5, 1], "Bag", CAPTION)
    assert [name for name, _ in read_ticks(figure.axes[0].yaxis)] == ["z7: 2.35 nats", "z0: 0.00 nats"]
    minus = "\N{MINUS SIGN}"
    assert [name for name, _ in read_ticks(figure.axes[0].xaxis)] == [f"{minus}1 sd", "", "mean", "", "+1 sd"]
    assert figure.texts[0].get_text().endswith("of class Bag")


def test_manifold_names_its_middle_and_says_the_class_that_it_was_given():
    decoded, places = make_images(11, 11, 8, 8), np.arange(-5, 6) / 5
    figure = manifold_figure(decoded, places, places[::-1], "the prior's quantiles", None, CAPTION)
    across, up = (dict(read_ticks(axis)) for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis))
    minus = "\N{MINUS SIGN}"
    assert set(across) == {f"{minus}1.00", "z0 = 0.00", "1.00", ""}
    assert up["1.00"] < up["z1 = 0.00"] < up[f"{minus}1.00"], "rows count downwards"
    shown = cut(read_canvas(figure), up["1.00"], across[f"{minus}1.00"], 24)
    np.testing.assert_array_equal(shown, enlarge(decoded[0, 0], 24))
    assert figure.texts[0].get_text() == "The latent plane, decoded at the prior's quantiles"
    conditional = manifold_figure(decoded, places, places, "the prior's quantiles", "Coat", CAPTION)
    assert conditional.texts[0].get_text().endswith("(class Coat)")


@pytest.mark.parametrize("condition", ["none", "label"])
def test_interpolations_end_at_the_means_and_pass_half_way(make_model, condition):
    model = make_model(spread=2.0, condition=condition)
    means = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    labels = np.array([4, 5, 6])
    found = interpolate(model, means, labels, 5)

    def decode(latent, label):
        return model.decode(torch.from_numpy(latent), torch.tensor(label)).detach().numpy()

    for line, (start, end) in enumerate(((0, 1), (1, 2), (2, 0))):
        between = [means[start] + share * (means[end] - means[start]) for share in np.float32([0, 0.25, 0.5, 0.75, 1])]
        nearer = [labels[end if step >= 2 else start] for step in range(5)]
        expected = [decode(latent, label) for latent, label in zip(between, nearer, strict=True)]
        # Float32 sums in another order, as one is decoded at a time here.
        np.testing.assert_allclose(found[line], expected, atol=1e-6)


def test_a_traversal_moves_one_dimension_and_no_other(make_model):
    model = make_model(spread=2.0)
    mean, spread = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 0])
    found = traverse(model, mean, spread, np.array([1, 2]), np.array([-3.0, 0, 3]), 0)
    for step, moved in enumerate((-5.8, 0.2, 6.2)):
        expected = model.decode(torch.tensor([0.1, moved, 0.3])).detach()
        np.testing.assert_allclose(found[0, step], expected, atol=1e-6)  # float32
    assert np.ptp(found[0], axis=0).max() > 0.01
    # A dimension without any spread stays where it is; rows of one batch may differ in their last bits, depending on
    # how the processor's kernels cut the batch.
    np.testing.assert_allclose(found[1], found[1, [0, 0, 0]], atol=1e-6)


def test_the_plane_of_a_standard_normal_prior_is_cut_at_its_quantiles(make_model):
    model = make_model(latent_dim=2)
    plane = decode_plane(model, np.zeros((4, 2), np.float32), 5, 0)
    np.testing.assert_allclose(plane.across, stats.norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9]), atol=1e-12)
    np.testing.assert_array_equal(plane.up, plane.across[::-1])
    corner = model.decode(torch.tensor([plane.across[0], plane.up[0]]).float()).detach()
    np.testing.assert_allclose(plane.decoded[0, 0], corner, atol=1e-6)  # float32
    assert plane.places == "the prior's quantiles"


def test_the_plane_of_another_prior_is_cut_at_the_means_quantiles(make_model):
    model = make_model(latent_dim=2, prior="gaussian_mixture", prior_components=2)
    means = np.float32([[0, 10], [1, 30], [2, 20], [3, 50], [4, 40]])
    plane = decode_plane(model, means, 2, 0)
    np.testing.assert_allclose(plane.across, [1, 3])
    np.testing.assert_allclose(plane.up, [40, 20])
    assert plane.places == "the posterior means' quantiles"
