"""What a method looks like: one colour and one marker, the same everywhere.

The table is fixed. It was found by a search, and the tests say for what: no
two methods look the same; those that a figure of the experiments draws
together differ in their markers, and in colour as well where they share a
figure of lines, also for who sees fewer colours. A colour says nothing of the
family; figures that show it write it.
"""

import hashlib
import itertools
from collections.abc import Mapping
from typing import NamedTuple

# Okabe and Ito's colours, and three of Tol's in place of yellow.
_BLUE = "#0072B2"
_VERMILION = "#D55E00"
_GREEN = "#009E73"
_PINK = "#CC79A7"
_SKY = "#56B4E9"
_ORANGE = "#E69F00"
_WINE = "#882255"
_OLIVE = "#999933"
_INDIGO = "#332288"
_BLACK = "#000000"
_GREY = "#7F7F7F"
_SILVER = "#B0B0B0"
COLOURS = (
    *(_BLUE, _VERMILION, _GREEN, _PINK, _SKY, _ORANGE, _WINE, _OLIVE),
    _INDIGO,
)
MARKERS = "osD^v<>PX*pd"
# By family, then by name; the controls are grey.
TABLE = {
    # baselines
    "logistic_regression": (_INDIGO, ">"),
    "majority": (_SILVER, "X"),
    "random_features": (_GREY, "D"),
    "scratch": (_BLACK, "s"),
    "self_supervised": (_SKY, "^"),
    # domain
    "adaptive_batch_normalization": (_VERMILION, "D"),
    "classifier_discrepancy": (_ORANGE, "d"),
    "conditional_adversarial": (_OLIVE, "X"),
    "correlation_alignment": (_INDIGO, "<"),
    "deep_adaptation": (_PINK, "s"),
    "deep_coral": (_BLUE, "^"),
    "domain_adversarial": (_WINE, "v"),
    "feature_standardization": (_OLIVE, "p"),
    "source_only": (_INDIGO, "P"),
    "subspace_alignment": (_WINE, ">"),
    "target_oracle": (_SKY, "*"),
    "transfer_component_analysis": (_GREEN, "o"),
    # feature
    "convolution_layers": (_OLIVE, "s"),
    "dense_layers": (_WINE, "P"),
    "feature_extraction": (_SKY, "o"),
    "hypercolumn": (_BLUE, "p"),
    "linear_probe": (_INDIGO, "*"),
    # finetuning
    "adapters": (_VERMILION, ">"),
    "batch_spectral_shrinkage": (_SKY, "p"),
    "bias_tuning": (_OLIVE, "<"),
    "co_tuning": (_ORANGE, "o"),
    "delta": (_INDIGO, "s"),
    "discriminative_learning_rates": (_BLUE, "d"),
    "elastic_weight_consolidation": (_PINK, "*"),
    "gradual_unfreezing": (_GREEN, "P"),
    "l2_sp": (_WINE, "^"),
    "learning_without_forgetting": (_PINK, "v"),
    "low_rank_adaptation": (_INDIGO, "o"),
    "normalization_tuning": (_SKY, "D"),
    "probe_then_fine_tune": (_VERMILION, "v"),
    "stochastic_normalization": (_WINE, "<"),
    "surgical_fine_tuning": (_BLUE, "X"),
    # fusion
    "concatenation": (_BLUE, "v"),
    "ensemble": (_INDIGO, "^"),
    "expert_features": (_ORANGE, "D"),
    "fisher_merging": (_VERMILION, "o"),
    "task_arithmetic": (_PINK, ">"),
    "ties_merging": (_WINE, "s"),
    "weighted_sum": (_SKY, "<"),
    # knowledge
    "attention_transfer": (_OLIVE, "o"),
    "distillation": (_VERMILION, "d"),
    "fitnets": (_GREEN, "p"),
    "knowledge_merge": (_SKY, "v"),
    "knowledge_transfer_network": (_WINE, "*"),
    "logic_rules": (_INDIGO, "D"),
    "multi_teacher": (_ORANGE, "X"),
    "relational_distillation": (_PINK, "P"),
    "semantic_loss": (_BLUE, "<"),
    # multitask
    "cross_stitch": (_INDIGO, "v"),
    "gradient_surgery": (_PINK, "^"),
    "hard_sharing": (_WINE, "p"),
    "soft_sharing": (_VERMILION, "<"),
    "uncertainty_weighting": (_BLUE, "*"),
    # parameter
    "fine_tuning": (_PINK, "<"),
    "interpolation": (_OLIVE, "^"),
    "layer_transfer": (_INDIGO, "X"),
    "model_soup": (_WINE, "D"),
    "nonlinear_interpolation": (_BLUE, ">"),
    "shrink_and_perturb": (_VERMILION, "s"),
    "wise_ft": (_SKY, "d"),
    # structure
    "deep_transfer_network": (_ORANGE, "*"),
    "feature_noise": (_BLUE, "P"),
    "label_mapping": (_SKY, "s"),
    "mean_variance": (_INDIGO, "d"),
    "structure_transfer": (_VERMILION, "p"),
    "weight_noise": (_WINE, "o"),
}


class Look(NamedTuple):
    """How an arm is drawn.

    Fields:
        colour: as `#RRGGBB`.
        marker: of matplotlib.
        filled: whether the marker is.
        line: of matplotlib: solid, dashed, dotted or dash-dotted.
    """

    colour: str
    marker: str
    filled: bool = True
    line: str = "-"


# What tells several arms of one method apart.
_KINDS = tuple(zip((True, False, True, False), ("-", "--", ":", "-.")))


def looks(arms: Mapping[str, str]) -> dict[str, Look]:
    """Return how each arm of a figure is drawn.

    A method that the table does not know, such as one of the user's own, gets
    a look from a hash of its name, or the next that is free in this figure.
    The first arm of a method, by its label, is filled and its line solid.

    Args:
        arms: label of an arm -> its method.

    Returns:
        a dict label -> `Look`.
    """
    plain = _plain(sorted(set(arms.values())))
    found: dict[str, Look] = {}
    counts = dict.fromkeys(plain, 0)
    for label in sorted(arms):
        method = arms[label]
        filled, line = _KINDS[counts[method] % len(_KINDS)]
        found[label] = plain[method]._replace(filled=filled, line=line)
        counts[method] += 1
    return found


def _plain(methods: list[str]) -> dict[str, Look]:
    """Return the look of each method; the table has the first choice."""
    plain = {m: Look(*TABLE[m]) for m in methods if m in TABLE}
    for method in methods:
        if method not in plain:
            plain[method] = _free(method, set(plain.values()))
    return plain


def _free(name: str, taken: set[Look]) -> Look:
    """Return the first look from a hash of `name` on that is not taken."""
    every = [Look(c, m) for c, m in itertools.product(COLOURS, MARKERS)]
    digest = hashlib.sha256(name.encode()).digest()
    start = int.from_bytes(digest[:4], "big") % len(every)
    turned = every[start:] + every[:start]
    return next((one for one in turned if one not in taken), turned[0])
