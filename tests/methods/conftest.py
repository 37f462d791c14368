"""Methods are tested untraced: a trace costs more than their few steps."""

import pytest


def pytest_collectstart(collector):
    """Mark the modules of this folder, the only ones this hook is told of."""
    collector.add_marker(pytest.mark.eager)
