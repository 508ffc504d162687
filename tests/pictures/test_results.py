import numpy as np

from vae.pictures.results import extremes_of_each_class, first_of_each_class


def test_first_of_each_class_takes_as_many_as_the_rarest_class_has():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2])
    np.testing.assert_array_equal(first_of_each_class(labels, 6), [[1, 3], [2, 5], [0, 4]])
    np.testing.assert_array_equal(first_of_each_class(labels, 1), [[1], [2], [0]])


def test_extremes_of_each_class_are_its_lowest_and_highest_values():
    values = np.array([5.0, 1, 9, 2, 3, 2, 7])
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    lowest, highest = extremes_of_each_class(values, labels, 2)
    np.testing.assert_array_equal(lowest, [[1, 0], [3, 5]])
    np.testing.assert_array_equal(highest, [[2, 6], [4, 3]])
    assert extremes_of_each_class(values, labels, 9).shape == (2, 2, 3)


def test_classes_without_images_are_left_out():
    labels = np.array([7, 2, 7, 2, 2])
    np.testing.assert_array_equal(first_of_each_class(labels, 6), [[1, 3], [0, 2]])
