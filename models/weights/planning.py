"""Make the load plan: decide about every tensor of the model, before any tensor is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from models.errors import WeightsError
from models.weights.classes import shared_classes, without_background
from models.weights.containers import Checkpoint
from models.weights.contracts import contract_problems
from models.weights.darknet import with_names
from models.weights.keymaps import BACKBONE, KeyMap
from models.weights.matching import Named, Offer, Target, choose_key_map, class_counts, renamed_keys
from models.weights.plan import (
    ClassMatch,
    Coverage,
    LoadPlan,
    PlannedTensor,
    Shape,
    UnusedTensor,
    shape_text,
)
from models.weights.rows import SourceRows, as_runs, class_count, group_count, permuted_rows, row_sources
from models.weights.rules import LoadRules, excluded
from models.zoo.detector import ClassRows, Detector

_FORCE = "Another checkpoint or detector is the cure; force: true loads what fits all the same"


@dataclass(frozen=True)
class _Classes:
    """The model's class names, the checkpoint's where they are known, and whether class rows may move at all."""

    model: tuple[str, ...]
    checkpoint: tuple[str, ...] | None
    keep: bool

    def shared(self, count: int) -> dict[int, int]:
        """Model class index -> checkpoint class index for a head of ``count`` classes.

        Names decide where they are known. A head of as many classes whose names nobody knows is taken in order.
        """
        if not self.keep:
            return {}
        if self.checkpoint is not None and len(self.checkpoint) == count:
            return shared_classes(self.model, self.checkpoint)
        return {index: index for index in range(count)} if count == len(self.model) else {}

    def match(self) -> ClassMatch:
        """The lists for the plan."""
        shared = shared_classes(self.model, self.checkpoint or ()) if self.keep else {}
        return ClassMatch(self.model, self.checkpoint, tuple(self.model[index] for index in sorted(shared)))


def plan_load(
    model: nn.Module | Mapping[str, Tensor],
    detector: Detector,
    classes: Sequence[str],
    checkpoint: Checkpoint,
    rules: LoadRules | None = None,
) -> LoadPlan:
    """Plan how ``checkpoint`` moves into ``model``; nothing is written and no tensor of the model is read.

    Args:
        model: the detector, or its state dict; on the meta device both work.
        detector: its entry in the zoo.
        classes: the model's class names in label order, without the background.
        checkpoint: an opened checkpoint of any container.
        rules: what the user wants; the defaults load all that fits.

    Raises:
        WeightsError: a rule matches nothing, two tensors want one place, or (unless ``rules.force``) nothing fits, the
            backbone is covered below ``rules.min_coverage``, or the checkpoint belongs to another architecture.
    """
    rules, checkpoint = rules or LoadRules(), with_names(checkpoint)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    target = Target(detector, {key: tuple(tensor.shape) for key, tensor in state.items()}, tuple(classes))
    names = renamed_keys(checkpoint.tensors, rules.rename)
    key_map, offers, strays = choose_key_map(names, target, rules.key_map)
    known, notes = _known_classes(checkpoint, key_map, class_counts(offers, target), target)
    match = _Classes(target.classes, known, rules.classes == "keep")
    held = excluded(rules, detector, list(target.shapes))
    tensors = _together([_planned(key, target, offers.get(key), held.get(key), match) for key in target.shapes])
    problems = _problems(tensors, held, rules, names) + contract_problems(model, checkpoint, key_map)
    if problems and not rules.force:
        raise WeightsError(f"{checkpoint.path.name} does not fit {detector.name}: {'; '.join(problems)}", _FORCE)
    return LoadPlan(
        detector=detector.name,
        checkpoint=checkpoint.path.name,
        container=checkpoint.container,
        key_map=key_map.name,
        classes=match.match(),
        coverage=_coverage(tensors),
        tensors=tensors,
        unused=_unused(tensors, strays, checkpoint),
        renamed=sum(tensor.action != "skipped" and tensor.source != tensor.key for tensor in tensors),
        notes=(*notes, *(f"forced: {problem}" for problem in problems)),
    )


def is_counter(key: str) -> bool:
    """Whether a tensor only counts batches: no weight, and none of the model's knowledge."""
    return key.endswith("num_batches_tracked")


