from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from models.zoo import DetectorOptions, ImageTransform, resized_size, resolve_options
from models.zoo.masks import InstanceMasks
from models.zoo.roi_heads import RegionProposalNetwork, RoIHeads, in_crowd
from models.zoo.transform import without_crowds

OPTIONS = resolve_options(DetectorOptions(min_size=64, max_size=80))
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_float_images_come_out_as_torchvision_has_them() -> None:
    images = [torch.rand(3, 50, 70), torch.rand(3, 90, 40)]
    targets = [{"boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]])} for _ in images]
    ours, moved = ImageTransform(OPTIONS)(images, targets)
    theirs, expected = GeneralizedRCNNTransform(64, 80, MEAN, STD)(images, targets)

    assert torch.equal(ours.tensors, theirs.tensors)
    assert ours.image_sizes == theirs.image_sizes
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(moved, expected, strict=True))
    assert targets[0]["boxes"].tolist() == [[1.0, 2.0, 30.0, 40.0]]


def test_the_worker_resizes_to_the_size_that_the_model_would() -> None:
    for height, width in ((50, 70), (333, 500), (1, 900), (64, 64), (1080, 1919)):
        batch, _ = ImageTransform(OPTIONS)([torch.rand(3, height, width)])
        assert resized_size(OPTIONS, height, width) == batch.image_sizes[0]


def test_uint8_images_of_their_final_size_are_normalised_in_the_batch() -> None:
    images = [
        torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8),
        torch.randint(0, 256, (3, 33, 64), dtype=torch.uint8),
    ]
    transform = ImageTransform(OPTIONS)
    transform.resize_images = False
    theirs = GeneralizedRCNNTransform(64, 80, MEAN, STD, _skip_resize=True)

    ours, _ = transform(images)
    expected, _ = theirs([image / 255 for image in images])

    assert ours.image_sizes == [(40, 60), (33, 64)]
    torch.testing.assert_close(ours.tensors, expected.tensors, rtol=0, atol=2e-6)


def test_a_batch_lies_where_the_one_before_lay_once_nobody_needs_that() -> None:
    transform = ImageTransform(OPTIONS)
    transform.resize_images, transform.channels_last = False, True
    light, dark = (torch.full((3, 64, 64), level, dtype=torch.uint8) for level in (255, 0))
    kernel = torch.ones(1, 3, 1, 1, requires_grad=True)

    place = transform([light])[0].tensors.data_ptr()
    assert transform([dark])[0].tensors.data_ptr() == place
    assert transform([dark[:, :32]])[0].tensors.data_ptr() == place
    assert transform([dark, dark])[0].tensors.shape == (2, 3, 64, 64)
    held = transform([light])[0].tensors
    assert transform([dark])[0].tensors.data_ptr() != held.data_ptr()
    assert held.amin() > 0

    out = functional.conv2d(transform([light])[0].tensors, kernel)  # autograd alone still needs the batch
    transform([dark])
    out.mean().backward()
    torch.testing.assert_close(kernel.grad.flatten(), (1 - torch.tensor(MEAN)) / torch.tensor(STD), rtol=1e-3, atol=0)


def test_uint8_images_can_be_resized_by_the_model() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    ours, _ = ImageTransform(OPTIONS)([image])
    expected, _ = ImageTransform(OPTIONS)([image / 255])
    assert torch.equal(ours.tensors, expected.tensors)


def test_masks_and_crowds_are_resized_with_their_boxes() -> None:
    target = {
        "boxes": torch.tensor([[0.0, 0.0, 16.0, 8.0], [8.0, 8.0, 16.0, 16.0]]),
        "labels": torch.tensor([1, 2]),
        "iscrowd": torch.tensor([0, 1]),
        "masks": InstanceMasks.from_coco([[[0, 0, 16, 0, 16, 8, 0, 8]], [[8, 8, 16, 8, 16, 16, 8, 16]]], 32, 32),
    }
    _, (moved,) = ImageTransform(OPTIONS)([torch.rand(3, 32, 32)], [target])
    assert moved["boxes"].tolist() == [[0, 0, 32, 16]]
    assert moved["labels"].tolist() == [1]
    assert moved["masks"].frames.tolist() == [[0, 0, 32, 16]]
    assert moved["crowds"].tolist() == [[16, 16, 32, 32]]


def test_an_image_that_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an image is \(3, H, W\), not \(50, 70\)"):
        ImageTransform(OPTIONS)([torch.rand(50, 70)])


def test_what_lies_in_a_crowd_is_no_negative() -> None:
    target = without_crowds(
        {
            "boxes": torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 100.0, 100.0]]),
            "labels": torch.tensor([1, 1]),
            "iscrowd": torch.tensor([0, 1]),
        }
    )
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 60.0, 60.0], [90.0, 90.0, 130.0, 130.0]])
    assert in_crowd(boxes, target).tolist() == [False, True, False]

    heads = RoIHeads(None, None, None, 0.5, 0.5, 8, 0.25, None, 0.05, 0.5, 100)
    assert heads.assign([boxes], [target])[1][0].tolist() == [1, -1, 0]
    network = RegionProposalNetwork(None, None, 0.7, 0.3, 8, 0.5, {}, {}, 0.7)
    assert network.assign_targets_to_anchors([boxes], [target])[0][0].tolist() == [1, -1, 0]
