"""All kinds of findings, with what they mean and what to do. Within a grade they are told in this order."""

from __future__ import annotations

from curation.findings import boxes, classes, network, pictures
from curation.findings.finding import Kind
from curation.findings.labels import fault_kinds, nothing_to_learn

KINDS: tuple[Kind, ...] = (
    Kind(
        "nothing-to-learn", "splits whose labels cannot be used", "error",
        "No label of the split was understood, or all of them mean something else.",
        "the sentence says what was found in their place", nothing_to_learn,
    ),
    Kind(
        "missing-split", "splits that are missing", "warning",
        "train.py learns from train and measures on val; it needs both.",
        "part the pictures: python dataset.py split", pictures.missing_split,
    ),
    Kind(
        "shared-files", "pictures that two splits share", "error",
        "What is measured on pictures that were learnt from says nothing about new ones.",
        "take them out of one of the splits", pictures.shared_files,
    ),
    Kind(
        "copies-across", "copies in two splits", "error",
        "The same picture under another name: what is measured on it was learnt by heart.",
        "remove one of each pair", pictures.copies_across,
    ),
    Kind(
        "alike-across", "pictures that look alike in two splits", "warning",
        "Frames of one video, or a picture saved again, in both: results are better than they will be.",
        "keep all frames of a scene in one split", pictures.alike_across, needs="looks",
    ),
    Kind(
        "alike-names", "class names that are alike", "error",
        "One thing under two names: each class teaches the network not to find the other.",
        "give both the same number and name", classes.alike_names,
    ),
    Kind(
        "blank-names", "class names with blanks around them", "warning",
        "Such a name is not found by those who look for it without the blank.",
        "take the blanks out of the data yaml", classes.blank_names,
    ),
    Kind(
        "absent-in-train", "classes that train lacks", "error",
        "The other splits have labels of them, and nothing can be learnt about them.",
        "part the pictures anew, or leave the classes out", classes.absent_in_train,
    ),
    Kind(
        "absent-in-val", "classes that val lacks", "warning",
        "They are learnt, and P, R and mAP say nothing about them.",
        "move some of their pictures to val", classes.absent_in_val,
    ),
    Kind(
        "rare-classes", f"classes with fewer than {classes.FEW} labels in train", "warning",
        "Hardly anything can be learnt from so few.",
        "label more of them, or join them with another class", classes.rare,
    ),
    Kind(
        "without-labels", "classes without any label", "note",
        "The network gets outputs for them that never speak.",
        "look whether labels are missing, or take the names out", classes.without_labels,
    ),
    Kind(
        "class-balance", "classes far behind the most frequent", "note",
        f"It has more than {classes.UNEVEN} times their labels in train; rare classes are learnt late.",
        "add pictures of the rare ones; train.py --image-weights shows them more often", classes.uneven,
    ),
    Kind(
        "likely-swapped", "labels that look like another class", "warning",
        "The network is sure of another class at the place of the label.",
        "look at them, the likeliest first", network.swapped, needs="network",
    ),
    Kind(
        "likely-overlooked", "objects that seem to have no label", "warning",
        "The network is sure of an object where there is no label; each teaches it to overlook such objects.",
        "look at them, the likeliest first", network.overlooked, needs="network",
    ),
    Kind(
        "likely-misplaced", "boxes that seem to be badly drawn", "warning",
        "The network sees the object of the label elsewhere, or of another size (blue).",
        "look at them, the likeliest first", network.misplaced, needs="network",
    ),
    Kind(
        "likely-spurious", "labels at which nothing is seen", "note",
        "The network sees nothing there; large ones are likely faults, small ones may just be hard.",
        "look at them, the largest first", network.unseen, needs="network",
    ),
    Kind(
        "undecodable", "pictures that cannot be decoded", "error",
        "Their beginning is sound and the rest is not.",
        "copy them again from their source, or take them out", pictures.undecodable,
    ),
    *fault_kinds(),
    Kind(
        "unlabelled", "pictures without a label file", "note",
        "They are learnt as pictures of nothing. If there is something on them, it is learnt to be nothing.",
        "label them, or give those that are meant so an empty label file", pictures.unlabelled,
    ),
    Kind(
        "copies-within", "copies within a split", "warning",
        "The same picture twice counts twice; with other labels, one of them is wrong.",
        "remove one of each pair", pictures.copies_within,
    ),
    Kind(
        "listed-twice", "pictures that a split has twice", "warning",
        "A list names them twice, or two ways lead to them.",
        "take one of them out", pictures.listed_twice,
    ),
    Kind(
        "alike-within", "pictures that look alike within a split", "note",
        "Frames of one scene teach little more than one of them.",
        "keep every tenth frame of a video", pictures.alike_within, needs="looks",
    ),
    Kind(
        "doubled", "boxes that lie on another of their class", "warning",
        f"Two labels for one object (IoU above {boxes.SAME}): one of them can never be found.",
        "remove one of them", boxes.doubled,
    ),
    Kind(
        "contradicting", "boxes of two classes at one place", "note",
        "Two names for one object, unless objects may be both.",
        "keep the right one", boxes.contradicting,
    ),
    Kind(
        "anchors", "boxes that match no anchor", "warning",
        "A box whose sides are more than four times as long or short as those of every anchor is not learnt.",
        "let train.py find better anchors, as it does without --noautoanchor; raise --imgsz", boxes.anchors,
    ),
    Kind(
        "tiny", f"boxes of {boxes.MIN_SIDE:g} pixels or less", "warning",
        "At the size of training nothing is left of them.",
        "raise --imgsz, cut the pictures into tiles, or remove the boxes", boxes.tiny,
    ),
    Kind(
        "small", "boxes smaller than a cell of the finest stride", "note",
        "Several of them can fall into one cell, which tells few apart.",
        "raise --imgsz, or take a network with a finer level: yolov5-p2", boxes.small,
    ),
    Kind(
        "huge", "boxes as large as the picture", "note",
        "Either a thing that fills the picture, or a label of the picture that has no box.",
        "look at them", boxes.huge,
    ),
    Kind(
        "slivers", f"boxes {boxes.SLIVER:g} times as long as wide", "note",
        "Often a slip of the mouse.",
        "look at them", boxes.slivers,
    ),
    Kind(
        "one-corner", "boxes all in one part of the picture", "note",
        "The network learns where to look. Elsewhere it will find nothing.",
        "fine when the camera stands still; else look whether labels give corners in place of centres",
        boxes.one_corner,
    ),
)  # fmt: skip