def _known_classes(
    checkpoint: Checkpoint, key_map: KeyMap, counts: set[int], target: Target
) -> tuple[tuple[str, ...] | None, list[str]]:
    """The checkpoint's class names: its own, or the published list of its framework where the count of rows fits.

    Args:
        checkpoint: for the names that it carries.
        key_map: for the lists that its framework publishes checkpoints of.
        counts: the numbers of classes that its heads have rows for.
        target: the model.
    """
    if key_map is BACKBONE:
        return None, []  # a classifier's classes are no detector's, however they are spelled
    named = without_background(checkpoint.classes) if checkpoint.classes is not None else None
    if named is not None and (not counts or counts == {len(named)}):
        return named, []
    found = ", ".join(map(str, sorted(counts)))
    notes = []
    if named is not None:
        notes.append(f"the checkpoint names {len(named)} classes but has rows for {found}: its names are not used")
    detects = target.detector.task == "detection"  # the published lists are those of detection sets
    published = key_map.published.get(next(iter(counts))) if detects and len(counts) == 1 else None
    if published is not None:
        notes.append(f"the checkpoint has rows for {found} classes: they are taken for the published list of as many")
    elif counts == {len(target.classes)}:
        notes.append(f"the checkpoint does not name its {len(target.classes)} classes: their rows are taken in order")
    return published, notes


def _planned(key: str, target: Target, offer: Offer | None, held: str | None, match: _Classes) -> PlannedTensor:
    """What happens to one tensor of the model; ``held`` is the reason of a rule that keeps it."""
    shape, detector = target.shapes[key], target.detector
    kept = PlannedTensor(key, shape, detector.part_of(key), "skipped", reason=held or "not in the checkpoint")
    if offer is None:
        return kept
    kept = replace(kept, source=offer.key)
    if held is not None:
        return kept
    layout = detector.rows_of(key)
    if layout is not None and shape[1:] == offer.shape[1:]:
        return _class_rows(kept, offer, layout, match)
    return _whole(kept, offer)


def _whole(kept: PlannedTensor, offer: Offer) -> PlannedTensor:
    """A tensor that the classes do not touch: all of it or nothing."""
    if offer.rows is not None and offer.rows.unit and kept.shape[1:] == offer.shape[1:]:
        rows = permuted_rows(offer.shape[0], offer.rows)
        if len(rows) == kept.shape[0]:
            return replace(kept, action="copied", reason=None, transpose=offer.transpose, runs=as_runs(rows))
    elif kept.shape == offer.shape:
        return replace(kept, action="copied", reason=None, transpose=offer.transpose)
    if _is_first_convolution(kept.shape, offer.shape):
        reason = f"first convolution: adapted from {offer.shape[1]} to {kept.shape[1]} channels"
        return replace(kept, action="copied", reason=reason)
    return replace(kept, reason=_shapes_differ(kept, offer))


def _is_first_convolution(shape: Shape, source: Shape) -> bool:
    """Whether the two are a convolution over the image that differ in the number of channels alone."""
    image = len(shape) == len(source) == 4 and source[1] == 3 and shape[1] != 3
    return image and shape[0] == source[0] and shape[2:] == source[2:]


def _shapes_differ(kept: PlannedTensor, offer: Offer) -> str:
    """The reason of a tensor that has another shape in the checkpoint."""
    return f"shape: {shape_text(kept.shape)} here, {shape_text(offer.shape)} in the checkpoint"


def _class_rows(kept: PlannedTensor, offer: Offer, layout: ClassRows, match: _Classes) -> PlannedTensor:
    """A class-dependent tensor: the rows of shared classes, and those that no class owns."""
    source, total = offer.rows or SourceRows(), kept.shape[0]
    groups = group_count(total, layout, len(match.model)) or 1
    count = class_count(offer.shape[0], groups, layout, source.background_beside(layout))
    if count is None:
        return replace(kept, reason=_shapes_differ(kept, offer))
    shared = match.shared(count)
    rows = row_sources(layout, groups, source, (len(match.model), count), shared)
    moved = sum(row is not None for row in rows)
    if not moved:
        return replace(kept, reason=_no_rows(kept, offer, match))
    in_order = kept.shape == offer.shape and rows == list(range(total))
    filled = replace(kept, transpose=offer.transpose, runs=() if in_order else as_runs(rows))
    if moved == total:
        return replace(filled, action="copied", reason=None)
    reason = f"{len(shared)} of {len(match.model)} classes are shared" if shared else "rows that no class owns"
    return replace(filled, action="rows", rows=(moved, total), reason=reason)


