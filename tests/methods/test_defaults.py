"""The defaults of every method, most of them from its paper.

A default is what a table compares. Who changes one changes it here too, and
says in the docstring of the method whose it is.
"""

import pytest

from ktransfer import methods

DEFAULTS = {
    "adapters": {"units": 64, "initial_deviation": 0.001},
    "adaptive_batch_normalization": {"from_source": False},
    "attention_transfer": {
        "strength": 1000.0,
        "blocks": None,
        "teacher_share": 0.5,
    },
    "batch_spectral_shrinkage": {"strength": 0.001, "num_values": 1},
    "bias_tuning": {},
    "classifier_discrepancy": {
        "num_generator_updates": 4,
        "head_units": 256,
        "from_source": False,
    },
    "co_tuning": {
        "strength": 2.3,
        "temperature": 1.13,
        "relationship": "reverse",
        "num_images": 2000,
        "head_learning_rate": None,
    },
    "concatenation": {"shared_units": 64, "tune_sources": False},
    "conditional_adversarial": {
        "strength": 1.0,
        "hidden_units": 100,
        "entropy_weights": False,
        "from_source": False,
    },
    "convolution_layers": {"filters": None, "kernel_size": 3},
    "correlation_alignment": {"regularization": 1.0, "penalty": 0.001},
    "cross_stitch": {
        "own_share": 0.9,
        "learned": True,
        "stitch_learning_rate": None,
        "from_source": False,
    },
    "deep_adaptation": {"strength": 1.0, "from_source": False},
    "deep_coral": {"strength": 1.0, "from_source": False},
    "deep_transfer_network": {"tune_source": False},
    "delta": {
        "strength": 0.01,
        "head_strength": 0.01,
        "temperature": 5.0,
        "probe_share": 0.2,
        "num_images": 250,
    },
    "dense_layers": {"hidden_units": 256, "train_source_dense": False},
    "discriminative_learning_rates": {"decay": 2.6},
    "distillation": {"temperature": 4.0, "strength": 0.9, "teacher_share": 0.5},
    "domain_adversarial": {
        "strength": 1.0,
        "hidden_units": 100,
        "from_source": False,
    },
    "elastic_weight_consolidation": {"strength": 100.0, "num_images": 256},
    "ensemble": {"weights": "uniform"},
    "expert_features": {
        "features": ("gradients", "moments", "symmetry", "holes")
    },
    "feature_extraction": {"layer": "features", "hidden_units": 512},
    "feature_noise": {"strength": 0.1},
    "feature_standardization": {"penalty": 0.001},
    "fine_tuning": {"head_learning_rate": None, "weight_decay": 0.0},
    "fisher_merging": {"floor": 1e-06, "num_images": 256},
    "fitnets": {
        "hint_block": "block2",
        "hint_share": 0.5,
        "temperature": 4.0,
        "strength": 0.9,
        "teacher_share": 0.5,
    },
    "gradient_surgery": {"from_source": False},
    "gradual_unfreezing": {"num_stages": None},
    "hard_sharing": {
        "source_weight": 1.0,
        "target_weight": 1.0,
        "from_source": False,
    },
    "hypercolumn": {"blocks": None, "strength": 0.0, "solver": "adam"},
    "interpolation": {"alpha": 0.5},
    "knowledge_merge": {"share": 0.5, "operator": "mean"},
    "knowledge_transfer_network": {
        "units": 64,
        "strength": 1.0,
        "layer": "features",
    },
    "l2_sp": {"strength": 0.1, "head_strength": 0.01},
    "label_mapping": {},
    "layer_transfer": {"num_blocks": 2, "freeze_copied": True},
    "learning_without_forgetting": {"strength": 0.25, "temperature": 2.0},
    "linear_probe": {"layer": "features", "strength": 0.0, "solver": "adam"},
    "logic_rules": {
        "rule": "source_agreement",
        "strictness": 6.0,
        "decay": 0.95,
        "imitation": 0.6,
        "allowed_share": 0.5,
        "imposed": False,
    },
    "logistic_regression": {"strength": 0.0001},
    "low_rank_adaptation": {"rank": 8, "alpha": 8.0, "targets": None},
    "majority": {},
    "mean_variance": {},
    "model_soup": {"num_members": 3, "greedy": True},
    "multi_teacher": {
        "weights": "uniform",
        "temperature": 4.0,
        "strength": 0.9,
        "teacher_share": 0.5,
    },
    "nonlinear_interpolation": {
        "alpha": 0.5,
        "function": "tanh",
        "scale": 3.0,
        "threshold": 0.01,
        "share": 0.5,
    },
    "normalization_tuning": {},
    "probe_then_fine_tune": {"probe_share": 0.5},
    "random_features": {"layer": "features", "hidden_units": 512},
    "relational_distillation": {
        "distance_strength": 25.0,
        "angle_strength": 50.0,
        "teacher_share": 0.5,
    },
    "scratch": {},
    "self_supervised": {"pretext_share": 0.5},
    "semantic_loss": {
        "strength": 0.0005,
        "constraint": "likely_classes",
        "allowed_share": 0.5,
    },
    "shrink_and_perturb": {"shrink": 0.4, "perturb": 0.1},
    "soft_sharing": {"strength": 0.001, "from_source": False},
    "source_only": {"from_source": False},
    "stochastic_normalization": {
        "probability": 0.5,
        "momentum": 0.9,
        "head_learning_rate": None,
    },
    "structure_transfer": {},
    "subspace_alignment": {"num_components": 64, "penalty": 0.001},
    "surgical_fine_tuning": {"block": None},
    "target_oracle": {"from_source": False},
    "task_arithmetic": {"strength": None},
    "ties_merging": {"density": 0.2, "strength": 1.0},
    "transfer_component_analysis": {
        "num_components": 64,
        "regularization": 1.0,
        "max_images": 1500,
        "standardize": False,
        "penalty": 0.001,
    },
    "uncertainty_weighting": {
        "initial": -0.5,
        "learned": True,
        "from_source": False,
    },
    "weight_noise": {"strength": 0.15},
    "weighted_sum": {
        "shared_units": 64,
        "activation": "relu",
        "weights": None,
        "tune_sources": False,
    },
    "wise_ft": {"alpha": 0.5, "probe_share": 0.5},
}


def test_every_method_is_here():
    assert set(DEFAULTS) == set(methods.names())


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_these(name):
    known = methods.describe(name).hyperparameters
    own = {k: v for k, v in known.items() if k not in methods.TRAINING}
    assert own == DEFAULTS[name]


def test_the_options_of_training_are_these():
    assert methods.TRAINING == {
        "learning_rate": 0.001,
        "batch_size": 64,
        "optimizer": "adam",
        "schedule": "constant",
        "precision": "float32",
        "statistics": "reestimated",
    }
