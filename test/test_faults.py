# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
import shutil

import pytest
from faults import FAULTS, run
from ros_harness import PATIENCE

pytestmark = pytest.mark.ros


@pytest.mark.parametrize('name', FAULTS)
def test_the_node_keeps_its_promises_when(name, seeded_weights, tmp_path):
    weights = shutil.copy(seeded_weights, tmp_path)
    observed = run(FAULTS[name], str(weights))
    print(observed)
    assert observed.good(PATIENCE), observed