def _no_rows(kept: PlannedTensor, offer: Offer, match: _Classes) -> str:
    """Why no row of a class-dependent tensor moves."""
    if not match.keep:
        return "classes: reset"
    if match.checkpoint is None:
        return _shapes_differ(kept, offer) + ", and it does not name its classes"
    return "no shared class"


def _together(tensors: Sequence[PlannedTensor]) -> tuple[PlannedTensor, ...]:
    """Keep apart what belongs to a weight that does not fit: its bias, and the output convolution of its pyramid level.

    The pyramid of an R-CNN begins one level below a RetinaNet's. Its output convolutions all have one shape and would
    slip by a level in silence; its lateral ones are as wide as the stage they read, and tell.
    """
    odd = {tensor.key.rpartition(".")[0] for tensor in tensors if (tensor.reason or "").startswith("shape")}
    why = dict.fromkeys(odd, "goes with its weight, which has another shape")
    for layer in odd:
        if "fpn.inner_blocks." in layer:
            outer = layer.replace("inner_blocks", "layer_blocks")
            why[outer] = "another level: the lateral convolution of this level has another shape in the checkpoint"
    return tuple(_kept_with(tensor, why.get(tensor.key.rpartition(".")[0])) for tensor in tensors)


def _kept_with(tensor: PlannedTensor, reason: str | None) -> PlannedTensor:
    """The tensor skipped for ``reason``, where there is one and it is not skipped anyway."""
    if reason is None or tensor.action == "skipped":
        return tensor
    return replace(tensor, action="skipped", rows=None, reason=reason, transpose=False, runs=())


def _coverage(tensors: Sequence[PlannedTensor]) -> Coverage:
    """Shares of the model that move, without the counters."""
    weights = [tensor for tensor in tensors if not is_counter(tensor.key)]
    moved = sum(tensor.action != "skipped" for tensor in weights)
    by_part = {part: _share([t for t in weights if t.part == part]) for part in ("backbone", "neck", "head")}
    return Coverage(tensors=round(moved / max(len(weights), 1), 6), elements=_share(weights), **by_part)


def _share(tensors: Sequence[PlannedTensor]) -> float:
    """The share of the tensors' elements that move; 1 where there is no element."""
    total = sum(tensor.size for tensor in tensors)
    return round(sum(tensor.elements for tensor in tensors) / total, 6) if total else 1.0


def _problems(
    tensors: Sequence[PlannedTensor], held: Mapping[str, str], rules: LoadRules, names: Mapping[str, Named]
) -> list[str]:
    """Why the load should be refused, judged on what the rules ask for."""
    asked = [tensor for tensor in tensors if tensor.key not in held and not is_counter(tensor.key)]
    if asked and all(tensor.action == "skipped" for tensor in asked):
        mine, theirs = ", ".join(tensor.key for tensor in asked[:3]), ", ".join(list(names)[:3])
        return [f"nothing in it matches: the model's tensors are called {mine}, ..., its own {theirs}, ..."]
    backbone = _share([tensor for tensor in asked if tensor.part == "backbone"])
    if backbone < rules.min_coverage:
        return [f"it supplies {backbone:.1%} of the backbone, less than min_coverage {rules.min_coverage:.0%}"]
    return []


def _unused(
    tensors: Sequence[PlannedTensor], strays: Mapping[str, str], checkpoint: Checkpoint
) -> tuple[UnusedTensor, ...]:
    """Every tensor of the checkpoint that goes nowhere, in its order."""
    used = {tensor.source for tensor in tensors if tensor.action != "skipped"}
    reasons = dict(strays)
    for tensor in tensors:
        if tensor.source is not None and tensor.source not in used:
            reasons[tensor.source] = f"{tensor.key} is skipped, {tensor.reason}"
    stay = {key: tensor for key, tensor in checkpoint.tensors.items() if key in reasons}
    return tuple(UnusedTensor(key, tuple(tensor.shape), reasons[key]) for key, tensor in stay.items())
