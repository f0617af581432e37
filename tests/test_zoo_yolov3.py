from __future__ import annotations

import numpy as np
import pytest
import torch

from models.errors import DetectorError
from models.zoo import DetectorOptions, build_detector, darknet_order, kmeans_anchors
from models.zoo.yolov3 import COCO_ANCHORS, STRIDES, Darknet53
from models.zoo.yolov3_loss import Priors, assign, yolo_losses

SHAPES = [(3, 4), (6, 8), (12, 16)]  # of an image of 96 x 128


@pytest.fixture
def priors() -> Priors:
    return Priors.of(SHAPES, COCO_ANCHORS, STRIDES, torch.device("cpu"))


def test_darknet_has_75_convolutions_and_the_published_number_of_floats() -> None:
    with torch.device("meta"):
        model = build_detector(DetectorOptions(name="yolov3_darknet53"), 81)
    order = darknet_order(model)
    state = model.state_dict()

    floats = 0
    for conv, norm in order:
        layers = (conv, norm) if norm else (conv,)
        tensors = [key for key in state for layer in layers if key.startswith(f"{layer}.")]
        floats += sum(state[key].numel() for key in tensors if not key.endswith("num_batches_tracked"))
        assert norm or f"{conv}.bias" in state
    assert len(order) == len({conv for conv, _ in order}) == 75
    assert floats == 62_001_757  # yolov3.weights is 20 bytes more than 4 times that
    backbone = torch.nn.Module()
    with torch.device("meta"):
        backbone.backbone = Darknet53()
    assert darknet_order(backbone) == order[:52]


def test_an_object_that_is_its_anchor_is_learned_by_that_place(priors: Priors) -> None:
    place = 3 * 4 * 3 + (2 * 8 + 5) * 3 + 1  # stride 16, row 2, column 5, the anchor of 62 x 45
    box = priors.boxes[place : place + 1]
    answer = assign(priors, box)

    assert answer[place] == 0
    assert (answer == 0).sum() == 1
    assert torch.equal(priors.encode(box, torch.tensor([place])), torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    assert torch.allclose(priors.decode(torch.zeros(1, len(answer), 4))[0], priors.boxes)


def test_what_is_encoded_decodes(priors: Priors) -> None:
    boxes = torch.tensor([[10.0, 20.0, 40.0, 90.0], [60.0, 5.0, 75.0, 12.0]])
    answer = assign(priors, boxes)
    places = torch.where(answer >= 0)[0]
    wanted = priors.encode(boxes[answer[places]], places)
    raw = torch.zeros(1, len(answer), 4)
    raw[0, places] = torch.cat((torch.logit(wanted[:, :2]), wanted[:, 2:]), 1)
    torch.testing.assert_close(priors.decode(raw)[0, places], boxes[answer[places]], rtol=0, atol=1e-3)
    assert set(answer[places].tolist()) == {0, 1}


def test_an_object_on_the_edge_is_learned_too(priors: Priors) -> None:
    assert (assign(priors, torch.tensor([[120.0, 90.0, 136.0, 102.0]])) == 0).any()


def test_places_in_a_crowd_learn_nothing(priors: Priors) -> None:
    predictions = torch.full((1, len(priors.centers), 6), 3.0, requires_grad=True)
    empty = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
    crowd = empty | {"crowds": torch.tensor([[0.0, 0.0, 128.0, 96.0]])}
    without, within = (yolo_losses(predictions, priors, [target])["loss_object"] for target in (empty, crowd))
    assert within < without / 2
    assert (
        torch.autograd.grad(within, predictions)[0][0, 3 * 4 * 3 + (3 * 8 + 4) * 3, 4] == 0
    )  # stride 16, row 3, column 4


def test_anchors_that_do_not_divide_among_the_maps_are_refused() -> None:
    with pytest.raises(DetectorError, match="yolov3_mobilenet_v3: anchors are"):
        build_detector(DetectorOptions(name="yolov3_mobilenet_v3", anchors=((10, 10), (20, 20))), 3)


def test_kmeans_finds_the_sizes_that_are_there() -> None:
    draw = np.random.default_rng(0)
    sizes = np.array([(10, 10), (40, 20), (20, 60), (100, 90)])
    boxes = sizes[draw.integers(4, size=400)] * draw.uniform(0.95, 1.05, (400, 2))

    anchors, recall = kmeans_anchors(boxes, n=4, seed=3)

    assert np.allclose(anchors, [(10, 10), (40, 20), (20, 60), (100, 90)], rtol=0.05)
    assert recall == 1
    assert kmeans_anchors(boxes, n=4, seed=3) == (anchors, recall)
    assert kmeans_anchors(boxes, n=1)[1] < 0.6


def test_kmeans_needs_boxes_enough() -> None:
    with pytest.raises(ValueError, match="9 anchors from 1 boxes of different sizes"):
        kmeans_anchors(np.array([[3.0, 4.0], [3.0, 4.0], [0.0, 5.0]]))


def test_the_first_class_row_is_label_1() -> None:
    torch.manual_seed(0)
    model = build_detector(DetectorOptions(name="yolov3_mobilenet_v3", min_size=64, max_size=64), 4).eval()
    with torch.no_grad():
        for layer in model.yolo_output:
            layer.weight.zero_()
            layer.bias.view(3, 8)[:] = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0, -9.0, 3.0, -9.0])  # object, second class
    (found,) = model([torch.rand(3, 64, 64)])
    assert set(found["labels"].tolist()) == {2}
    torch.testing.assert_close(found["scores"], torch.full_like(found["scores"], torch.tensor(3.0).sigmoid() ** 2))
