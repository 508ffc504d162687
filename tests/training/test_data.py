import torch

from vae.training.data import Data


def test_data_moves_to_a_device_as_it_is(data):
    moved = data.to(torch.device("meta"))
    assert moved.binarize == data.binarize
    for before, after in zip(data.splits, moved.splits, strict=True):
        assert {after.images.device.type, after.labels.device.type} == {"meta"}
        assert (after.images.shape, after.images.dtype) == (before.images.shape, torch.uint8)


def test_streamed_images_stay_where_they_are_and_all_else_moves(data):
    moved = data.to(torch.device("meta"), streamed=True)
    assert moved.train.images is data.train.images
    others = [moved.train.labels, moved.validation.images, moved.validation.labels, moved.showcase.images]
    assert {tensor.device.type for tensor in others} == {"meta"}


def test_there_need_be_no_validation_split(unvalidated):
    moved = unvalidated.to(torch.device("meta"))
    assert isinstance(moved, Data)
    assert moved.splits == (moved.train, None, moved.showcase)
